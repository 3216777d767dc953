import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { ModelFileError, UnsupportedModelError } from "../src/errors.ts";
import { type ByteSource, FileSource } from "../src/format/byte_source.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { planParts } from "../src/format/flash_writer.ts";
import type { TensorRef } from "../src/format/header.ts";
import { type Quantization, QUANTIZATIONS, vectorByteLength } from "../src/format/layout.ts";
import { pack, type PackOptions } from "../src/format/pack.ts";
import { loadRows, untileRows } from "../src/format/quantize.ts";
import { LocalFiles } from "../src/checkpoint/model_files.ts";
import { openWeights } from "../src/checkpoint/open_weights.ts";
import { VERSION } from "../src/version.ts";
import { packTiny } from "./tiny_flash.ts";
import {
  floatTensor,
  TemporaryFolder,
  type TinyModelOptions,
  writeTinyModel,
} from "./tiny_model.ts";

const FIXTURE = fileURLToPath(new URL("./fixtures/opt", import.meta.url));
const TALES = fileURLToPath(new URL("../models/tales", import.meta.url));

/** Our names and those of Hugging Face, written out once more. */
function namesOf(numLayers: number): [string, string][] {
  const names: [string, string][] = [
    ["embedTokens", "model.decoder.embed_tokens.weight"],
    ["embedPositions", "model.decoder.embed_positions.weight"],
    ["finalNorm.weight", "model.decoder.final_layer_norm.weight"],
    ["finalNorm.bias", "model.decoder.final_layer_norm.bias"],
  ];
  const inLayer = [
    ["attentionNorm", "self_attn_layer_norm", "weight bias"],
    ["attention.query", "self_attn.q_proj", "weight bias"],
    ["attention.key", "self_attn.k_proj", "weight bias"],
    ["attention.value", "self_attn.v_proj", "weight bias"],
    ["attention.output", "self_attn.out_proj", "weight bias"],
    ["ffnNorm", "final_layer_norm", "weight bias"],
    ["ffn.up", "fc1", "bias"],
    ["ffn.down", "fc2", "bias"],
  ];
  for (let layer = 0; layer < numLayers; layer++) {
    for (const [ours, theirs, kinds] of inLayer) {
      for (const kind of kinds.split(" ")) {
        const source = `model.decoder.layers.${layer}.${theirs}.${kind}`;
        names.push([`layers.${layer}.${ours}.${kind}`, source]);
      }
    }
  }
  return names;
}

async function sourceReader(folder: string): Promise<(name: string) => Float32Array> {
  const weights = await openWeights(new LocalFiles(folder));
  return (name) => {
    const tensor = weights.tensors.get(name)!;
    const values = new Float32Array(tensor.length);
    weights.readFloats(tensor, { from: 0, length: tensor.length }, values);
    return values;
  };
}

/** A resident tensor as f32. */
function tensorValues(file: FlashFile, tensor: TensorRef): Float32Array {
  const [rows, cols] = tensor.shape.length === 1 ? [1, tensor.shape[0]] : tensor.shape;
  let bytes = file.readRange(tensor);
  if (tensor.layout === "tiled") {
    const tiles = bytes;
    bytes = new Uint8Array(rows * vectorByteLength(tensor.dtype, cols));
    untileRows(tensor.dtype, tiles, { rows, cols }, bytes);
  }
  const values = new Float32Array(rows * cols);
  loadRows(tensor.dtype, bytes, { rows, cols }, values);
  return values;
}

/** q8 is off by half a step at most, q4 by one and a half, and the step depends on the largest of 32 neighbours. */
function assertClose(
  found: Float32Array,
  wanted: Float32Array,
  dtype: Quantization,
  name: string,
): void {
  assert.equal(found.length, wanted.length, name);
  for (let from = 0; from < wanted.length; from += 32) {
    const block = wanted.subarray(from, from + 32);
    const largest = block.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
    const bound = {
      f32: 0,
      f16: largest / 2048 + 2 ** -25,
      q8: largest / 250 + 2 ** -20,
      q4: largest / 5.6 + 2 ** -20,
    }[dtype];
    for (let index = 0; index < block.length; index++) {
      const error = Math.abs(found[from + index] - block[index]);
      if (!(error <= bound)) assert.fail(`${name} ${from + index}: ${error} is above ${bound}`);
    }
  }
}

