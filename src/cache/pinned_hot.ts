import type { CachePolicy, PolicyShape } from "./policy.ts";
import { SlotLists } from "./slot_lists.ts";

/** Rows, the first to go first. */
const WINDOW = 0;
const PINNED = 1;
const USED = 2;
const EXPECTED = 3;

/** Of the slots, what the hottest neurons hold. */
const PINNED_SHARE = 0.5;
/** Steps after which it is settled anew which neurons are hot; half of a count is forgotten then. */
const EPOCH_STEPS = 128;

/**
 * Pinned hot neurons plus a window: the neurons that were used most often stay, the rest of the slots slides with the last
 * `window` steps. What is hot is learned while running, and settled anew every 128 steps.
 */
export class PinnedHot implements CachePolicy {
  readonly #rows: SlotLists;
  readonly #window: number;
  readonly #pinnedMax: number;
  readonly #neuronOf: Int32Array;
  readonly #lastUse: Int32Array;
  /** Of each neuron: uses, halved every epoch; the step of the last one; whether it is hot. */
  readonly #uses: Float64Array;
  readonly #lastCounted: Int32Array;
  readonly #isHot: Uint8Array;
  /** Uses in quarters, counted: to find how many a hot neuron has, without sorting. */
  readonly #histogram = new Int32Array(4 * 2 * EPOCH_STEPS + 1);
  #steps = 0;

  constructor({ slotCount, neuronCount }: PolicyShape, window: number) {
    this.#rows = new SlotLists(slotCount, 4);
    this.#window = window;
    this.#pinnedMax = Math.floor(PINNED_SHARE * slotCount);
    this.#neuronOf = new Int32Array(slotCount);
    this.#lastUse = new Int32Array(slotCount);
    this.#uses = new Float64Array(neuronCount);
    this.#lastCounted = new Int32Array(neuronCount).fill(-1);
    this.#isHot = new Uint8Array(neuronCount);
  }

  admit(slot: number, neuron: number, step: number): void {
    this.#neuronOf[slot] = neuron;
    this.#lastUse[slot] = step;
    this.#rows.append(slot, EXPECTED);
  }

  use(slot: number, step: number): void {
    const neuron = this.#neuronOf[slot];
    if (this.#lastCounted[neuron] !== step) this.#uses[neuron]++;
    this.#lastCounted[neuron] = step;
    this.#lastUse[slot] = step;
    this.#rows.append(slot, USED);
  }

  expect(slot: number, step: number): void {
    this.#lastUse[slot] = step;
    this.#rows.append(slot, EXPECTED);
  }

  remove(slot: number): void {
    this.#rows.remove(slot);
  }

  first(): number {
    return this.#rows.firstFrom(WINDOW);
  }

  after(slot: number): number {
    return this.#rows.afterInRows(slot);
  }

  endPass(): void {
    this.#sort(USED);
  }

  endStep(): void {
    if (++this.#steps % EPOCH_STEPS === 0) this.#settle();
    this.#sort(USED);
    this.#sort(EXPECTED);
  }

  /** Only what is not pinned leaves the window. */
  expired(step: number): number {
    const first = this.#rows.first(WINDOW);
    return first >= 0 && step - this.#lastUse[first] >= this.#window ? first : -1;
  }

  #sort(from: number): void {
    for (let slot; (slot = this.#rows.first(from)) >= 0;) {
      this.#rows.append(slot, this.#isHot[this.#neuronOf[slot]] === 1 ? PINNED : WINDOW);
    }
  }

  /** The neurons with the most uses are hot, as many as may be pinned. O(neurons), once an epoch. */
  #settle(): void {
    const histogram = this.#histogram.fill(0), uses = this.#uses, isHot = this.#isHot;
    const top = histogram.length - 1;
    for (let neuron = 0; neuron < uses.length; neuron++) {
      histogram[Math.min(top, Math.floor(4 * uses[neuron]))]++;
    }
    let least = top, count = 0;
    while (least > 0 && count + histogram[least] <= this.#pinnedMax) count += histogram[least--];
    for (let neuron = 0; neuron < uses.length; neuron++) {
      isHot[neuron] = Math.min(top, Math.floor(4 * uses[neuron])) > least ? 1 : 0;
      uses[neuron] /= 2;
    }
    // Those that cooled down join the window as if just used; those that are hot now leave it when they are used.
    for (let slot = this.#rows.first(PINNED); slot >= 0;) {
      const next = this.#rows.after(slot);
      if (isHot[this.#neuronOf[slot]] === 0) this.#rows.append(slot, WINDOW);
      slot = next;
    }
  }
}
