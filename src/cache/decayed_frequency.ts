import type { CachePolicy, PolicyShape } from "./policy.ts";

/** Rows a halving of the score: neurons in one row differ by less than 5 %. */
const ROWS_PER_HALVING = 16;
/** 16 halvings from the first row to the last; what decays further stays in the first. */
const ROW_COUNT = 256;

const HALF_LIFE = 4;
const HALF_LIFE_MAX = 4096;

/** Scores are looked up in steps of 1/8, from 1 (a neuron that was just used) up. */
const SCORE_STEPS = 8;

/** Numbers of a slot, of which the first is its neuron. */
const HELD = 4;
const SUM = 1;
const LAST_USE = 2;
const ROW = 3;

/** A slot's mark: that it holds nothing; or the number of a pass and one of the others. */
const EMPTY = -1;
const USED = 0;
const EXPECTED = 1;
/** The mark of a slot of which nothing is known in this step: of no pass. */
const RANKED = 0;
const PASSES_MAX = 2 ** 30 - 2;

/**
 * Decayed frequency: each use of a neuron counts 1, and half of that `halfLife` steps later (LRFU: Lee et al. 2001, with
 * the history of evicted neurons kept). The lowest sum goes first; then what was used in the pass at hand, then what is expected in the
 * step at hand; among equals the lowest slot.
 *
 * All sums decay alike, so their order changes by uses alone, and a logarithm that does not decay can stand for a sum:
 * log2(sum at its last use) + (that step / halfLife), in rows of a sixteenth.
 *
 * A use only leaves marks. Slots are put in order when one is to be given up, at most once a pass: a few passes over arrays, which
 * cost less than lists of which each use moves a link. What is used or expected afterwards is passed over.
 */
export class DecayedFrequency implements CachePolicy {
  readonly #rowsPerStep: number;
  /** What is left of a use after so many steps. */
  readonly #decay: Float64Array;
  /** Rows above the row of a score of 1, by score in steps of 1/8. */
  readonly #rowOfScore: Uint8Array;
  /**
   * Of each neuron that is in no slot: its sum as of its last use, and when that was (a step off after 2^24 of them). Small, as all
   * layers' do not stay in caches.
   */
  readonly #history: Float32Array;
  /** Of each slot: `EMPTY`, or 2 * the pass of its last mark + the mark. */
  readonly #marks: Int32Array;
  /**
   * Of each slot: its neuron, that one's sum as of its last use, when that was, and the row that both make. Side by side, as a use fetches
   * them from memory together: what the caches of all layers keep does not stay in the processor's.
   */
  readonly #held: Float64Array;
  /** Slots in order, those from `head` on; and where in it each slot is. */
  readonly #order: Int32Array;
  readonly #place: Int32Array;
  readonly #ends = new Int32Array(ROW_COUNT);
  readonly #rowAbove: Uint8Array;
  #head = 0;
  #orderCount = 0;
  #isOrdered = false;
  /** Passes and steps are counted together; the pass with which the step began. */
  #pass = 1;
  #stepPass = 1;
  /** Steps since the beginning; steps may wrap, this does not. */
  #now = 0;
  #step = 0;

  /** @param halfLife steps */
  constructor({ slotCount, neuronCount }: PolicyShape, halfLife = HALF_LIFE) {
    if (!(Number.isInteger(halfLife) && halfLife >= 1 && halfLife <= HALF_LIFE_MAX)) {
      throw new RangeError(
        `Cannot halve a frequency every ${halfLife} steps: a whole number from 1 to ${HALF_LIFE_MAX}`,
      );
    }
    this.#rowsPerStep = ROWS_PER_HALVING / halfLife;
    const decayPerStep = 2 ** (-1 / halfLife), scoreMax = 1 / (1 - decayPerStep);
    this.#decay = Float64Array.from({ length: 16 * halfLife }, (_, k) => decayPerStep ** k);
    this.#rowOfScore = Uint8Array.from(
      { length: Math.ceil(scoreMax * SCORE_STEPS) + 1 },
      (_, k) => Math.floor(ROWS_PER_HALVING * Math.log2(Math.max(1, k / SCORE_STEPS))),
    );
    this.#history = new Float32Array(2 * neuronCount);
    for (let i = 1; i < this.#history.length; i += 2) this.#history[i] = -Infinity;
    this.#marks = new Int32Array(slotCount).fill(EMPTY);
    this.#held = new Float64Array(HELD * slotCount);
    this.#order = new Int32Array(slotCount);
    this.#place = new Int32Array(slotCount);
    this.#rowAbove = new Uint8Array(slotCount);
  }

  admit(slot: number, neuron: number, step: number): void {
    const held = this.#held, history = this.#history, at = HELD * slot;
    held[at] = neuron;
    held[at + SUM] = history[2 * neuron];
    held[at + LAST_USE] = history[2 * neuron + 1];
    this.#setRow(at);
    this.expect(slot, step);
  }

