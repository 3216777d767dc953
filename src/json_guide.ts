import type {
  CompiledGrammar,
  GrammarCompiler,
  GrammarMatcher,
  TokenizerInfo,
} from "@mlc-ai/web-xgrammar";
import type { FlashHeader } from "./format/header.ts";
import { forgetXGrammar, loadXGrammar } from "./load_xgrammar.ts";

/** What of tokenizer.json says which text a token is. */
interface TokenizerJson {
  model: { vocab: Record<string, number> | [string, number][]; byte_fallback?: boolean };
  added_tokens?: { id: number; content: string; special?: boolean }[];
  decoder?: { type?: string; decoders?: { type: string }[] } | null;
}

/** What guides of one model share. */
interface Compiling {
  readonly info: TokenizerInfo;
  readonly compiler: GrammarCompiler;
}

/**
 * Makes guides for a model. The grammar is xgrammar's (Dong et al. 2024), compiled to WebAssembly; it is loaded when first asked for,
 * and knows the model's vocabulary from then on.
 */
export class JsonGuides {
  readonly #header: FlashHeader;
  #compiling: Promise<Compiling> | undefined;

  constructor(header: FlashHeader) {
    this.#header = header;
  }

  /**
   * @param schema a JSON schema, as text or as what it says
   * @throws {RangeError} it is no schema that can be followed, or the model has no tokenizer or no token that ends a text
   */
  async guide(schema: string | object): Promise<JsonGuide> {
    const { tokenizer, config: { eosTokenIds } } = this.#header;
    if (tokenizer === null || eosTokenIds.length === 0) {
      throw new RangeError(
        "Cannot follow a schema without a tokenizer, and a token that ends a text",
      );
    }
    try {
      const text = typeof schema === "string" ? schema : JSON.stringify(schema);
      JSON.parse(text);
      const { GrammarMatcher } = await loadXGrammar();
      const { compiler } = await (this.#compiling ??= compilingOf(this.#header));
      // White space between parts is fixed: a model that is free to may write nothing else.
      const compiled = await compiler.compileJSONSchema(text, false);
      const matcher = await GrammarMatcher.createGrammarMatcher(compiled);
      return new JsonGuide(matcher, compiled);
    } catch (cause) {
      if (!(cause instanceof SyntaxError)) {
        // It ends itself when it refuses something.
        this.#compiling = undefined;
        forgetXGrammar();
      }
      const problem = cause instanceof Error ? cause.message : "the grammar is refused";
      throw new RangeError(`Cannot follow the JSON schema: ${problem}`, { cause });
    }
  }

  /** Gives its memory back. */
  async close(): Promise<void> {
    const compiling = await this.#compiling?.catch(() => undefined);
    this.#compiling = undefined;
    compiling?.compiler.dispose();
    compiling?.info.dispose();
  }
}

async function compilingOf({ tokenizer, config }: FlashHeader): Promise<Compiling> {
  const { GrammarCompiler, TokenizerInfo } = await loadXGrammar();
  const { vocabSize, eosTokenIds } = config;
  const { texts, kind } = textsOf(JSON.parse(tokenizer!.json), vocabSize);
  const info = await TokenizerInfo.createTokenizerInfo(texts, kind, false, vocabSize, eosTokenIds);
  return { info, compiler: await GrammarCompiler.createGrammarCompiler(info, false) };
}

/** Says which tokens may come next so that a text is JSON of a schema. */
export class JsonGuide {
  readonly #matcher: GrammarMatcher;
  readonly #compiled: CompiledGrammar;

  constructor(matcher: GrammarMatcher, compiled: CompiledGrammar) {
    this.#matcher = matcher;
    this.#compiled = compiled;
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
    this.#matcher.dispose();
    this.#compiled.dispose();
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
