import process from "node:process";
import { createInterface } from "node:readline";
import type { Model } from "../model.ts";
import { AnswerWriter } from "./answer.ts";
import type { Answer, Sampling } from "./answer.ts";
import { renderClosing, renderShort } from "./terminal/closing_block.ts";
import type { Interrupt } from "./terminal/interrupt.ts";

export interface ChatOptions {
  model: Model;
  sampling: Sampling;
  interrupt: Interrupt;
  /** Tells people something, on stderr. */
  note: (text: string) => void;
}

const INVITATION = "Each line that you type continues the text. " +
  "Ctrl-C stops an answer, Ctrl-D ends the chat.\n";

/**
 * A conversation at a terminal: each line is added to the text so far, and the model goes on from there. When the
 * context is full, the oldest text goes. Ctrl-C while the model writes ends the answer; at the prompt, the chat.
 */
export async function chat({ model, sampling, interrupt, note }: ChatOptions): Promise<void> {
  const writer = new AnswerWriter(model, interrupt);
  const history: string[] = [];
  let text = "", last: Answer | undefined;
  note(INVITATION);
  for (let round = 0; !writer.isReaderGone; round++) {
    const line = await readLine(history, interrupt);
    if (line === undefined) break;
    if (line.trim() === "") continue;
    const wanted = text === "" ? line : `${text}\n${line}`;
    const { prompt, forgottenCount } = fitContext(wanted, model, sampling.maxTokens);
    if (forgottenCount > 0) {
      note(`(the context is full: the oldest ${forgottenCount} tokens are forgotten)\n`);
    }
    const seed = (sampling.seed + round) % 2 ** 32;
    last = await writer.write(prompt, { ...sampling, seed });
    text = prompt + last.text;
    note(renderShort(last.closing));
    interrupt.rearm();
  }
  writer.reportInterrupt();
  if (last) note(`\nThe last answer:\n${renderClosing(last.closing)}`);
}

/**
 * One line from the terminal; undefined when there are no more. The line editor lives for one line only, so that while
 * the model writes, Ctrl-C is a signal again.
 */
function readLine(history: string[], interrupt: Interrupt): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  const editor = createInterface({
    input: process.stdin,
    output: process.stderr,
    prompt: "> ",
    history: [...history],
    terminal: true,
  });
  let line: string | undefined;
  const end = () => editor.close();
  interrupt.signal.addEventListener("abort", end);
  editor.on("line", (typed) => {
    line = typed;
    if (typed.trim() !== "") history.unshift(typed);
    editor.close();
  });
  // In the editor Ctrl-C comes as a key.
  editor.on("SIGINT", () => interrupt.press());
  editor.on("close", () => {
    interrupt.signal.removeEventListener("abort", end);
    if (line === undefined) process.stderr.write("\n");
    resolve(line);
  });
  editor.prompt();
  return promise;
}

/** The end of `text` that leaves room for an answer in the context, and how many tokens were cut off. */
export function fitContext(
  text: string,
  model: Pick<Model, "contextLength" | "encode" | "decode">,
  maxTokens: number,
): { prompt: string; forgottenCount: number } {
  const { contextLength } = model;
  const room = contextLength - Math.min(maxTokens, contextLength >> 1);
  let ids = model.encode(text);
  const tokenCount = ids.length;
  // Text that was cut may split into other tokens, and gets one in front: cut more until it fits.
  for (let keep = room - 1; ids.length > room; keep--) {
    text = model.decode(ids.slice(ids.length - Math.max(0, keep)));
    ids = model.encode(text);
  }
  return { prompt: text, forgottenCount: tokenCount - ids.length };
}
