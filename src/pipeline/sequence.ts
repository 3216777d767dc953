/**
 * The one way in which threads wait for each other: a shared word that only grows.
 *
 * One side advances it, others wait until it has reached a value. A waiter polls for a while, then
 * sleeps on the word; whoever advances notifies only if somebody sleeps. Every wait looks at the
 * pipeline's fault and closing words, is bounded in time, and says what it waited for. The bound begins again
 * whenever a read lands: a list may be long and the disk slow.
 *
 *   word 0: value     word 1: number of sleepers     (a cache line of its own: 16 words)
 *
 * Values wrap at 2^32 and are compared by their difference.
 */

/** Words of a cache line; shared words that different threads write lie on different lines. */
export const LINE_WORDS = 16;

/** Words at the start of the control memory that concern everybody. */
export const FAULT_WORD = 0;
export const CLOSING_WORD = LINE_WORDS;
/** A sequence: the reads that have landed. */
export const LANDED_WORD = 2 * LINE_WORDS;

/** A sleeper wakes this often to look at the fault word, should it have missed a notification. */
export const SLICE_MS = 100;

/** Thrown inside a worker whose pipeline was stopped by another's failure, or is being closed. */
export class PipelineStoppedError extends Error {
  override name = "PipelineStoppedError";
}

/** Thrown when a thread waited longer than its bound: names what did not come. */
export class WaitTimeoutError extends Error {
  override name = "WaitTimeoutError";
}

/** How a thread waits. */
export interface WaitStyle {
  /** Polls before a waiter sleeps, where the other side needs microseconds. */
  spins: number;
  /** Polls of a lane before it sleeps until reads land: few, as readers need a core for that. */
  flashSpins: number;
  /** The bound of a wait in which no read lands, in ms. */
  waitMsMax: number;
}

/** Throws if another worker failed or the pipeline is closing. */
export function checkRunning(words: Int32Array): void {
  if (Atomics.load(words, FAULT_WORD) !== 0) {
    throw new PipelineStoppedError("Stopped as another worker failed");
  }
  if (Atomics.load(words, CLOSING_WORD) !== 0) {
    throw new PipelineStoppedError("Stopped as the pipeline is closing");
  }
}

/**
 * Raises a shared flag (fault or closing) and wakes every sleeper of the control memory, whatever word it
 * sleeps on. Notifying words on which nobody sleeps does no harm.
 */
export function stopEverybody(words: Int32Array, flagWord: number, sequenceWords: number): void {
  Atomics.store(words, flagWord, 1);
  for (let index = 0; index < sequenceWords; index += LINE_WORDS) Atomics.notify(words, index);
}

/** A growing shared word at `index` of the control memory; see the top of this file. */
export class Sequence {
  readonly #words: Int32Array;
  readonly #index: number;
  readonly #style: WaitStyle;

  constructor(words: Int32Array, index: number, style: WaitStyle) {
    this.#words = words;
    this.#index = index;
    this.#style = style;
  }

  get value(): number {
    return Atomics.load(this.#words, this.#index);
  }

  /** Adds `count` and wakes sleepers, if there are any. */
  advance(count = 1): void {
    Atomics.add(this.#words, this.#index, count);
    if (Atomics.load(this.#words, this.#index + 1) !== 0) {
      Atomics.notify(this.#words, this.#index);
    }
  }

  hasReached(target: number): boolean {
    return ((Atomics.load(this.#words, this.#index) - target) | 0) >= 0;
  }

  /** Waits until the value is `target` or past it. Throws `WaitTimeoutError` if no read lands within the bound. */
  waitFor(target: number, what: string): void {
    if (this.#spin(target)) return;
    this.#sleep(target, what, this.#style.waitMsMax);
  }

  /** Like `waitFor`, for a thread that has nothing to do until then: no bound but the pipeline's end. */
  waitIdle(target: number): void {
    if (this.#spin(target)) return;
    this.#sleep(target, "", Infinity);
  }

  #spin(target: number): boolean {
    const words = this.#words, index = this.#index;
    for (let polls = this.#style.spins; polls > 0; polls--) {
      if (((Atomics.load(words, index) - target) | 0) >= 0) return true;
    }
    return this.hasReached(target);
  }

  #sleep(target: number, what: string, waitMsMax: number): void {
    const words = this.#words, index = this.#index;
    let waitedMs = 0, landedBefore = Atomics.load(words, LANDED_WORD);
    Atomics.add(words, index + 1, 1);
    try {
      for (;;) {
        const seen = Atomics.load(words, index);
        if (((seen - target) | 0) >= 0) return;
        checkRunning(words);
        if (Atomics.wait(words, index, seen, SLICE_MS) !== "timed-out") continue;
        // Slices, not the clock: a process that was stopped for a minute (Ctrl-Z) has not waited for a minute.
        const landed = Atomics.load(words, LANDED_WORD);
        waitedMs = landed === landedBefore ? waitedMs + SLICE_MS : 0;
        landedBefore = landed;
        if (waitedMs > waitMsMax) {
          throw new WaitTimeoutError(
            `Waited ${waitedMs} ms for ${what}: value ${seen}, wanted ${target}`,
          );
        }
      }
    } finally {
      Atomics.sub(words, index + 1, 1);
    }
  }
}
