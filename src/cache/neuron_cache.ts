import type { CachePolicy } from "./policy.ts";

/** Where a layer's slots are: `count` slots and their landing flags, `words[flag + slot]`. */
export interface SlotRange {
  count: number;
  /** Index into the control words of the flag of slot 0. */
  flagWord: number;
}

/** Stands in `admit` for a list when none wants anything; differs from the mark of a slot that no list wants. */
export const NO_LIST = -2;

/** Words of a slot, of which the first is its neuron. */
const SLOT_WORDS = 4;
const ADMITTED_STEP = 1;
const PASS = 2;
const WANTED_BY = 3;

/** Mark of a slot whose neuron no list wants. */
const UNWANTED = -1;

/**
 * Which neurons of one layer are in memory, and where: the paper's DRAM manager (section 3.3) with a list
 * of addresses in place of compaction, so that nothing is ever copied. Owned by the predictor worker; allocates nothing after it was made.
 *
 * A slot is free, or holds a neuron; its landing flag (shared) says whether the bytes are there. A slot must not be taken away
 *   - while its read is in flight (flag 0),
 *   - while lanes may compute from it (pinned by a pass that is not done),
 *   - if the list at hand still wants it (unless nothing else is left).
 */
export class NeuronCache {
  readonly slotCount: number;
  readonly #policy: CachePolicy;
  readonly #words: Int32Array;
  readonly #flagWord: number;
  /** Slot of each neuron, or -1. */
  readonly #slotOf: Int32Array;
  /**
   * Of each slot: its neuron, or -1; the step in which its read was begun; the pass that used it last, until which is done it is in use;
   * and the list that wants its neuron and has not passed it yet. Side by side, as they are fetched from memory together.
   */
  readonly #slots: Int32Array;
  /** Stack of free slots. */
  readonly #free: Int32Array;
  #freeCount = 0;
  #limit: number;
  evictions = 0;

  constructor(neuronCount: number, slots: SlotRange, policy: CachePolicy, words: Int32Array) {
    this.slotCount = slots.count;
    this.#limit = slots.count;
    this.#policy = policy;
    this.#words = words;
    this.#flagWord = slots.flagWord;
    this.#slotOf = new Int32Array(neuronCount).fill(-1);
    this.#slots = new Int32Array(SLOT_WORDS * slots.count).fill(-1);
    this.#free = new Int32Array(slots.count);
    for (let slot = slots.count - 1; slot >= 0; slot--) this.#free[this.#freeCount++] = slot;
  }

  /** Slots that may hold a neuron: those below. */
  get limit(): number {
    return this.#limit;
  }

