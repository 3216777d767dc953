import type { Control } from "./control.ts";
import { checkRunning, SLICE_MS, WaitTimeoutError } from "./sequence.ts";
import type { Sequence, WaitStyle } from "./sequence.ts";

/**
 * How lanes hear of reads that have landed. Readers count every ticket that is done in the sequence `landed`; a lane that
 * has nothing else to do says at which count it wants to be woken, so that a list of 20 misses
 * wakes it a few times and not 20.
 *
 * Each lane has a line of its own:
 *
 *   word 0: bell (readers add, the lane sleeps on it)   word 1: the lane sleeps   word 2: wake it at this count
 */
export class LandingBell {
  readonly #words: Int32Array;
  readonly #index: number;
  readonly #landed: Sequence;
  readonly #style: WaitStyle;

  constructor(control: Control, laneIndex: number) {
    this.#words = control.words;
    this.#index = control.layout.landingBells[laneIndex];
    this.#landed = control.sequence("landed");
    this.#style = control.style;
  }

  /** Tickets that have landed so far. */
  get landed(): number {
    return this.#landed.value;
  }

  /** Waits until `count` tickets have landed. Throws `WaitTimeoutError` if none lands within the bound. */
  waitFor(count: number, what: string): void {
    for (let polls = this.#style.flashSpins; polls > 0; polls--) {
      if (this.#landed.hasReached(count)) return;
    }
    const words = this.#words, index = this.#index;
    let waitedMs = 0, seen = this.landed;
    Atomics.store(words, index + 2, count);
    Atomics.store(words, index + 1, 1);
    try {
      for (;;) {
        const bell = Atomics.load(words, index);
        // After the lane said that it sleeps, so that a reader either sees that or is seen here.
        if (this.#landed.hasReached(count)) return;
        checkRunning(words);
        if (Atomics.wait(words, index, bell, SLICE_MS) !== "timed-out") continue;
        const landed = this.landed;
        // A long list on a slow disk: what counts is that reads go on landing.
        waitedMs = landed === seen ? waitedMs + SLICE_MS : 0;
        seen = landed;
        if (waitedMs > this.#style.waitMsMax) {
          throw new WaitTimeoutError(
            `Waited ${waitedMs} ms for ${what}: ${landed} reads have landed, wanted ${count}`,
          );
        }
      }
    } finally {
      Atomics.store(words, index + 1, 0);
    }
  }
}

/** A reader's side: counts tickets and wakes the lanes that wait for this count. */
export class LandingCounter {
  readonly #words: Int32Array;
  readonly #bells: number[];
  readonly #landed: Sequence;

  constructor(control: Control) {
    this.#words = control.words;
    this.#bells = control.layout.landingBells;
    this.#landed = control.sequence("landed");
  }

  /** `count` more tickets have landed. */
  announce(count: number): void {
    this.#landed.advance(count);
    const words = this.#words, bells = this.#bells;
    for (let lane = 0; lane < bells.length; lane++) {
      const index = bells[lane];
      if (Atomics.load(words, index + 1) === 0) continue;
      if (!this.#landed.hasReached(Atomics.load(words, index + 2))) continue;
      Atomics.add(words, index, 1);
      Atomics.notify(words, index);
    }
  }
}
