import process from "node:process";
import { createInterface } from "node:readline";
import type { Model } from "../model.ts";
import { AnswerWriter } from "./answer.ts";
import type { Answer, Sampling } from "./answer.ts";
import { conversationWith } from "./conversation.ts";
import { renderClosing, renderShort } from "./terminal/closing_block.ts";
import type { Interrupt } from "./terminal/interrupt.ts";

export interface ChatOptions {
  model: Model;
  sampling: Sampling;
  interrupt: Interrupt;
  /** What the model is told before all else, where its template has a place for that. */
  system?: string;
  /** Tells people something, on stderr. */
  note: (text: string) => void;
}

const HELP = "/help lists the commands, /stats says what the last answer cost, /reset forgets " +
  "what was said.\nCtrl-C stops an answer, Ctrl-D ends the chat.\n";

/**
 * A conversation at a terminal: by messages, where the model came with a template for them; else each line is added to the text
 * so far, and the model goes on from there. When the context is full, the oldest goes. Ctrl-C while the model writes ends the
 * answer; at the prompt, the chat.
 */
export async function chat(options: ChatOptions): Promise<void> {
  const { model, sampling, interrupt, system, note } = options;
  const writer = new AnswerWriter(model, interrupt);
  const conversation = conversationWith(model, { maxTokens: sampling.maxTokens, system });
  const typed: string[] = [];
  let last: Answer | undefined;
  const commands: Record<string, () => void> = {
    "/help": () => note(HELP),
    "/stats": () => note(last ? renderClosing(last.closing) : "There is no answer yet.\n"),
    "/reset": () => {
      conversation.reset();
      note("Nothing was said.\n");
    },
  };
  const kind = model.canChat ? "" : "Each line that you type continues the text. ";
  note(`${kind}${HELP}`);
  for (let round = 0; !writer.isReaderGone;) {
    const line = await readLine(typed, interrupt);
    if (line === undefined) break;
    const words = line.trim();
    if (words === "") continue;
    if (/^\/\w+$/.test(words)) {
      if (Object.hasOwn(commands, words)) commands[words]();
      else note(`There is no ${words}. ${HELP}`);
      continue;
    }
    const said = trySay(() => conversation.say(line), note);
    if (said === null) continue;
    if (said.forgotten !== null) {
      note(`(the context is full: the oldest ${said.forgotten} are forgotten)\n`);
    }
    const seed = (sampling.seed + round++) % 2 ** 32;
    last = await writer.write(said.prompt, { ...sampling, seed });
    conversation.answer(last.text);
    note(renderShort(last.closing));
    interrupt.rearm();
  }
  writer.reportInterrupt();
  if (last) note(`\nThe last answer:\n${renderClosing(last.closing)}`);
}

/** What cannot be said is told, and the chat goes on. */
function trySay<T>(say: () => T, note: (text: string) => void): T | null {
  try {
    return say();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    note(`${error.message}\n`);
    return null;
  }
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