  /**
   * Slots from `limit` on hold no neuron from now on, as their bytes are another's; below, slots that were given up are free again.
   * No slot that is given up may be in use or in flight.
   */
  setLimit(limit: number): void {
    for (let slot = limit; slot < this.#limit; slot++) {
      if (this.#slots[SLOT_WORDS * slot] >= 0) this.#evict(slot);
    }
    let count = 0;
    for (let i = 0; i < this.#freeCount; i++) {
      if (this.#free[i] < limit) this.#free[count++] = this.#free[i];
    }
    for (let slot = limit - 1; slot >= this.#limit; slot--) this.#free[count++] = slot;
    this.#freeCount = count;
    this.#limit = limit;
  }

  /** Whether all of the slots from `from` on that hold a neuron have landed. */
  haveLandedFrom(from: number): boolean {
    for (let slot = from; slot < this.#limit; slot++) {
      if (this.#slots[SLOT_WORDS * slot] >= 0 && !this.hasLanded(slot)) return false;
    }
    return true;
  }

  /** All neurons are in memory already, neuron i in slot i: nothing will ever be read. */
  fillCompletely(): void {
    for (let slot = 0; slot < this.slotCount; slot++) {
      this.#slotOf[slot] = slot;
      this.#slots[SLOT_WORDS * slot] = slot;
    }
    this.#freeCount = 0;
  }

  /** Slots that hold a neuron, landed or not. */
  get residentCount(): number {
    return this.#limit - this.#freeCount;
  }

  /** Slot of `neuron`, or -1. Its bytes may be still on the way: see `hasLanded`. */
  find(neuron: number): number {
    return this.#slotOf[neuron];
  }

  /** Neuron of `slot`, or -1. */
  neuronIn(slot: number): number {
    return this.#slots[SLOT_WORDS * slot];
  }

  hasLanded(slot: number): boolean {
    return Atomics.load(this.#words, this.#flagWord + slot) !== 0;
  }

  /** The bytes of `slot` are there. */
  land(slot: number): void {
    Atomics.store(this.#words, this.#flagWord + slot, 1);
  }

  admittedStep(slot: number): number {
    return this.#slots[SLOT_WORDS * slot + ADMITTED_STEP];
  }

  /** The list numbered `list`, of step `step`, will come to the neuron in `slot`. */
  want(slot: number, step: number, list: number): void {
    this.#policy.expect(slot, step);
    this.#slots[SLOT_WORDS * slot + WANTED_BY] = list;
  }

  /** The neuron in `slot` is used in `step` by pass `pass`, which holds the slot until it is done. */
  use(slot: number, step: number, pass: number): void {
    this.#policy.use(slot, step);
    this.#slots[SLOT_WORDS * slot + PASS] = pass;
    this.#slots[SLOT_WORDS * slot + WANTED_BY] = UNWANTED;
  }

  /** The neuron in `slot` will probably be used in `step`: it should not make room for others. */
  refresh(slot: number, step: number): void {
    this.#policy.expect(slot, step);
  }

  /**
   * Gives `neuron` a slot, free or taken from a neuron that may go; returns it with its flag down, or -1 if
   * every slot is in use, in flight or wanted. The caller reads the bundle into it.
   *
   * @param passesDone passes up to this number are done by all lanes
   * @param list neurons that this list wants stay, unless `desperate`; `NO_LIST` if none is at hand
   */
  admit(
    neuron: number,
    step: number,
    { passesDone, list, desperate }: { passesDone: number; list: number; desperate: boolean },
  ): number {
    let slot: number;
    if (this.#freeCount > 0) slot = this.#free[--this.#freeCount];
    else {
      slot = this.#victim(passesDone, list);
      if (slot < 0 && desperate) slot = this.#victim(passesDone, NO_LIST);
      if (slot < 0) return -1;
      this.#evict(slot);
    }
    this.#slotOf[neuron] = slot;
    this.#slots[SLOT_WORDS * slot] = neuron;
    this.#slots[SLOT_WORDS * slot + ADMITTED_STEP] = step;
    this.#policy.admit(slot, neuron, step);
    Atomics.store(this.#words, this.#flagWord + slot, 0);
    return slot;
  }

  /** A pass is over, but not its list: what it used may make room for the rest, once it is done. */
  endPass(): void {
    this.#policy.endPass();
  }

  /** The step is over: neurons that are out of the policy's reach free their slots. */
  endStep(step: number, passesDone: number): void {
    this.#policy.endStep(step);
    for (;;) {
      const slot = this.#policy.expired(step);
      // In flight or in use: it goes at the end of a later step.
      if (slot < 0 || !this.#mayGo(slot, passesDone, NO_LIST)) return;
      this.#evict(slot);
      this.#free[this.#freeCount++] = slot;
    }
  }

  #victim(passesDone: number, list: number): number {
    const policy = this.#policy;
    for (let slot = policy.first(); slot >= 0; slot = policy.after(slot)) {
      if (this.#mayGo(slot, passesDone, list)) return slot;
    }
    return -1;
  }

  #mayGo(slot: number, passesDone: number, list: number): boolean {
    return this.#slots[SLOT_WORDS * slot + WANTED_BY] !== list &&
      ((this.#slots[SLOT_WORDS * slot + PASS] - passesDone) | 0) <= 0 &&
      this.hasLanded(slot);
  }

  #evict(slot: number): void {
    this.#policy.remove(slot);
    this.#slotOf[this.#slots[SLOT_WORDS * slot]] = -1;
    this.#slots[SLOT_WORDS * slot] = -1;
    this.#slots[SLOT_WORDS * slot + WANTED_BY] = UNWANTED;
    this.evictions++;
  }
}
