/** Tokenizers that are made of what other formats keep of them say what the original says. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { ggufTokenizer } from "../src/checkpoint/gguf_tokenizer.ts";
import { LocalFiles } from "../src/checkpoint/model_files.ts";
import { readTokenizer } from "../src/checkpoint/tokenizer_files.ts";
import { UnsupportedModelError } from "../src/errors.ts";
import { TextCodec } from "../src/text_stream.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const TALES = JSON.parse(
  readFileSync(new URL("../models/tales/tokenizer.json", import.meta.url), "utf8"),
);
const { vocab, merges }: { vocab: Record<string, number>; merges: string[] } = TALES.model;
const ORIGINAL = new TextCodec({ json: JSON.stringify(TALES), config: null }, "tales");

const TEXTS = [
  "Once upon a time, there was a king.",
  "  two  spaces\n\nand lines\t!",
  "It's 12345 o'clock: caf\u00e9, \u4f60\u597d, \ud83d\ude00",
  "",
];

function assertSame(codec: TextCodec): void {
  for (const text of TEXTS) {
    const ids = ORIGINAL.encode(text);
    assert.deepEqual(codec.encode(text), ids, JSON.stringify(text));
    assert.equal(codec.decode(ids), ORIGINAL.decode(ids));
  }
}

test("readTokenizer() makes OPT's tokenizer of vocab.json and merges.txt", async () => {
  using folder = new TemporaryFolder();
  writeFileSync(folder.file("vocab.json"), JSON.stringify(vocab));
  writeFileSync(folder.file("merges.txt"), `#version: 0.2\n${merges.join("\n")}\n`);
  writeFileSync(folder.file("special_tokens_map.json"), '{"bos_token":{"content":"</s>"}}');
  const files = new LocalFiles(folder.path);
  assertSame(new TextCodec((await readTokenizer(files, "opt"))!, "opt"));
  const other = new TextCodec((await readTokenizer(files, "phi"))!, "phi");
  assert.deepEqual(other.encode("Once"), ORIGINAL.encode("Once").slice(1));
});

test("readTokenizer() takes a chat template that has a file of its own", async () => {
  using folder = new TemporaryFolder();
  writeFileSync(folder.file("tokenizer.json"), JSON.stringify(TALES));
  writeFileSync(folder.file("tokenizer_config.json"), '{"bos_token":"</s>"}');
  writeFileSync(folder.file("chat_template.jinja"), "{{ messages[0].content }}");
  const { config } = (await readTokenizer(new LocalFiles(folder.path), "opt"))!;
  assert.deepEqual(JSON.parse(config!), {
    bos_token: "</s>",
    chat_template: "{{ messages[0].content }}",
  });
});

test("ggufTokenizer() makes a tokenizer of bytes of a GGUF file's tokens and merges", () => {
  const tokens = Object.entries(vocab).sort((a, b) => a[1] - b[1]).map(([token]) => token);
  const metadata = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": tokens.map((_, id) => id < 4 ? 3 : 1),
    "tokenizer.ggml.merges": merges,
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.add_bos_token": true,
  };
  assertSame(new TextCodec(ggufTokenizer(metadata, "x.gguf")!, "x.gguf"));
  const other = { ...metadata, "tokenizer.ggml.pre": "jais" };
  assert.throws(() => ggufTokenizer(other, "x.gguf"), UnsupportedModelError);
  const unknown = { ...metadata, "tokenizer.ggml.model": "bert" };
  assert.throws(() => ggufTokenizer(unknown, "x.gguf"), /"bert" is not supported: gpt2, llama/);
  assert.equal(ggufTokenizer({}, "x.gguf"), null);
  const long = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["a".repeat(100_000)],
    "tokenizer.ggml.scores": [0],
  };
  assert.throws(() => ggufTokenizer(long, "x.gguf"), /its tokens are too long/);
  // What llama.cpp takes for granted of Llama 3 alone.
  const { "tokenizer.ggml.add_bos_token": _, ...untold } = metadata;
  const beginsWith = (pre: string) => {
    const tokenizer = ggufTokenizer({ ...untold, "tokenizer.ggml.pre": pre }, "x.gguf")!;
    return new TextCodec(tokenizer, "x.gguf").encode("Once")[0] === 2;
  };
  assert.deepEqual(["llama-bpe", "qwen2", "gpt-2"].map(beginsWith), [true, false, false]);
  // Digits stand alone, whatever could be merged.
  const pairs = {
    ...metadata,
    "tokenizer.ggml.tokens": [...tokens, "11"],
    "tokenizer.ggml.token_type": [...metadata["tokenizer.ggml.token_type"], 1],
    "tokenizer.ggml.merges": [...merges, "1 1"],
  };
  const lengthOf = (pre: string) => {
    const tokenizer = ggufTokenizer({ ...pairs, "tokenizer.ggml.pre": pre }, "x.gguf")!;
    return new TextCodec(tokenizer, "x.gguf").encode("11", false).length;
  };
  assert.deepEqual(["gpt-2", "smollm"].map(lengthOf), [1, 2]);
  const broken = { ...metadata, "tokenizer.ggml.tokens": "none" };
  assert.throws(() => ggufTokenizer(broken, "x.gguf"), { name: "ModelFileError" });
});
