/**
 * Finds the first of some strings in a text that comes piece by piece. What may be the beginning of one is held back until it is
 * clear, so that nobody sees a part of it.
 */
export class StopStrings {
  readonly #strings: readonly string[];
  #held = "";
  #isFound = false;

  /** Throws `RangeError` for an empty string, which would stop every text at once. */
  constructor(strings: readonly string[]) {
    if (strings.includes("")) throw new RangeError("Cannot stop at an empty string");
    this.#strings = strings;
  }

  /** One of them was in the text. */
  get isFound(): boolean {
    return this.#isFound;
  }

  /** Some text waits for what comes after it. */
  get isHolding(): boolean {
    return this.#held !== "";
  }

  /** Takes a piece of text; returns what can be shown of all that came: nothing of a string, or after it. */
  push(piece: string): string {
    if (this.#isFound) return "";
    const text = this.#held + piece;
    const places = this.#strings.map((string) => text.indexOf(string)).filter((at) => at >= 0);
    if (places.length > 0) {
      this.#isFound = true;
      this.#held = "";
      return text.slice(0, Math.min(...places));
    }
    const held = Math.max(0, ...this.#strings.map((string) => overlap(text, string)));
    this.#held = text.slice(text.length - held);
    return text.slice(0, text.length - held);
  }

  /** The text is over: what was held back is text, after all. */
  end(): string {
    const held = this.#held;
    this.#held = "";
    return held;
  }
}

/** How much of the end of `text` is the beginning of `string`. */
function overlap(text: string, string: string): number {
  for (let length = Math.min(text.length, string.length - 1); length > 0; length--) {
    if (text.endsWith(string.slice(0, length))) return length;
  }
  return 0;
}
