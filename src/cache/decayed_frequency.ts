import type { CachePolicy, PolicyShape } from "./policy.ts";
import { SlotLists } from "./slot_lists.ts";

/** Rows a halving of the score: neurons in one row differ by less than 5 %. */
const ROWS_PER_HALVING = 16;
/** 16 halvings from the first row to the last; what decays further stays in the first. */
const ROW_COUNT = 256;
/** Rows of what was used in this pass, and of what is expected in this step: named last. */
const USED = ROW_COUNT;
const EXPECTED = ROW_COUNT + 1;

const HALF_LIFE = 4;
const HALF_LIFE_MAX = 4096;

/** Scores are looked up in steps of 1/8, from 1 (a neuron that was just used) up. */
const SCORE_STEPS = 8;

/**
 * Decayed frequency: each use of a neuron counts 1, and half of that `halfLife` steps later (LRFU: Lee et al. 2001, with
 * the history of evicted neurons kept). The lowest sum goes first; among equals the one that was longest in its row.
 *
 * All sums decay alike, so their order changes by uses alone, and a logarithm that does not decay can stand for a sum:
 * log2(sum at its last use) + (that step / halfLife). Its upper bits choose one of a ring of rows, which is
 * as near as the order must be:
 *
 *   row   low       low + 1   ...          now      ...       | used        | expected
 *         hardly    once,                  once,    often,    | in the pass | in the step
 *         ever      long ago               now      now       | at hand     | at hand
 */
export class DecayedFrequency implements CachePolicy {
  readonly #rows: SlotLists;
  readonly #rowsPerStep: number;
  /** What is left of a use after so many steps. */
  readonly #decay: Float64Array;
  /** Rows above the row of a score of 1, by score in steps of 1/8. */
  readonly #rowOfScore: Uint8Array;
  /** Each neuron's sum as of its last use, and when that was; kept when it leaves. */
  readonly #score: Float64Array;
  readonly #lastUse: Float64Array;
  /** Neuron of each slot. */
  readonly #neuronOf: Int32Array;
  /** Steps since the beginning; steps may wrap, this does not. */
  #now = 0;
  #step = 0;
  /** The lowest row (not taken modulo `ROW_COUNT`), and one below which all are empty. */
  #low = 0;
  #lowest = 0;

  /** @param halfLife steps */
  constructor({ slotCount, neuronCount }: PolicyShape, halfLife = HALF_LIFE) {
    if (!(Number.isInteger(halfLife) && halfLife >= 1 && halfLife <= HALF_LIFE_MAX)) {
      throw new RangeError(
        `Cannot halve a frequency every ${halfLife} steps: a whole number from 1 to ${HALF_LIFE_MAX}`,
      );
    }
    this.#rows = new SlotLists(slotCount, ROW_COUNT + 2);
    this.#rowsPerStep = ROWS_PER_HALVING / halfLife;
    const decayPerStep = 2 ** (-1 / halfLife), scoreMax = 1 / (1 - decayPerStep);
    this.#decay = Float64Array.from({ length: 16 * halfLife }, (_, k) => decayPerStep ** k);
    this.#rowOfScore = Uint8Array.from(
      { length: Math.ceil(scoreMax * SCORE_STEPS) + 1 },
      (_, k) => Math.floor(ROWS_PER_HALVING * Math.log2(Math.max(1, k / SCORE_STEPS))),
    );
    this.#score = new Float64Array(neuronCount);
    this.#lastUse = new Float64Array(neuronCount).fill(-Infinity);
    this.#neuronOf = new Int32Array(slotCount);
    this.#raiseLow();
  }

  admit(slot: number, neuron: number, step: number): void {
    this.#neuronOf[slot] = neuron;
    this.expect(slot, step);
  }

  use(slot: number, step: number): void {
    this.#advance(step);
    const neuron = this.#neuronOf[slot], elapsed = this.#now - this.#lastUse[neuron];
    if (elapsed > 0) {
      const left = elapsed < this.#decay.length ? this.#decay[elapsed] : 0;
      this.#score[neuron] = 1 + left * this.#score[neuron];
      this.#lastUse[neuron] = this.#now;
    }
    this.#rows.append(slot, USED);
  }

  expect(slot: number, step: number): void {
    this.#advance(step);
    this.#rows.append(slot, EXPECTED);
  }

  remove(slot: number): void {
    this.#rows.remove(slot);
  }

  first(): number {
    return this.#firstFrom(this.#lowest);
  }

  after(slot: number): number {
    const next = this.#rows.after(slot);
    if (next >= 0) return next;
    const row = this.#rows.rowEndedBy(slot);
    if (row === EXPECTED) return -1;
    return row === USED ? this.#rows.first(EXPECTED) : this.#firstFrom(this.#unwrap(row) + 1);
  }

  endPass(): void {
    this.#sort(USED);
  }

  endStep(step: number): void {
    this.#advance(step);
    this.#sort(USED);
    this.#sort(EXPECTED);
  }

  expired(): number {
    return -1;
  }

  /** Puts the slots of `from` into the rows of their sums. */
  #sort(from: number): void {
    for (let slot; (slot = this.#rows.first(from)) >= 0;) {
      const row = this.#rowOf(this.#neuronOf[slot]);
      this.#rows.append(slot, row % ROW_COUNT);
      if (row < this.#lowest) this.#lowest = row;
    }
  }

  #rowOf(neuron: number): number {
    const score = this.#rowOfScore[Math.floor(SCORE_STEPS * this.#score[neuron])];
    const row = Math.floor(this.#rowsPerStep * this.#lastUse[neuron]) + score;
    return row > this.#low ? row : this.#low;
  }

  /** The first slot in the rows from `row` up, then in those of the pass and the step, or -1. */
  #firstFrom(row: number): number {
    const end = this.#low + ROW_COUNT, isLowest = row === this.#lowest;
    while (row < end && this.#rows.isEmpty(row % ROW_COUNT)) row++;
    if (isLowest) this.#lowest = row;
    if (row < end) return this.#rows.first(row % ROW_COUNT);
    return this.#rows.first(this.#rows.isEmpty(USED) ? EXPECTED : USED);
  }

  /** The row whose place in the ring is `place`. */
  #unwrap(place: number): number {
    const above = place - this.#low % ROW_COUNT;
    return this.#low + (above < 0 ? above + ROW_COUNT : above);
  }

  #advance(step: number): void {
    const elapsed = (step - this.#step) | 0;
    if (elapsed <= 0) return;
    this.#step = step;
    this.#now += elapsed;
    this.#raiseLow();
  }

  /** The ring goes on with time, so that the highest sum there can be has a row; rows that fall out join the lowest. */
  #raiseLow(): void {
    const highest = Math.floor(this.#rowsPerStep * this.#now) + this.#rowOfScore.at(-1)!;
    const low = highest - ROW_COUNT + 1;
    // After a long leap everything joins the lowest row: whole turns of the ring need not be made.
    const turns = Math.floor((low - this.#low) / ROW_COUNT) - 1;
    if (turns > 0) this.#low += turns * ROW_COUNT;
    for (; this.#low < low; this.#low++) {
      this.#rows.prepend(this.#low % ROW_COUNT, (this.#low + 1) % ROW_COUNT);
    }
    if (this.#lowest < this.#low) this.#lowest = this.#low;
  }
}