async function checkAgainstSource(source: string, quant: Quantization): Promise<void> {
  using folder = new TemporaryFolder();
  const target = folder.file("x.flash");
  const { byteLength, ignoredTensors } = await pack({ source, target, quant });
  assert.deepEqual(ignoredTensors, []);
  assert.deepEqual(readdirSync(folder.path), ["x.flash"]);
  using file = FlashFile.open(target);
  assert.equal(file.byteLength, byteLength);
  assert.equal((await file.verify()).ok, true);
  const read = await sourceReader(source);
  const { config, tensors, layers } = file.header;
  const names = namesOf(config.numLayers);
  assert.deepEqual(tensors.map(({ name }) => name).sort(), names.map(([name]) => name).sort());
  for (const [ours, theirs] of names) {
    const tensor = file.tensor(ours);
    assertClose(tensorValues(file, tensor), read(theirs), tensor.dtype, ours);
  }
  const { hiddenSize: d, intermediateSize: n } = config;
  for (const layerIndex of layers.keys()) {
    const up = read(`model.decoder.layers.${layerIndex}.fc1.weight`);
    const down = read(`model.decoder.layers.${layerIndex}.fc2.weight`);
    const found = new Float32Array(2 * d);
    for (let neuron = 0; neuron < n; neuron++) {
      loadRows(quant, file.readBundle(layerIndex, neuron), { rows: 2, cols: d }, found);
      const name = `bundle ${neuron} of layer ${layerIndex}`;
      assertClose(found.subarray(0, d), up.subarray(neuron * d, neuron * d + d), quant, name);
      const column = Float32Array.from({ length: d }, (_, row) => down[row * n + neuron]);
      assertClose(found.subarray(d), column, quant, name);
    }
  }
}

for (const quant of QUANTIZATIONS) {
  test(`pack() as ${quant} keeps every number of the fixture in its place`, async () => {
    await checkAgainstSource(FIXTURE, quant);
  });
}

test("pack() keeps every number of the embedded model in its place", async () => {
  await checkAgainstSource(TALES, "f16");
});

test("pack() stores the tokenizer's files as they are, or null", async () => {
  using folder = new TemporaryFolder();
  const target = folder.file("x.flash");
  const { header } = await pack({ source: TALES, target, quant: "q8" });
  assert.equal(header.tokenizer?.json, readFileSync(`${TALES}/tokenizer.json`, "utf8"));
  assert.equal(header.tokenizer?.config, readFileSync(`${TALES}/tokenizer_config.json`, "utf8"));
  using file = FlashFile.open(target);
  assert.deepEqual(file.header, header);
  const fixture = await pack({ source: FIXTURE, target, quant: "q8" });
  assert.equal(fixture.header.tokenizer, null);
});

test("pack() records where a file came from", async () => {
  using folder = new TemporaryFolder();
  const target = folder.file("x.flash");
  const createdAt = "2026-01-02T03:04:05Z";
  const { header } = await pack({ source: FIXTURE, target, quant: "f32", createdAt });
  assert.deepEqual(header.provenance, {
    source: "opt",
    sourceFiles: [{ name: "model.safetensors", byteLength: 519440 }],
    flashpipeVersion: VERSION,
    createdAt,
    synthetic: false,
  });
  const manifest = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  assert.equal(JSON.parse(manifest).version, VERSION);
});

