import type { GrammarMatcher } from "@mlc-ai/web-xgrammar";
import type { FlashHeader } from "./format/header.ts";
import { forgetXGrammar, loadXGrammar } from "./load_xgrammar.ts";

/** What of tokenizer.json says which text a token is. */
interface TokenizerJson {
  model: { vocab: Record<string, number> | [string, number][]; byte_fallback?: boolean };
  added_tokens?: { id: number; content: string; special?: boolean }[];
  decoder?: { type?: string; decoders?: { type: string }[] } | null;
}

/**
 * Says which tokens may come next so that a text is JSON of a schema. The grammar is xgrammar's (Dong et al. 2024), compiled to
 * WebAssembly; it is loaded when first asked for.
 */
export class JsonGuide {
  readonly #matcher: GrammarMatcher;
  readonly #dispose: () => void;

  private constructor(matcher: GrammarMatcher, dispose: () => void) {
    this.#matcher = matcher;
    this.#dispose = dispose;
  }

  /**
   * @param schema a JSON schema, as text or as what it says
   * @throws {RangeError} it is no schema that can be followed, or the model has no tokenizer or no token that ends a text
   */
  static async of(schema: string | object, { tokenizer, config }: FlashHeader): Promise<JsonGuide> {
    if (tokenizer === null || config.eosTokenIds.length === 0) {
      throw new RangeError(
        "Cannot follow a schema without a tokenizer, and a token that ends a text",
      );
    }
    const { GrammarCompiler, GrammarMatcher, TokenizerInfo } = loadXGrammar();
    const { texts, kind } = textsOf(JSON.parse(tokenizer.json), config.vocabSize);
    const { vocabSize, eosTokenIds } = config;
    const info = await TokenizerInfo.createTokenizerInfo(
      texts,
      kind,
      false,
      vocabSize,
      eosTokenIds,
    );
    const compiler = await GrammarCompiler.createGrammarCompiler(info, false);
    const text = typeof schema === "string" ? schema : JSON.stringify(schema);
    try {
      JSON.parse(text);
      // White space between parts is fixed: a model that is free to may write nothing else.
      const compiled = await compiler.compileJSONSchema(text, false);
      const matcher = await GrammarMatcher.createGrammarMatcher(compiled);
      return new JsonGuide(matcher, () => {
        for (const each of [matcher, compiled, compiler, info]) each.dispose();
      });
    } catch (cause) {
      forgetXGrammar();
      const problem = cause instanceof Error ? cause.message : "the grammar is refused";
      throw new RangeError(`Cannot follow the JSON schema: ${problem}`, { cause });
    }
  }

  /** One bit a token, lowest first: those that may come next. */
  async mask(): Promise<Int32Array> {
    return await this.#matcher.getNextTokenBitmask();
  }

  /** A token came. */
  accept(id: number): void {
    if (!this.#matcher.acceptToken(id)) {
      throw new Error(`Token ${id} is not what the schema allows`);
    }
  }

  /** The text is whole. */
  get isOver(): boolean {
    return this.#matcher.isTerminated();
  }

  [Symbol.dispose](): void {
    this.#dispose();
  }
}

/** Texts of tokens by id, as the tokenizer writes them; none for special ones, which no text has. */
function textsOf(json: TokenizerJson, vocabSize: number): { texts: string[]; kind: string } {
  const { vocab } = json.model,
    entries = Array.isArray(vocab)
      ? vocab.map(([text], id): [string, number] => [text, id])
      : Object.entries(vocab);
  const texts = new Array<string>(vocabSize).fill("");
  for (const [text, id] of entries) if (id < vocabSize) texts[id] = text;
  for (const { id, content, special } of json.added_tokens ?? []) {
    if (id < vocabSize) texts[id] = special ? "" : content;
  }
  const decoders = [json.decoder?.type, ...json.decoder?.decoders?.map(({ type }) => type) ?? []];
  const kind = decoders.includes("ByteLevel")
    ? "byte_level"
    : json.model.byte_fallback
    ? "byte_fallback"
    : "raw";
  return { texts, kind };
}
