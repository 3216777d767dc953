import cliProgress from "cli-progress";
import process from "node:process";

/** A bar appears only for what seems to take longer than this. */
const WORTH_A_BAR_MS = 2000;
/** Before this, an estimate is a guess. */
const FIRST_ESTIMATE_MS = 300;
/** Where stderr is no terminal: a line at most this often. */
const LINE_EVERY_MS = 5000;

/**
 * How far something is, on stderr, with the time that is left; silent for what is over in a moment. At a terminal a
 * bar that goes away when done, elsewhere a line now and then.
 *
 * ```ts
 * import { Progress } from "./progress.ts";
 * using progress = new Progress();
 * progress.update("packing", { done: 1, total: 3 });
 * ```
 */
export class Progress {
  readonly #isSilent: boolean;
  #label = "";
  #startedAt = 0;
  #lineAt = 0;
  #bar: cliProgress.SingleBar | undefined;

  constructor({ isSilent = false } = {}) {
    this.#isSilent = isSilent;
  }

  /** `done` of `total` parts of `label` are done. Another label is another bar; `phase` is shown beside it. */
  update(
    label: string,
    { done, total }: { done: number; total: number },
    phase?: string,
  ): void {
    if (this.#isSilent) return;
    const now = performance.now();
    if (label !== this.#label) this.#begin(label, now);
    const passedMs = now - this.#startedAt;
    const wholeMs = done > 0 ? passedMs * total / done : Infinity;
    const isWorthIt = passedMs > FIRST_ESTIMATE_MS && wholeMs > WORTH_A_BAR_MS;
    if (!this.#bar && !isWorthIt) return;
    const left = timeLeft(wholeMs - passedMs) + (phase ? ` (${phase})` : "");
    if (process.stderr.isTTY) this.#draw({ done, total, left });
    else this.#writeLine(now, `${label}: ${Math.floor(100 * done / total)} %, ${left}\n`);
  }

  /** Takes the bar away. */
  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
    this.#label = "";
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  #begin(label: string, now: number): void {
    this.stop();
    this.#label = label;
    this.#startedAt = now;
    this.#lineAt = now;
  }

  #draw({ done, total, left }: { done: number; total: number; left: string }): void {
    if (!this.#bar) {
      const format = "{label} [{bar}] {percentage} % | {left}";
      this.#bar = new cliProgress.SingleBar({
        format,
        barsize: 30,
        stream: process.stderr,
        clearOnComplete: true,
      });
      this.#bar.start(total, 0, { label: this.#label, left });
    }
    this.#bar.update(done, { left });
  }

  #writeLine(now: number, line: string): void {
    if (now - this.#lineAt < LINE_EVERY_MS) return;
    this.#lineAt = now;
    process.stderr.write(line);
  }
}

function timeLeft(ms: number): string {
  if (!Number.isFinite(ms)) return "";
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  if (seconds < 60) return `${seconds} s left`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s left`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min left`;
}
