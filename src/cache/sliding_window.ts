import type { CachePolicy } from "./policy.ts";

/**
 * The paper's sliding window (section 3.1.1): the neurons used in the last `window` steps stay, others leave. With
 * `window` Infinity it slides as far back as the slots reach.
 *
 * Slots form a list from the longest unused to the last used: `#next[slotCount]` is the first to go. All operations are O(1).
 */
export class SlidingWindow implements CachePolicy {
  readonly #window: number;
  /** The list's end; also what stands for "no slot" inside the links. */
  readonly #end: number;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #lastUse: Int32Array;

  /** @param window steps, at least 1; Infinity for as long as there is room. */
  constructor(slotCount: number, window: number) {
    if (!(window >= 1)) {
      throw new RangeError(
        `Cannot create window as it must have at least 1 step: received ${window}`,
      );
    }
    this.#window = window;
    this.#end = slotCount;
    this.#next = new Int32Array(slotCount + 1).fill(-1);
    this.#previous = new Int32Array(slotCount + 1).fill(-1);
    this.#lastUse = new Int32Array(slotCount);
    this.#next[slotCount] = slotCount;
    this.#previous[slotCount] = slotCount;
  }

  use(slot: number, step: number): void {
    if (this.#next[slot] !== -1) this.remove(slot);
    const last = this.#previous[this.#end];
    this.#next[last] = slot;
    this.#previous[slot] = last;
    this.#next[slot] = this.#end;
    this.#previous[this.#end] = slot;
    this.#lastUse[slot] = step;
  }

  remove(slot: number): void {
    const next = this.#next[slot], previous = this.#previous[slot];
    this.#next[previous] = next;
    this.#previous[next] = previous;
    this.#next[slot] = -1;
    this.#previous[slot] = -1;
  }

  first(): number {
    return this.after(this.#end);
  }

  after(slot: number): number {
    const next = this.#next[slot];
    return next === this.#end ? -1 : next;
  }

  expired(step: number): number {
    const first = this.first();
    return first >= 0 && step - this.#lastUse[first] >= this.#window ? first : -1;
  }
}
