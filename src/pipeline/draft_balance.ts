/** What drafts may lose in any case, in steps without: less than a wrong one costs, so that the next waits. */
const ALLOWED_STEPS = 1 / 2;

/** How quickly the time of a step without drafts follows the last of them. */
const FOLLOW = 1 / 4;

/**
 * What drafts have gained, in time: a position more costs nearly a step of its own where its neurons come from flash, and close to
 * nothing where they are there. So text whose drafts are often wrong stops them when they have lost half a step and a share of
 * all. It decides how fast tokens come, and never which.
 */
export class DraftBalance {
  readonly #lossMax: number;
  /** Time of a step without drafts; 0 as long as there was none. */
  #plainMs = 0;
  #spentMs = 0;
  #gainMs = 0;

  /** @param lossMax share of the time that drafts may lose */
  constructor(lossMax: number) {
    this.#lossMax = lossMax;
  }

  get allowsDrafts(): boolean {
    return this.#plainMs > 0 &&
      this.#gainMs >= -(ALLOWED_STEPS * this.#plainMs + this.#lossMax * this.#spentMs);
  }

  /** A step of one position took so long. */
  plainStep(ms: number): void {
    this.#spentMs += ms;
    this.#plainMs = this.#plainMs === 0 ? ms : this.#plainMs + FOLLOW * (ms - this.#plainMs);
  }

  /** A step with drafts took so long, and gave so many tokens. */
  draftedStep(ms: number, tokens: number): void {
    this.#spentMs += ms;
    this.#gainMs += tokens * this.#plainMs - ms;
  }
}