test("pack() makes equal bytes of equal weights: strips, shards and prefixes change no weight", async () => {
  using folder = new TemporaryFolder();
  const bytesOf = async (model: TinyModelOptions, options: Partial<PackOptions> = {}) => {
    using own = new TemporaryFolder();
    const source = own.file("tiny"); // The name is part of the file.
    writeTinyModel(source, model);
    const target = folder.file("x.flash");
    const { header } = await pack({ source, target, quant: "q8", createdAt: "then", ...options });
    return { bytes: readFileSync(target), header };
  };
  const { bytes, header } = await bytesOf({});
  for (const stripBytesMax of [1, 32 * 4 * 5, 32 * 4 * 95, 2 ** 20]) {
    assert.ok((await bytesOf({}, { stripBytesMax })).bytes.equals(bytes), String(stripBytesMax));
  }
  assert.ok((await bytesOf({}, { threads: 2 })).bytes.equals(bytes), "by threads");
  assert.ok(!(await bytesOf({}, { createdAt: "now" })).bytes.equals(bytes));
  const others: [TinyModelOptions, number][] = [[{ shards: 2 }, 2], [{ prefix: "" }, 1]];
  for (const [model, fileCount] of others) { // Their provenance differs, but no weight does.
    const other = await bytesOf(model);
    assert.deepEqual(other.header.tensors, header.tensors);
    assert.deepEqual(other.header.layers, header.layers);
    assert.equal(other.header.provenance.sourceFiles.length, fileCount);
  }
});

test("pack() takes an untied output matrix, and ignores one that is tied", async () => {
  using folder = new TemporaryFolder();
  const lmHead = floatTensor("lm_head.weight", "F32", [43, 32], new Float32Array(43 * 32).fill(2));
  const add: TinyModelOptions["change"] = (tensors) => [...tensors, lmHead];
  const path = await packTiny(folder, "f32", {
    change: add,
    config: { tie_word_embeddings: false },
  });
  using file = FlashFile.open(path);
  assert.equal(file.header.config.tiedEmbedding, false);
  const values = tensorValues(file, file.tensor("lmHead"));
  assert.ok(values.length === 43 * 32 && values.every((value) => value === 2));
  const padding = file.readRange(file.tensor("lmHead")).subarray((5 * 8 + 3) * 128);
  assert.equal(padding.byteLength, 5 * 128); // Rows 43 to 47.
  assert.ok(padding.every((byte) => byte === 0));

  writeTinyModel(folder.file("tied"), { change: add });
  const target = folder.file("tied.flash");
  const tied = await pack({ source: folder.file("tied"), target, quant: "f32" });
  assert.deepEqual(tied.ignoredTensors, []);
  assert.ok(tied.header.tensors.every(({ name }) => name !== "lmHead"));
});

test("pack() reports tensors that it has no place for", async () => {
  using folder = new TemporaryFolder();
  const extra = floatTensor("decoder.version", "F32", [1], Float32Array.of(3));
  writeTinyModel(folder.file("tiny"), { change: (tensors) => [...tensors, extra] });
  const options = { source: folder.file("tiny"), target: folder.file("x.flash") };
  const { ignoredTensors } = await pack({ ...options, quant: "q8" });
  assert.deepEqual(ignoredTensors, ["decoder.version"]);
});

/** A file that remembers the largest buffer that was read into. */
class CountingSource implements ByteSource {
  static largestBuffer = 0;
  #source: FileSource;
  readonly path: string;
  readonly byteLength: number;
  constructor(path: string) {
    this.#source = new FileSource(path);
    this.path = path;
    this.byteLength = this.#source.byteLength;
  }
  read(target: Uint8Array, byteOffset: number): void {
    const { byteLength } = target.buffer;
    CountingSource.largestBuffer = Math.max(CountingSource.largestBuffer, byteLength);
    this.#source.read(target, byteOffset);
  }
  close(): void {
    this.#source.close();
  }
}

