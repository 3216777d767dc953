import process from "node:process";
import type { Model } from "../model.ts";
import type { Closing } from "./terminal/closing_block.ts";
import type { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";
import { TextOutput } from "./terminal/text_output.ts";

/** How to go on from a prompt: all chosen, so that it can be told and repeated. */
export interface Sampling {
  maxTokens: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  logitBias: ReadonlyMap<number, number>;
  stop: readonly string[];
  jsonSchema?: string;
  seed: number;
}

export interface Answer {
  text: string;
  closing: Closing;
}

/**
 * Writes what the model says to stdout, as it comes. An answer that is interrupted, or whose reader has gone, is an
 * answer too: it ends there.
 */
export class AnswerWriter {
  readonly #model: Model;
  readonly #interrupt: Interrupt;
  readonly #readerGone = new AbortController();
  readonly #output: TextOutput | undefined;
  readonly #isQuiet: boolean;

  /** @param isQuiet no progress on stderr @param isSilent nothing on stdout */
  constructor(model: Model, interrupt: Interrupt, { isSilent = false, isQuiet = false } = {}) {
    this.#model = model;
    this.#isQuiet = isQuiet;
    this.#interrupt = interrupt;
    const onBroken = () => this.#readerGone.abort();
    if (!isSilent) this.#output = new TextOutput({ onBroken });
  }

  /** Nobody reads stdout any more. */
  get isReaderGone(): boolean {
    return this.#readerGone.signal.aborted;
  }

  async write(prompt: string | readonly number[], sampling: Sampling): Promise<Answer> {
    const model = this.#model;
    const signal = AbortSignal.any([this.#interrupt.signal, this.#readerGone.signal]);
    using progress = new Progress({ isSilent: this.#isQuiet });
    const ids = typeof prompt === "string" ? model.encode(prompt) : prompt, total = ids.length;
    const onPrompt = (done: number) => progress.update("reading the prompt", { done, total });
    let text = "", tokenCount = 0;
    try {
      for await (const token of model.generate(ids, { ...sampling, signal, onPrompt })) {
        progress.stop();
        if (token.id >= 0) tokenCount++;
        text += token.text;
        this.#output?.write(token.text);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      this.#output?.endLine();
    }
    const { plan: { isResident }, disk, endReason } = model;
    const { temperature, seed } = sampling;
    const statistics = model.stats();
    return {
      text,
      closing: { statistics, disk, isResident, tokenCount, endReason, temperature, seed },
    };
  }

  /** What the process's exit code is to be if it was interrupted. */
  reportInterrupt(): void {
    const { signal } = this.#interrupt;
    if (signal.aborted) process.exitCode = signal.reason.exitCode;
  }
}
