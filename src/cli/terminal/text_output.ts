import process from "node:process";

/** Text waits at most this long for more: fast models write many tokens at once, slow ones each by itself. */
const BATCH_MS = 25;

/**
 * Text to stdout as it comes, in moderate batches. When the reader of a pipe has gone (`| head`), `isBroken` says so
 * and `onBroken` is called; that is no error.
 */
export class TextOutput {
  #pending = "";
  #timer: ReturnType<typeof setTimeout> | undefined;
  #endsLine = true;
  readonly #onBroken: () => void;
  isBroken = false;

  constructor({ onBroken }: { onBroken: () => void }) {
    this.#onBroken = onBroken;
    process.stdout.on("error", this.#failed);
  }

  write(text: string): void {
    if (text === "" || this.isBroken) return;
    this.#pending += process.stdout.isTTY ? harmless(text) : text;
    this.#timer ??= setTimeout(() => this.flush(), BATCH_MS);
  }

  /** Ends the line, if it has not ended. */
  endLine(): void {
    this.flush();
    if (!this.#endsLine) this.write("\n");
    this.flush();
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const text = this.#pending;
    this.#pending = "";
    if (text === "" || this.isBroken) return;
    this.#endsLine = text.endsWith("\n");
    process.stdout.write(text);
  }

  [Symbol.dispose](): void {
    this.flush();
    // The listener stays: the last write may fail after this.
  }

  #failed = (error: Error) => {
    if ((error as { code?: string }).code !== "EPIPE" || this.isBroken) return;
    this.isBroken = true;
    this.#onBroken();
  };
}

/** What a model says must not steer the terminal: control characters are shown as unknown ones. */
function harmless(text: string): string {
  return text.replaceAll(/[\p{Cc}--[\n\t]]/gv, "\ufffd");
}