  use(slot: number, step: number): void {
    this.#advance(step);
    const held = this.#held, at = HELD * slot, elapsed = this.#now - held[at + LAST_USE];
    if (elapsed > 0) {
      const left = elapsed < this.#decay.length ? this.#decay[elapsed] : 0;
      held[at + SUM] = 1 + left * held[at + SUM];
      held[at + LAST_USE] = this.#now;
      this.#setRow(at);
    }
    this.#marks[slot] = 2 * this.#pass + USED;
  }

  expect(slot: number, step: number): void {
    this.#advance(step);
    this.#marks[slot] = 2 * this.#pass + EXPECTED;
  }

  remove(slot: number): void {
    const held = this.#held, history = this.#history, at = HELD * slot, neuron = held[at];
    history[2 * neuron] = held[at + SUM];
    history[2 * neuron + 1] = held[at + LAST_USE];
    this.#marks[slot] = EMPTY;
  }

  first(): number {
    if (!this.#isOrdered) this.#putInOrder();
    this.#head = this.#rankedFrom(this.#head);
    return this.#slotAt(this.#head);
  }

  after(slot: number): number {
    if (this.#isRanked(slot)) return this.#slotAt(this.#rankedFrom(this.#place[slot] + 1));
    const mark = this.#marks[slot] & 1;
    const next = this.#marked(mark, slot + 1);
    return next < 0 && mark === USED ? this.#marked(EXPECTED, 0) : next;
  }

  endPass(): void {
    this.#pass++;
    this.#isOrdered = false;
  }

  endStep(step: number): void {
    this.#advance(step);
    this.endPass();
    this.#stepPass = this.#pass;
    if (this.#pass > PASSES_MAX) this.#forgetPasses();
  }

  expired(): number {
    return -1;
  }

  /** Whether nothing is known of the slot's neuron in this step that its sum does not tell. */
  #isRanked(slot: number): boolean {
    const mark = this.#marks[slot];
    return mark !== EMPTY && (mark >> 1) < ((mark & 1) === USED ? this.#pass : this.#stepPass);
  }

  /** The first place from `place` on whose slot is ranked still; behind the last there is none. */
  #rankedFrom(place: number): number {
    while (place < this.#orderCount && !this.#isRanked(this.#order[place])) place++;
    return place;
  }

  /** The slot at `place`; behind the last one the first that is used, else the first that is expected, or -1. */
  #slotAt(place: number): number {
    if (place < this.#orderCount) return this.#order[place];
    const used = this.#marked(USED, 0);
    return used < 0 ? this.#marked(EXPECTED, 0) : used;
  }

  /** The first slot from `slot` on that is used in this pass, or expected in this step; or -1. */
  #marked(mark: number, slot: number): number {
    for (; slot < this.#marks.length; slot++) {
      if (
        this.#marks[slot] !== EMPTY && (this.#marks[slot] & 1) === mark && !this.#isRanked(slot)
      ) {
        return slot;
      }
    }
    return -1;
  }

  /** Orders the ranked slots by their rows. */
  #putInOrder(): void {
    const held = this.#held, marks = this.#marks, rowAbove = this.#rowAbove;
    const ends = this.#ends, order = this.#order;
    // The highest sum that there can be has the last row.
    const highest = Math.floor(this.#rowsPerStep * this.#now) + this.#rowOfScore.at(-1)!;
    const low = Math.max(0, highest - ROW_COUNT + 1);
    ends.fill(0);
    for (let slot = 0; slot < marks.length; slot++) {
      if (!this.#isRanked(slot)) continue;
      const above = held[HELD * slot + ROW] - low, row = above > 0 ? above : 0;
      rowAbove[slot] = row;
      ends[row]++;
    }
    let begin = 0;
    for (let row = 0; row < ROW_COUNT; row++) {
      const count = ends[row];
      ends[row] = begin;
      begin += count;
    }
    for (let slot = 0; slot < marks.length; slot++) {
      if (!this.#isRanked(slot)) continue;
      const place = ends[rowAbove[slot]]++;
      order[place] = slot;
      this.#place[slot] = place;
    }
    this.#orderCount = begin;
    this.#head = 0;
    this.#isOrdered = true;
  }

  /** Of the slot whose neuron is at `at`. */
  #setRow(at: number): void {
    const held = this.#held, score = this.#rowOfScore[Math.floor(SCORE_STEPS * held[at + SUM])];
    held[at + ROW] = Math.floor(this.#rowsPerStep * held[at + LAST_USE]) + score;
  }

  #advance(step: number): void {
    const elapsed = (step - this.#step) | 0;
    if (elapsed <= 0) return;
    this.#step = step;
    this.#now += elapsed;
  }

  /** Counts passes from the beginning again, before a mark is too large. */
  #forgetPasses(): void {
    const marks = this.#marks;
    for (let slot = 0; slot < marks.length; slot++) {
      if (marks[slot] !== EMPTY) marks[slot] = RANKED;
    }
    this.#pass = 1;
    this.#stepPass = 1;
  }
}
