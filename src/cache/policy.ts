/**
 * Which neuron leaves a layer's slots: the one decision of the cache that is a matter of policy. A policy knows slots,
 * the neurons in them and steps (tokens) only, allocates nothing after it was made, and never changes a result: only
 * what is read. All operations are O(1), `after` in the mean over a walk.
 */
export interface CachePolicy {
  /** `slot`, which held nothing, is given to `neuron` in step `step`. Steps never go back. */
  admit(slot: number, neuron: number, step: number): void;

  /** The neuron in `slot` is used in step `step`, perhaps not for the first time in it. */
  use(slot: number, step: number): void;

  /**
   * The neuron in `slot` will probably be used in step `step`: it should be named after those of which nobody says so. A
   * hint, so that whoever looks for a slot need not skip many.
   */
  expect(slot: number, step: number): void;

  /** `slot` no longer holds a neuron. */
  remove(slot: number): void;

  /** The slot to give up first, or -1; and the one to give up after `slot`, or -1. */
  first(): number;
  after(slot: number): number;

  /** A pass is over, but not its list: what was used takes its place among those that may go. */
  endPass(): void;

  /** Step `step` is over: what was expected does so too. */
  endStep(step: number): void;

  /** The slot whose neuron is out of the policy's reach after step `step`, if any, or -1: asked until it says -1. */
  expired(step: number): number;
}

/** What a policy must know of its layer. */
export interface PolicyShape {
  slotCount: number;
  neuronCount: number;
}

/** Makes the policy of a layer. */
export type PolicyFactory = (shape: PolicyShape) => CachePolicy;
