import type { CachePolicy, PolicyShape } from "./policy.ts";
import { SlotLists } from "./slot_lists.ts";

/** Rows, the first to go first; the last two as in `DecayedFrequency`. */
const PROBATION = 0;
const PROTECTED = 1;
const USED = 2;
const EXPECTED = 3;

/** Of the slots, what neurons that were used more than once may hold. */
const PROTECTED_SHARE = 0.8;

/**
 * Segmented LRU (Karedla et al. 1994): a neuron is on probation until it is used in a second step while in memory, and
 * leaves before those that were. The protected part is bounded; who was longest unused in it goes back on probation.
 */
export class SegmentedLru implements CachePolicy {
  readonly #rows: SlotLists;
  readonly #protectedMax: number;
  #protectedCount = 0;
  /** Of each slot: the step of its neuron's last use (-1: none yet), and whether it was used in two. */
  readonly #lastUse: Int32Array;
  readonly #isProtected: Uint8Array;

  constructor({ slotCount }: Pick<PolicyShape, "slotCount">) {
    this.#rows = new SlotLists(slotCount, 4);
    this.#protectedMax = Math.floor(PROTECTED_SHARE * slotCount);
    this.#lastUse = new Int32Array(slotCount);
    this.#isProtected = new Uint8Array(slotCount);
  }

  admit(slot: number, _neuron: number, _step: number): void {
    this.#lastUse[slot] = -1;
    this.#isProtected[slot] = 0;
    this.#rows.append(slot, EXPECTED);
  }

  use(slot: number, step: number): void {
    if (this.#lastUse[slot] >= 0 && this.#lastUse[slot] !== step && this.#isProtected[slot] === 0) {
      this.#isProtected[slot] = 1;
      this.#protectedCount++;
    }
    this.#lastUse[slot] = step;
    this.#rows.append(slot, USED);
  }

  expect(slot: number): void {
    this.#rows.append(slot, EXPECTED);
  }

  remove(slot: number): void {
    if (this.#isProtected[slot] === 1) this.#protectedCount--;
    this.#isProtected[slot] = 0;
    this.#rows.remove(slot);
  }

  first(): number {
    return this.#rows.firstFrom(PROBATION);
  }

  after(slot: number): number {
    return this.#rows.afterInRows(slot);
  }

  endPass(): void {
    this.#sort(USED);
  }

  endStep(): void {
    this.#sort(USED);
    this.#sort(EXPECTED);
  }

  expired(): number {
    return -1;
  }

  #sort(from: number): void {
    for (let slot; (slot = this.#rows.first(from)) >= 0;) {
      this.#rows.append(slot, this.#isProtected[slot] === 1 ? PROTECTED : PROBATION);
    }
    while (this.#protectedCount > this.#protectedMax) {
      const slot = this.#rows.first(PROTECTED);
      // What is protected may be in use just now: its turn comes at the end of the step.
      if (slot < 0) return;
      this.#isProtected[slot] = 0;
      this.#protectedCount--;
      this.#rows.append(slot, PROBATION);
    }
  }
}
