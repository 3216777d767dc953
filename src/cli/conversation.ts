import type { ChatMessage } from "../chat_template.ts";
import type { Model } from "../model.ts";

/** What of a model a conversation needs. */
export type Speaker = Pick<
  Model,
  "canChat" | "contextLength" | "encode" | "encodeChat" | "decode"
>;

/** What is said so far, and what of it goes to the model. */
export interface Conversation {
  /** Ids to go on from once `line` is said, and how much of the beginning had to go: of messages, or of tokens. */
  say(line: string): { prompt: number[]; forgotten: string | null };
  /** The model's answer. */
  answer(text: string): void;
  /** Forgets everything but the system's message. */
  reset(): void;
}

/** By messages where the model came with a template for them, else a text that goes on. */
export function conversationWith(
  model: Speaker,
  { maxTokens, system }: { maxTokens: number; system?: string },
): Conversation {
  return model.canChat ? new Messages(model, maxTokens, system) : new RunningText(model, maxTokens);
}

/** Positions of the context that a prompt may take, so that there is room for an answer. */
function roomOf({ contextLength }: Pick<Model, "contextLength">, maxTokens: number): number {
  return contextLength - Math.min(maxTokens, contextLength >> 1);
}

class Messages implements Conversation {
  readonly #model: Speaker;
  readonly #room: number;
  readonly #system: ChatMessage[];
  #messages: ChatMessage[] = [];

  constructor(model: Speaker, maxTokens: number, system?: string) {
    this.#model = model;
    this.#room = roomOf(model, maxTokens);
    this.#system = system === undefined ? [] : [{ role: "system", content: system }];
  }

  say(line: string): { prompt: number[]; forgotten: string | null } {
    const messages = [...this.#messages, { role: "user", content: line }];
    const wordsOf = (from: number) =>
      this.#model.encodeChat([...this.#system, ...messages.slice(from)]);
    let from = 0, prompt = wordsOf(0);
    // A question and its answer go together: templates want turns.
    while (prompt.length > this.#room && from + 2 < messages.length) prompt = wordsOf(from += 2);
    if (prompt.length > this.#room) {
      throw new RangeError(
        `Cannot take a message that makes ${prompt.length} tokens: there is room for ${this.#room}`,
      );
    }
    this.#messages = messages.slice(from);
    return { prompt, forgotten: from > 0 ? `${from} messages` : null };
  }

  answer(text: string): void {
    this.#messages.push({ role: "assistant", content: text });
  }

  reset(): void {
    this.#messages = [];
  }
}

class RunningText implements Conversation {
  readonly #model: Speaker;
  readonly #maxTokens: number;
  #text = "";

  constructor(model: Speaker, maxTokens: number) {
    this.#model = model;
    this.#maxTokens = maxTokens;
  }

  say(line: string): { prompt: number[]; forgotten: string | null } {
    const wanted = this.#text === "" ? line : `${this.#text}\n${line}`;
    const { prompt, forgottenCount } = fitContext(wanted, this.#model, this.#maxTokens);
    this.#text = prompt;
    return {
      prompt: this.#model.encode(prompt),
      forgotten: forgottenCount > 0 ? `${forgottenCount} tokens` : null,
    };
  }

  answer(text: string): void {
    this.#text += text;
  }

  reset(): void {
    this.#text = "";
  }
}

/** The end of `text` that leaves room for an answer in the context, and how many tokens were cut off. */
export function fitContext(
  text: string,
  model: Pick<Model, "contextLength" | "encode" | "decode">,
  maxTokens: number,
): { prompt: string; forgottenCount: number } {
  const room = roomOf(model, maxTokens);
  let ids = model.encode(text);
  const tokenCount = ids.length;
  // Text that was cut may split into other tokens, and gets one in front: cut more until it fits.
  for (let keep = room - 1; ids.length > room; keep--) {
    text = model.decode(ids.slice(ids.length - Math.max(0, keep)));
    ids = model.encode(text);
  }
  return { prompt: text, forgottenCount: tokenCount - ids.length };
}
