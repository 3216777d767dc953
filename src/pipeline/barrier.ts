import { Sequence } from "./sequence.ts";
import type { WaitStyle } from "./sequence.ts";

/**
 * Where the compute lanes meet. The last to arrive lets the others go on.
 *
 *   arrived: how many have come in this round      generation: a Sequence, the rounds completed
 */
export class Barrier {
  readonly #words: Int32Array;
  readonly #arrived: number;
  readonly #generation: Sequence;
  readonly #laneCount: number;
  #round = 0;

  /** @param index word of `arrived`; the generation lies on the next cache line. */
  constructor(words: Int32Array, index: number, laneCount: number, style: WaitStyle) {
    this.#words = words;
    this.#arrived = index;
    this.#generation = new Sequence(words, index + 16, style);
    this.#laneCount = laneCount;
    this.#round = this.#generation.value;
  }

  /** Waits for all lanes. `what` names the place, for a wait that takes too long. */
  meet(what: string): void {
    if (this.#laneCount === 1) return;
    this.#round = (this.#round + 1) | 0;
    if (Atomics.add(this.#words, this.#arrived, 1) + 1 === this.#laneCount) {
      Atomics.store(this.#words, this.#arrived, 0);
      this.#generation.advance();
    } else {
      this.#generation.waitFor(this.#round, what);
    }
  }
}