test("pack() needs memory that does not grow with the model", async () => {
  using folder = new TemporaryFolder();
  const largestBuffer = async (sizes: Record<string, number>, stripBytesMax: number) => {
    const config = { hidden_size: 256, word_embed_proj_dim: 256, num_hidden_layers: 1, ...sizes };
    writeTinyModel(folder.file("tiny"), { config, dtype: "F16" });
    CountingSource.largestBuffer = 0;
    await pack({
      source: folder.file("tiny"),
      target: folder.file("x.flash"),
      quant: "q8",
      stripBytesMax,
      openSource: (path) => new CountingSource(path),
    });
    return CountingSource.largestBuffer;
  };
  const MIB = 2 ** 20;
  // FFN matrices of 8192 x 256 f16 have 4 MiB. Strips of columns, and rows for them, are bounded,
  assert.equal(await largestBuffer({ ffn_dim: 8192 }, MIB / 4), MIB / 4);
  assert.equal(await largestBuffer({ ffn_dim: 8192, num_hidden_layers: 3 }, MIB / 4), MIB / 4);
  assert.equal(await largestBuffer({ ffn_dim: 16384 }, MIB / 4), MIB / 4);
  assert.equal(await largestBuffer({ ffn_dim: 8192 }, 3 * MIB), 3 * MIB);
  assert.equal(await largestBuffer({ ffn_dim: 16384 }, 3 * MIB), 3 * MIB);
  // and so are rows of a matrix: 2^20 numbers.
  assert.equal(await largestBuffer({ ffn_dim: 32, vocab_size: 9000 }, MIB), 2 * MIB);
});

test("pack() reports progress to the end, and every part", async () => {
  using folder = new TemporaryFolder();
  const seen = new Set<string>();
  let last = { doneBytes: 0, totalBytes: -1 };
  const { header } = await pack({
    source: FIXTURE,
    target: folder.file("x.flash"),
    quant: "f16",
    onProgress: (progress) => {
      assert.ok(progress.doneBytes > last.doneBytes);
      seen.add(progress.part);
      last = progress;
    },
  });
  assert.equal(last.doneBytes, last.totalBytes);
  assert.equal(seen.size, header.tensors.length + header.layers.length);
  const planned = planParts({
    quantization: "f16",
    ffnQuantization: "f16",
    config: header.config,
  });
  assert.equal(planned.reduce((sum, { byteLength }) => sum + byteLength, 0), last.totalBytes);
  for (const part of planned) {
    if (part.kind !== "tensor") continue;
    const { byteOffset } = header.tensors.find(({ name }) => name === part.tensor.name)!;
    assert.equal(part.byteOffset, byteOffset);
  }
});

for (const threads of [1, 2]) {
  test(`pack() that is aborted or fails leaves nothing behind, and the old file as it was (${threads})`, async () => {
    await failPacks(threads);
  });
}

async function failPacks(threads: number): Promise<void> {
  using folder = new TemporaryFolder();
  const target = folder.file("x.flash");
  writeFileSync(target, "old");
  const controller = new AbortController();
  const aborted = pack({
    source: FIXTURE,
    target,
    quant: "q8",
    threads,
    signal: controller.signal,
    onProgress: ({ part }) => {
      if (part === "layers.0.bundles") controller.abort(new Error("enough"));
    },
  });
  await assert.rejects(aborted, /enough/);
  assert.deepEqual(readdirSync(folder.path), ["x.flash"]);
  const early = { source: FIXTURE, target, quant: "q8" as const, signal: AbortSignal.abort() };
  await assert.rejects(pack(early), { name: "AbortError" });

  const bad = folder.file("bad");
  writeTinyModel(bad, {
    change: (tensors) => {
      const { bytes } = tensors.find(({ name }) => name.endsWith("layers.1.fc2.weight"))!;
      new DataView(bytes.buffer).setFloat32(4 * (3 * 96 + 17), NaN, true); // Row 3, neuron 17.
      return tensors;
    },
  });
  await assert.rejects(pack({ source: bad, target, quant: "q8", threads }), (error: Error) => {
    assert.ok(error instanceof ModelFileError);
    assert.match(error.message, /q8 cannot hold the number NaN/);
    assert.equal(error.field, "model.decoder.layers.1.fc2.weight");
    const file = readFileSync(`${bad}/model.safetensors`);
    assert.ok(Number.isNaN(file.readFloatLE(error.byteOffset)));
    return true;
  });
  assert.deepEqual(readdirSync(folder.path).sort(), ["bad", "x.flash"]);
  assert.equal(readFileSync(target, "utf8"), "old");
}

