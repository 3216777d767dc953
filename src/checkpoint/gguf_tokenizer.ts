import { z } from "zod";
import { readJson } from "../../models/read_json.ts";
import { ModelFileError, printable, UnsupportedModelError } from "../errors.ts";
import type { Tokenizer } from "../format/header.ts";
import { addedToken, beginning, byteLevelTokenizer } from "./byte_level_tokenizer.ts";
import type { AddedToken } from "./byte_level_tokenizer.ts";
import type { GgufMetadata } from "./gguf.ts";

const LLAMA3_PATTERN = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" +
  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const WORDS = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)";
const FALCON_PATTERNS = ["[\\p{P}\\$\\+<=>\\^~\\|`]+", WORDS, "[0-9][0-9][0-9]"];

/**
 * How texts are split before they are merged, one pattern after the other, by `tokenizer.ggml.pre` (llama.cpp's llama-vocab.cpp); null: as
 * GPT-2 does.
 */
const PATTERNS: Readonly<Record<string, readonly string[] | null>> = {
  default: null,
  "gpt-2": null,
  "phi-2": null,
  olmo: null,
  falcon: FALCON_PATTERNS,
  smollm: ["\\p{N}", WORDS],
  "llama-bpe": [LLAMA3_PATTERN],
  llama3: [LLAMA3_PATTERN],
  qwen2: [LLAMA3_PATTERN.replace("\\p{N}{1,3}", "\\p{N}")],
};

/** What llama.cpp takes for granted of Llama 3: a token before each text, and words that are tokens are not merged. */
const LIKE_LLAMA3 = ["llama-bpe", "llama3"];

/** Kinds of tokens, by `tokenizer.ggml.token_type`. */
const CONTROL = 3, USER_DEFINED = 4;

const fieldsSchema = z.object({
  "tokenizer.ggml.model": z.string(),
  "tokenizer.ggml.pre": z.string().default("default"),
  "tokenizer.ggml.tokens": z.array(z.string()),
  "tokenizer.ggml.token_type": z.array(z.number()).optional(),
  "tokenizer.ggml.scores": z.array(z.number()).optional(),
  "tokenizer.ggml.merges": z.array(z.string()).optional(),
  "tokenizer.ggml.bos_token_id": z.number().optional(),
  "tokenizer.ggml.eos_token_id": z.number().optional(),
  "tokenizer.ggml.unknown_token_id": z.number().optional(),
  "tokenizer.ggml.add_bos_token": z.boolean().optional(),
  "tokenizer.ggml.add_space_prefix": z.boolean().optional(),
  "tokenizer.chat_template": z.string().optional(),
});

type Fields = z.infer<typeof fieldsSchema>;

/**
 * Makes `tokenizer.json` and `tokenizer_config.json` of what a GGUF file keeps of a tokenizer; null where it keeps none.
 *
 * @throws {ModelFileError} for fields that are not what they must be
 * @throws {UnsupportedModelError} for kinds that we cannot make
 */
export function ggufTokenizer(metadata: GgufMetadata, path: string): Tokenizer {
  const kind = metadata["tokenizer.ggml.model"];
  if (kind === undefined || kind === "none" || kind === "no_vocab") return null;
  const fields = readJson(fieldsSchema, metadata, path);
  return {
    json: JSON.stringify(tokenizerJson(fields, path)),
    config: JSON.stringify(config(fields)),
  };
}

function tokenizerJson(fields: Fields, path: string): Record<string, unknown> {
  const kind = fields["tokenizer.ggml.model"];
  if (kind === "gpt2") return gpt2(fields, path);
  if (kind === "llama") return sentencePiece(fields, path);
  throw new UnsupportedModelError(
    `${path}: a tokenizer of kind ${printable(JSON.stringify(kind))} is not supported: gpt2, llama`,
  );
}

function config(fields: Fields): Record<string, unknown> {
  const token = (id: number | undefined) =>
    id === undefined ? undefined : fields["tokenizer.ggml.tokens"][id];
  return {
    bos_token: token(fields["tokenizer.ggml.bos_token_id"]),
    eos_token: token(fields["tokenizer.ggml.eos_token_id"]),
    chat_template: fields["tokenizer.chat_template"],
  };
}

