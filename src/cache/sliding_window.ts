import type { CachePolicy, PolicyShape } from "./policy.ts";
import { SlotLists } from "./slot_lists.ts";

/**
 * The paper's sliding window (section 3.1.1): the neurons used in the last `window` steps stay, others leave. With 0 nothing stays; with
 * `window` Infinity it slides as far back as the slots reach: LRU. Slots form one row from the longest unused to the last used.
 */
export class SlidingWindow implements CachePolicy {
  readonly #window: number;
  readonly #row: SlotLists;
  readonly #lastUse: Int32Array;

  /** @param window steps; Infinity for as long as there is room, 0 for the step at hand alone. */
  constructor({ slotCount }: Pick<PolicyShape, "slotCount">, window: number) {
    if (!(window >= 0)) {
      throw new RangeError(
        `Cannot create window as it must have 0 steps or more: received ${window}`,
      );
    }
    this.#window = window;
    this.#row = new SlotLists(slotCount, 1);
    this.#lastUse = new Int32Array(slotCount);
  }

  admit(slot: number, _neuron: number, step: number): void {
    this.use(slot, step);
  }

  use(slot: number, step: number): void {
    this.#row.append(slot, 0);
    this.#lastUse[slot] = step;
  }

  expect(slot: number, step: number): void {
    this.use(slot, step);
  }

  remove(slot: number): void {
    this.#row.remove(slot);
  }

  first(): number {
    return this.#row.first(0);
  }

  after(slot: number): number {
    return this.#row.after(slot);
  }

  endPass(): void {}

  endStep(): void {}

  expired(step: number): number {
    const first = this.first();
    return first >= 0 && step - this.#lastUse[first] >= this.#window ? first : -1;
  }
}
