import { Tokenizer } from "@huggingface/tokenizers";
import { messageOf, ModelFileError } from "./errors.ts";

/** A model's tokenizer: text to ids, and ids to text as they come. */
export class TextCodec {
  readonly #tokenizer: Tokenizer;
  readonly #special: { id: number; content: string }[];

  /** @param json content of tokenizer.json. @param config content of tokenizer_config.json, or null. */
  constructor({ json, config }: { json: string; config: string | null }, path: string) {
    try {
      const parsed = JSON.parse(json);
      this.#tokenizer = new Tokenizer(parsed, JSON.parse(config ?? "{}"));
      this.#special = (parsed.added_tokens ?? []).filter((token: { special?: boolean }) =>
        token.special
      );
    } catch (cause) {
      const place = { path, field: "tokenizer", byteOffset: 0 };
      throw new ModelFileError(`the tokenizer cannot be used: ${messageOf(cause)}`, place, {
        cause,
      });
    }
  }

  /** Ids of `text`; `isStart`: with what the tokenizer puts before a text, such as `</s>`. */
  encode(text: string, isStart = true): number[] {
    return this.#tokenizer.encode(text, { add_special_tokens: isStart }).ids;
  }

  decode(ids: number[]): string {
    if (ids.length === 0) return "";
    return this.#tokenizer.decode(ids, {
      skip_special_tokens: true,
      clean_up_tokenization_spaces: false,
    });
  }

  /** @param prompt ids before the first token */
  stream(prompt: readonly number[] = []): TextStream {
    return new TextStream(this, prompt);
  }

  /** Ids of tokens that are left out of text and have just this content: ends, roles. */
  specialIds(content: string): number[] {
    return this.#special.filter((token) => token.content === content).map(({ id }) => id);
  }
}

/** Tokens of at most this many make one character. */
const PENDING_MAX = 8;

/** Ids before a token that it is decoded with: some decoders take a space from the beginning of what they get. */
const CONTEXT = 4;

/** Text of tokens one by one: a character whose bytes are spread over tokens comes with its last one. */
export class TextStream {
  readonly #codec: TextCodec;
  /** The last ids whose text is out. */
  #context: number[];
  #pending: number[] = [];

  constructor(codec: TextCodec, prompt: readonly number[]) {
    this.#codec = codec;
    this.#context = prompt.slice(-CONTEXT);
  }

  /** Whether the last token ended within a character, whose text comes later. */
  get isPending(): boolean {
    return this.#pending.length > 0;
  }

  /** The text that `id` completes; empty while a character is incomplete. */
  push(id: number): string {
    this.#pending.push(id);
    const text = this.#textOfPending();
    if (text.endsWith("\ufffd") && this.#pending.length < PENDING_MAX) return "";
    this.#context = [...this.#context, ...this.#pending].slice(-CONTEXT);
    this.#pending = [];
    return text;
  }

  /** What is left, if the text ends within a character. */
  end(): string {
    const text = this.#textOfPending();
    this.#pending = [];
    return text;
  }

  #textOfPending(): string {
    if (this.#pending.length === 0) return "";
    const before = this.#codec.decode(this.#context);
    return this.#codec.decode([...this.#context, ...this.#pending]).slice(before.length);
  }
}
