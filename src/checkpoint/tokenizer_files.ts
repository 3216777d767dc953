import { z } from "zod";
import { readJson } from "../../models/read_json.ts";
import type { Tokenizer } from "../format/header.ts";
import { byteLevelTokenizer } from "./byte_level_tokenizer.ts";
import type { AddedToken } from "./byte_level_tokenizer.ts";
import { CONFIG_BYTES_MAX, readJsonFile, readText } from "./model_files.ts";
import type { ModelFiles } from "./model_files.ts";

const TOKENIZER_BYTES_MAX = 48 * 2 ** 20;

/**
 * The tokenizer of a Hugging Face folder: `tokenizer.json` as it is, or one made of `vocab.json` and `merges.txt`, which older
 * folders have; null where there is neither. Who generates text parses it.
 */
export async function readTokenizer(files: ModelFiles, modelType: string): Promise<Tokenizer> {
  const config = await readTokenizerConfig(files);
  if (files.has("tokenizer.json")) {
    const { text } = await readJsonFile(files, "tokenizer.json", TOKENIZER_BYTES_MAX);
    return { json: text, config };
  }
  if (!files.has("vocab.json") || !files.has("merges.txt")) return null;
  const vocab = await read(vocabSchema, files, "vocab.json");
  const lines = (await readText(files, "merges.txt", TOKENIZER_BYTES_MAX)).split(/\r?\n/);
  const merges = lines.filter((line) => line !== "" && !line.startsWith("#version"));
  const added = await specialTokens(files, vocab);
  // OPT's own tokenizer begins each text with the token that ends one.
  const begin = added.filter(({ content }) => modelType === "opt" && content === "</s>");
  const parts = { vocab, merges, added, begin, patterns: [], ignoreMerges: false };
  return { json: JSON.stringify(byteLevelTokenizer(parts)), config };
}

/** Newer folders keep the chat template in a file of its own. */
async function readTokenizerConfig(files: ModelFiles): Promise<string | null> {
  const { text, json } = files.has("tokenizer_config.json")
    ? await readJsonFile(files, "tokenizer_config.json", TOKENIZER_BYTES_MAX)
    : { text: null, json: {} };
  if (!files.has("chat_template.jinja")) return text;
  const template = await readText(files, "chat_template.jinja", CONFIG_BYTES_MAX);
  return JSON.stringify({ ...(json as Record<string, unknown>), chat_template: template });
}

const vocabSchema = z.record(z.string(), z.int().nonnegative());

const tokenSchema = z.union([
  z.string(),
  z.object({ content: z.string() }).transform((t) => t.content),
]);

const specialSchema = z.object({
  bos_token: tokenSchema.optional(),
  eos_token: tokenSchema.optional(),
  unk_token: tokenSchema.optional(),
  pad_token: tokenSchema.optional(),
});

/** Tokens that special_tokens_map.json names, as far as the vocabulary has them. */
async function specialTokens(
  files: ModelFiles,
  vocab: Readonly<Record<string, number>>,
): Promise<AddedToken[]> {
  const file = "special_tokens_map.json";
  const named = files.has(file) ? await read(specialSchema, files, file) : {};
  const contents = new Set([...Object.values(named), "<s>", "</s>", "<pad>", "<unk>"]);
  return [...contents].filter((content) => Object.hasOwn(vocab, content))
    .map((content) => ({ content, id: vocab[content], isSpecial: true }))
    .sort((a, b) => a.id - b.id);
}

async function read<T>(schema: z.ZodType<T>, files: ModelFiles, file: string): Promise<T> {
  const { json } = await readJsonFile(files, file, TOKENIZER_BYTES_MAX);
  return readJson(schema, json, files.pathOf(file));
}
