/**
 * Which neuron leaves a layer's slots: the one decision of the cache that is a matter of policy. A policy knows slots
 * and steps (tokens) only, allocates nothing after it was made, and never changes a result: only what is read.
 */
export interface CachePolicy {
  /** The neuron in `slot` is used (or was just admitted) in step `step`. Steps never go back. */
  use(slot: number, step: number): void;

  /** `slot` no longer holds a neuron. */
  remove(slot: number): void;

  /** The slot to give up first, or -1; and the one to give up after `slot`, or -1. */
  first(): number;
  after(slot: number): number;

  /** The slot whose neuron is out of the policy's reach after step `step`, if any, or -1: asked until it says -1. */
  expired(step: number): number;
}

/** Makes the policy of a layer with `slotCount` slots. */
export type PolicyFactory = (slotCount: number) => CachePolicy;
