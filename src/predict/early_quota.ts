/** Early reads that a layer begins with, before anything is known of the disk; and at least. */
const FIRST = 32;
/** Reads that should be under way still when the late look comes, as the disk should not rest while the list is made; and at most. */
const PENDING_MIN = 16;
const PENDING_MAX = 64;

/**
 * How many reads an early look may begin: as many as land before the late look comes. With fewer the disk rests while the lanes
 * are at attention; with more the late look's misses wait for guesses, of which a third is wrong. Found out by looking how many
 * are still under way when the late look comes.
 */
export class EarlyQuota {
  #limit = FIRST;
  /** Until guesses came late for the first time: the limit doubles, as a layer's time is not known yet. */
  #isStarting = true;
  #issued = 0;

  get limit(): number {
    return this.#limit;
  }

  /** An early look has begun so many reads. */
  issue(count: number): void {
    this.#issued = count;
  }

  /** The late look is there, and so many reads have not landed yet. */
  judge(pending: number): void {
    if (pending > PENDING_MAX) {
      this.#isStarting = false;
      this.#limit = Math.max(FIRST, this.#limit - Math.ceil((pending - PENDING_MAX) / 4));
    } else if (pending < PENDING_MIN && this.#issued >= this.#limit) {
      this.#limit += this.#isStarting ? this.#limit : Math.max(2, this.#limit >> 3);
    }
    this.#issued = 0;
  }
}
