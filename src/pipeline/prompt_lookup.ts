/** Tokens that must have come before in the same order, at most and at least, for what followed them to be a draft. */
const GRAM_MAX = 4, GRAM_MIN = 2;

/** After so many drafts in a row of which nothing was right, no more are made for a long while. */
const MISTAKES_MAX = 6;

/**
 * Drafts from the text so far: where its last tokens stood before, what followed them then may follow them now (prompt
 * lookup decoding: Saxena 2023). The model verifies a draft in one step, so a right one costs less than its tokens, and a wrong one
 * costs for nothing. So drafts grow while they are right; and each that is all wrong makes this class ask for a longer match, and
 * pause twice as long as before.
 */
export class PromptLookup {
  readonly #most: number;
  /** Length of the next draft. */
  #length: number;
  /** Drafts in a row of which nothing was right. */
  #mistakes = 0;
  /** Tokens that go by without a draft. */
  #pause = 0;

  /** @param most tokens of a draft */
  constructor(most: number) {
    this.#most = most;
    this.#length = Math.min(1, most);
  }

  /**
   * Writes a draft behind the first `length` ids, of at most `room` tokens; returns how many there are.
   *
   * @param ids the text so far, with space behind it
   */
  propose(ids: Int32Array, length: number, room: number): number {
    if (this.#pause > 0) {
      this.#pause--;
      return 0;
    }
    const most = Math.min(this.#length, room);
    if (most <= 0) return 0;
    const least = Math.min(GRAM_MAX, GRAM_MIN + this.#mistakes);
    const from = lastMatch(ids, length, least);
    if (from < 0) return 0;
    const count = Math.min(most, length - from);
    ids.copyWithin(length, from, from + count);
    return count;
  }

  /** `accepted` of the `offered` tokens were right. */
  judge(offered: number, accepted: number): void {
    if (offered === 0) return;
    if (accepted === 0) {
      this.#pause = 2 ** Math.min(MISTAKES_MAX, this.#mistakes++);
      this.#length = 1;
      return;
    }
    this.#mistakes = 0;
    this.#length = accepted === offered
      ? Math.min(this.#most, Math.max(this.#length, 2 * offered))
      : Math.max(1, accepted);
  }
}

/** Where the text goes on after the last place at which its end stood before, preferring the longer match; or -1. */
function lastMatch(ids: Int32Array, length: number, least: number): number {
  let best = -1, longest = least - 1;
  for (let end = length - 1; end > longest; end--) {
    let matched = 0;
    while (
      matched < GRAM_MAX && matched < end && ids[end - 1 - matched] === ids[length - 1 - matched]
    ) matched++;
    if (matched <= longest) continue;
    best = end;
    longest = matched;
    if (matched === GRAM_MAX) break;
  }
  return best;
}