function gpt2(fields: Fields, path: string): Record<string, unknown> {
  const pre = fields["tokenizer.ggml.pre"];
  if (!Object.hasOwn(PATTERNS, pre)) {
    throw new UnsupportedModelError(
      `${path}: texts cannot be split as ${printable(JSON.stringify(pre))} does; supported: ` +
        Object.keys(PATTERNS).join(", "),
    );
  }
  return byteLevelTokenizer({
    vocab: vocabOf(fields),
    merges: fields["tokenizer.ggml.merges"] ?? [],
    added: addedTokens(fields),
    begin: begin(fields, LIKE_LLAMA3.includes(pre)),
    patterns: PATTERNS[pre] ?? [],
    ignoreMerges: LIKE_LLAMA3.includes(pre),
  });
}

/**
 * Pieces with scores (SentencePiece) as merges: whichever two pieces make a third may be merged, the best third first. So does
 * `transformers` convert them (convert_slow_tokenizer.py).
 */
function sentencePiece(fields: Fields, path: string): Record<string, unknown> {
  const scores = fields["tokenizer.ggml.scores"], tokens = fields["tokenizer.ggml.tokens"];
  if (scores?.length !== tokens.length) {
    const place = { path, field: "tokenizer.ggml.scores", byteOffset: 0 };
    throw new ModelFileError("not every token has a score", place);
  }
  const vocab = vocabOf(fields), hasPrefix = fields["tokenizer.ggml.add_space_prefix"] ?? true;
  const unknown = fields["tokenizer.ggml.unknown_token_id"] ?? 0;
  const prepend = hasPrefix ? [{ type: "Prepend", prepend: "\u2581" }] : [];
  const strip = hasPrefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : [];
  const replace = (from: string, to: string) => ({
    type: "Replace",
    pattern: { String: from },
    content: to,
  });
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: addedTokens(fields).map(addedToken),
    normalizer: { type: "Sequence", normalizers: [...prepend, replace(" ", "\u2581")] },
    pre_tokenizer: null,
    post_processor: beginning(begin(fields, true)),
    decoder: {
      type: "Sequence",
      decoders: [replace("\u2581", " "), { type: "ByteFallback" }, { type: "Fuse" }, ...strip],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: tokens[unknown],
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab,
      merges: mergesOf(vocab, tokens, scores, path),
    },
  };
}

const MERGE_WORK_MAX = 2 ** 28;

/** "a b" for all tokens ab: by score of ab, then by length of a and b, the largest first. */
function mergesOf(
  vocab: Readonly<Record<string, number>>,
  tokens: readonly string[],
  scores: readonly number[],
  path: string,
): string[] {
  // Ways to cut a token, times its length: real vocabularies stay far below.
  const work = tokens.reduce((sum, { length }) => sum + length ** 2, 0);
  if (work > MERGE_WORK_MAX) {
    const place = { path, field: "tokenizer.ggml.tokens", byteOffset: 0 };
    throw new ModelFileError("its tokens are too long", place);
  }
  const merges: { left: string; right: string; score: number }[] = [];
  for (const [id, token] of tokens.entries()) {
    // A pair cannot be cut within a character that takes two units.
    const characters = Array.from(token);
    const ways = [];
    for (let cut = 1; cut < characters.length; cut++) {
      const left = characters.slice(0, cut).join(""), right = characters.slice(cut).join("");
      if (!Object.hasOwn(vocab, left) || !Object.hasOwn(vocab, right)) continue;
      ways.push({ left, right, score: scores[id] });
    }
    ways.sort((a, b) => vocab[a.left] - vocab[b.left] || vocab[a.right] - vocab[b.right]);
    merges.push(...ways);
  }
  const length = (text: string) => Array.from(text).length;
  merges.sort((a, b) =>
    b.score - a.score || length(b.left) - length(a.left) || length(b.right) - length(a.right)
  );
  return merges.map(({ left, right }) => `${left} ${right}`);
}

function vocabOf({ "tokenizer.ggml.tokens": tokens }: Fields): Record<string, number> {
  return Object.fromEntries(tokens.map((token, id) => [token, id]));
}

function addedTokens(fields: Fields): AddedToken[] {
  const types = fields["tokenizer.ggml.token_type"] ?? [];
  return fields["tokenizer.ggml.tokens"].map((content, id) => ({
    content,
    id,
    isSpecial: types[id] === CONTROL,
  })).filter(({ id }) => types[id] === CONTROL || types[id] === USER_DEFINED);
}

function begin(fields: Fields, byDefault: boolean): AddedToken[] {
  const id = fields["tokenizer.ggml.bos_token_id"];
  if (id === undefined || !(fields["tokenizer.ggml.add_bos_token"] ?? byDefault)) return [];
  return [{ content: fields["tokenizer.ggml.tokens"][id], id, isSpecial: true }];
}