test("pack() refuses numbers too large for f16, and keeps them in f32", async () => {
  using folder = new TemporaryFolder();
  const change: TinyModelOptions["change"] = (tensors) => {
    new DataView(tensors[0].bytes.buffer).setFloat32(40, 70000, true);
    return tensors;
  };
  await assert.rejects(packTiny(folder, "f16", { change }), /f16 cannot hold the number 70000/);
  await packTiny(folder, "f32", { change });
});

const UNSUPPORTED: [Record<string, unknown>, RegExp][] = [
  [
    { model_type: "gpt2" },
    /model_type "gpt2" is not supported; the nearest is opt, which lacks .*; supported: opt, llama, /,
  ],
  [{ model_type: undefined }, /model_type undefined is not supported/],
  [{ word_embed_proj_dim: 16 }, /embedding size 16 is no multiple of 32/],
  [{ word_embed_proj_dim: 64 }, /embeddings of 64 numbers are longer/],
  [{ activation_function: "gelu" }, /activation_function must be "relu" .*found "gelu"/],
  [{ enable_bias: false }, /enable_bias must be true/],
  [{ layer_norm_elementwise_affine: false }, /layer_norm_elementwise_affine must be true/],
  [{ hidden_size: 40, word_embed_proj_dim: 40 }, /40 is no multiple of 32/],
  [{ ffn_dim: 80 }, /80 is no multiple of 32/],
  [{ ffn_dim: 65_568 }, /q8 holds at most 65536 neurons a layer, not 65568/],
  [{ num_attention_heads: 16 }, /16 attention heads have 2 numbers/],
  [{ eos_token_id: 43 }, /token 43 is not in a vocabulary of 43/],
];

test("pack() refuses models that it cannot run, saying what it could", async () => {
  using folder = new TemporaryFolder();
  const source = folder.file("tiny");
  for (const [config, message] of UNSUPPORTED) {
    writeTinyModel(source, { change: () => [] });
    const all = JSON.parse(readFileSync(`${source}/config.json`, "utf8"));
    writeFileSync(`${source}/config.json`, JSON.stringify({ ...all, ...config }));
    const packing = pack({ source, target: folder.file("x.flash"), quant: "q8" });
    await assert.rejects(packing, (error: Error) => {
      assert.ok(error instanceof UnsupportedModelError, `${error.stack}`);
      assert.match(error.message, message);
      assert.equal(error.exitCode, 2);
      return true;
    });
  }
});

test("pack() names the file and field that is damaged", async () => {
  using folder = new TemporaryFolder();
  const source = folder.file("tiny");
  const packing = () => pack({ source, target: folder.file("x.flash"), quant: "q8" });
  const rename: TinyModelOptions["change"] = (tensors) =>
    tensors.map((tensor) => ({ ...tensor, name: tensor.name.replace("1.fc1.bias", "1.x") }));
  writeTinyModel(source, { change: rename });
  await assert.rejects(packing(), /tensor model\.decoder\.layers\.1\.fc1\.bias is missing/);
  writeTinyModel(source, { change: (all) => all.map((t) => ({ ...t, shape: [...t.shape, 1] })) });
  await assert.rejects(packing(), /embed_tokens\.weight has shape \[43,32,1\], expected \[43,32\]/);
  writeFileSync(`${source}/config.json`, "{");
  await assert.rejects(packing(), /config\.json: this is not JSON/);
  writeFileSync(`${source}/config.json`, "null");
  await assert.rejects(packing(), /the config is not an object/);
  writeFileSync(`${source}/config.json`, `{"model_type":"opt","ffn_dim":"many"}`);
  await assert.rejects(packing(), /\(ffn_dim, byte 0\)/);
  writeTinyModel(source);
  writeFileSync(`${source}/tokenizer.json`, "oops");
  await assert.rejects(packing(), /tokenizer\.json: this is not JSON/);
});
