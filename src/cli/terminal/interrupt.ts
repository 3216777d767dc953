import process from "node:process";

/** What `Interrupt.signal` aborts with: the user pressed Ctrl-C, or somebody asked the process to end. */
export class InterruptedError extends Error {
  override readonly name = "InterruptedError";
  /** 128 + the signal's number, as shells count. */
  readonly exitCode: number;

  constructor(signal: "SIGINT" | "SIGTERM") {
    super("interrupted");
    this.exitCode = signal === "SIGINT" ? 130 : 143;
  }
}

/** A task runner and the terminal may both deliver one Ctrl-C: what follows this soon is the same one. */
const SAME_PRESS_MS = 1000;

/**
 * Turns Ctrl-C into an `AbortSignal` while it is in scope, so that work ends cleanly. Whoever presses it again, when
 * the first one did not help for a second, ends the process at once.
 *
 * ```ts
 * import { Interrupt } from "./interrupt.ts";
 * using interrupt = new Interrupt();
 * interrupt.signal.throwIfAborted();
 * ```
 */
export class Interrupt {
  #controller = new AbortController();
  #pressedAt = -Infinity;

  constructor() {
    process.on("SIGINT", this.#interrupted);
    process.on("SIGTERM", this.#interrupted);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** What was stopped has stopped: the next Ctrl-C aborts a new signal. */
  rearm(): void {
    if (this.signal.aborted) this.#controller = new AbortController();
  }

  /** Aborts; called directly where a line editor hands Ctrl-C over as a key. */
  press(signal: "SIGINT" | "SIGTERM" = "SIGINT"): void {
    const now = performance.now();
    const isSamePress = now - this.#pressedAt < SAME_PRESS_MS;
    if (isSamePress) return;
    this.#pressedAt = now;
    const error = new InterruptedError(signal);
    if (this.signal.aborted) process.exit(error.exitCode);
    this.#controller.abort(error);
  }

  [Symbol.dispose](): void {
    process.off("SIGINT", this.#interrupted);
    process.off("SIGTERM", this.#interrupted);
  }

  #interrupted = (signal: string) => {
    this.press(signal === "SIGTERM" ? "SIGTERM" : "SIGINT");
  };
}
