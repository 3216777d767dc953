import { Tokenizer } from "@huggingface/tokenizers";
import { ModelFileError } from "./errors.ts";

/** A model's tokenizer: text to ids, and ids to text as they come. */
export class TextCodec {
  readonly #tokenizer: Tokenizer;

  /** @param json content of tokenizer.json. @param config content of tokenizer_config.json, or null. */
  constructor({ json, config }: { json: string; config: string | null }, path: string) {
    try {
      this.#tokenizer = new Tokenizer(JSON.parse(json), JSON.parse(config ?? "{}"));
    } catch (cause) {
      const place = { path, field: "tokenizer", byteOffset: 0 };
      throw new ModelFileError(`the tokenizer cannot be used: ${(cause as Error).message}`, place, {
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

  stream(): TextStream {
    return new TextStream(this);
  }
}

/** Tokens of at most this many make one character. */
const PENDING_MAX = 8;

/** Text of tokens one by one: a character whose bytes are spread over tokens comes with its last one. */
export class TextStream {
  readonly #codec: TextCodec;
  #pending: number[] = [];

  constructor(codec: TextCodec) {
    this.#codec = codec;
  }

  /** Whether the last token ended within a character, whose text comes later. */
  get isPending(): boolean {
    return this.#pending.length > 0;
  }

  /** The text that `id` completes; empty while a character is incomplete. */
  push(id: number): string {
    this.#pending.push(id);
    const text = this.#codec.decode(this.#pending);
    if (text.endsWith("\ufffd") && this.#pending.length < PENDING_MAX) return "";
    this.#pending = [];
    return text;
  }

  /** What is left, if the text ends within a character. */
  end(): string {
    const text = this.#pending.length > 0 ? this.#codec.decode(this.#pending) : "";
    this.#pending = [];
    return text;
  }
}
