/** The same weights in other files give the same model. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { fuzzInputs } from "../bench/fuzz_inputs.ts";
import { Checkpoint } from "../src/checkpoint/checkpoint.ts";
import { readGgufHeader } from "../src/checkpoint/gguf.ts";
import { LocalFiles } from "../src/checkpoint/model_files.ts";
import { openWeights } from "../src/checkpoint/open_weights.ts";
import { readTorchHeader } from "../src/checkpoint/torch_zip.ts";
import { ModelFileError, UnsupportedModelError } from "../src/errors.ts";
import { FileSource } from "../src/format/byte_source.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import type { Quantization } from "../src/format/layout.ts";
import { pack } from "../src/format/pack.ts";
import { open } from "../src/open.ts";
import { TextCodec } from "../src/text_stream.ts";
import { goldenOf, idsOf } from "./packed_models.ts";
import { TemporaryFolder } from "./tiny_model.ts";

/** Made by tests/fixtures/make_inputs.py of the model of llama_rope_llama3. */
const INPUTS = fileURLToPath(new URL("fixtures/inputs/", import.meta.url));
const SOURCE = fileURLToPath(new URL("fixtures/llama_rope_llama3/", import.meta.url));
const MIXTRAL = fileURLToPath(new URL("fixtures/mixtral_silu/", import.meta.url));
const CONFIG = join(SOURCE, "config.json");

const input = (name: string) => join(INPUTS, name);

/** A model folder with these files as its weights. */
function folderWith(folder: TemporaryFolder, files: Record<string, string>): string {
  const path = folder.file(Object.keys(files)[0] + ".folder");
  mkdirSync(path);
  copyFileSync(CONFIG, join(path, "config.json"));
  for (const [name, source] of Object.entries(files)) copyFileSync(source, join(path, name));
  return path;
}

/** Checksums of all weights of the model once packed. */
async function checksums(
  folder: TemporaryFolder,
  source: string,
  options: { quant?: Quantization; configPath?: string } = {},
): Promise<Record<string, unknown>> {
  const target = folder.file("out.flash");
  const { header } = await pack({ source, target, quant: "f16", configPath: CONFIG, ...options });
  return {
    ...Object.fromEntries(header.tensors.map(({ name, checksum }) => [name, checksum])),
    bundles: header.layers.map(({ bundles }) => [...bundles.checksums]),
  };
}

test("pack() makes the same sections of safetensors, PyTorch's files and GGUF", async () => {
  using folder = new TemporaryFolder();
  const index = "pytorch_model.bin.index.json";
  const shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
  const files = Object.fromEntries([index, ...shards].map((name) => [name, input(name)]));
  const wanted = await checksums(folder, SOURCE);
  const sources = {
    "one .bin": folderWith(folder, { "pytorch_model.bin": input("pytorch_model.bin") }),
    "two .bin": folderWith(folder, files),
    "GGUF, F16": input("llama_f16.gguf"),
  };
  for (const [what, source] of Object.entries(sources)) {
    assert.deepEqual(await checksums(folder, source), wanted, what);
  }
});

for (const [kind, quant] of [["q8_0", "q8"], ["q4_0", "q4"]] as const) {
  test(`pack() keeps the numbers of GGUF's ${kind} in ${quant}`, async () => {
    using folder = new TemporaryFolder();
    const same = folderWith(folder, { "model.safetensors": input(`llama_${kind}.safetensors`) });
    const gguf = input(`llama_${kind}.gguf`);
    assert.deepEqual(
      await checksums(folder, gguf, { quant }),
      await checksums(folder, same, { quant }),
    );
    // And as numbers, not only as what the same quantizer makes of them.
    const exact = await checksums(folder, same, { quant: "f32" });
    assert.deepEqual(await checksums(folder, gguf, { quant: "f32" }), exact);
  });
}

/** The first layer of the model's fixture, with experts stacked, or Persimmon's fused matrix; from nothing but the file itself. */
for (const name of ["mixtral_silu", "olmoe_silu", "qwen3_moe_silu", "persimmon"] as const) {
  test(`pack() makes the same config and sections of ${name} as safetensors and as GGUF`, async () => {
    using folder = new TemporaryFolder();
    const source = fileURLToPath(new URL(`fixtures/${name}/`, import.meta.url));
    const [wanted, found] = await Promise.all(
      [source, input(`${name}_f16.gguf`)].map((source, k) =>
        pack({ source, target: folder.file(`${k}.flash`), quant: "f16" })
      ),
    );
    // GGUF keeps what is added to a norm's variance as f32, as kernels take it.
    const { norm } = wanted.header.config;
    const same = { numLayers: 1, norm: { ...norm, epsilon: Math.fround(norm.epsilon) } };
    assert.deepEqual(found.header.config, { ...wanted.header.config, ...same });
    const checksumOf = new Map(wanted.header.tensors.map(({ name, checksum }) => [name, checksum]));
    for (const { name, checksum } of found.header.tensors) {
      assert.equal(checksum, checksumOf.get(name), name);
    }
    assert.deepEqual(
      found.header.layers[0].bundles.checksums,
      wanted.header.layers[0].bundles.checksums,
    );
    assert.deepEqual(found.ignoredTensors, []);
  });
}

test("pack() keeps the blocks of experts, stacked or each by itself", async () => {
  using folder = new TemporaryFolder();
  const stacked = input("mixtral_silu_q8_0.gguf"), apart = input("mixtral_silu_apart_q8_0.gguf");
  for (const quant of ["q8", "f32"] as const) {
    const same = { quant, configPath: undefined };
    assert.deepEqual(await checksums(folder, stacked, same), await checksums(folder, apart, same));
  }
  // The last expert's numbers, up to a step of its largest scale, which is what Q8_0 rounds off.
  const path = folder.file("out.flash"), d = 64, each = 96;
  const file = FlashFile.open(path), weights = await openWeights(new LocalFiles(MIXTRAL));
  const bundles = new Float32Array(
    file.readBundles(0, { first: 3 * each, count: each }).slice().buffer,
  );
  for (const [index, part] of ["w1", "w3", "w2"].entries()) {
    const tensor = weights.tensors.get(
      `model.layers.0.block_sparse_moe.experts.3.${part}.weight`,
    )!;
    const exact = new Float32Array(tensor.length);
    weights.readFloats(tensor, { from: 0, length: tensor.length }, exact);
    const step = Math.max(...exact.map(Math.abs)) / 127;
    for (let neuron = 0; neuron < each; neuron++) {
      for (let k = 0; k < d; k++) {
        const wanted = exact[part === "w2" ? k * each + neuron : neuron * d + k];
        const found = bundles[(3 * neuron + index) * d + k];
        assert.ok(
          Math.abs(found - wanted) <= step,
          `${part}, neuron ${neuron}: ${found}, ${wanted}`,
        );
      }
    }
  }
  file.close();
  weights.close();
});

test("pack() of a GGUF file runs as the model that it was made of, and speaks with its tokenizer", async () => {
  using folder = new TemporaryFolder();
  const { input_ids, greedy_ids, last_logits } = goldenOf("llama_rope_llama3");
  const target = folder.file("gguf.flash");
  await pack({ source: input("llama_f16.gguf"), target, quant: "f32", configPath: CONFIG });
  await using model = await open(target, { ffn: "exact", lanes: 1, readers: 1 });
  assert.deepEqual(await idsOf(model, input_ids, { maxTokens: greedy_ids.length }), greedy_ids);
  const logits = (await model.logits(input_ids)).subarray(-last_logits.length);
  const scale = Math.max(...last_logits.map(Math.abs));
  for (const [index, value] of logits.entries()) {
    assert.ok(Math.abs(value - last_logits[index]) <= 1e-4 * scale, `logit ${index}`);
  }
  // <s>, then the piece of best score that can be made; a byte alone where there is none.
  const abc = 3 + 256 + 9;
  assert.deepEqual(model.encode("abc"), [1, abc]);
  assert.deepEqual(model.encode("abcZ"), [1, abc, 3 + 0x5a]);
  assert.equal(model.decode([1, abc, 3 + 0x5a, abc]), "abcZ abc");
  // Its decoder takes a space from the beginning of what it gets: token by token none may be lost.
  const { json, config } = model.header.tokenizer!, codec = new TextCodec({ json, config }, target);
  const textAfter = (prompt: number[]) => {
    const stream = codec.stream(prompt);
    return [abc, abc, 3 + 0x5a, abc].map((id) => stream.push(id)).join("");
  };
  assert.equal(textAfter([1]), "abc abcZ abc");
  assert.equal(textAfter([1, abc]), " abc abcZ abc");
});

test("pack() needs no config.json of a GGUF file whose activation is the usual one", async () => {
  using folder = new TemporaryFolder();
  const { input_ids, greedy_ids } = goldenOf("mistral_silu"), target = folder.file("x.flash");
  await pack({ source: input("mistral_f16.gguf"), target, quant: "f32" });
  await using model = await open(target, { lanes: 1, readers: 1 });
  assert.deepEqual(await idsOf(model, input_ids, { maxTokens: greedy_ids.length }), greedy_ids);
});

test("pack() takes what GGUF says of a model where no config.json does", async () => {
  using folder = new TemporaryFolder();
  const target = folder.file("silu.flash");
  const { header: { config, architecture } } = await pack({
    source: input("llama_q8_0.gguf"),
    target,
    quant: "q8",
  });
  assert.equal(architecture, "llama");
  assert.equal(config.ffn.activation, "silu");
  assert.deepEqual(
    [config.hiddenSize, config.intermediateSize, config.numLayers, config.vocabSize],
    [64, 256, 2, 320],
  );
  const { positions } = config;
  assert.ok(positions.kind === "rotary" && positions.scaling?.kind === "factors");
  assert.equal(positions.scaling.factors.length, 8);
  const file = FlashFile.open(target);
  const { chat_template } = JSON.parse(file.header.tokenizer!.config!);
  file.close();
  assert.match(chat_template, /for m in messages/);
});

test("readTorchHeader() finds views of one storage in a wrapped dictionary", async () => {
  const source = new FileSource(input("views.bin"));
  const tensors = new Map((await readTorchHeader(source)).map((each) => [each.name, each]));
  const weights = new Checkpoint([source], tensors);
  const { shared, part, turned, one } = Object.fromEntries(tensors);
  const [rows, cols] = shared.shape;
  assert.deepEqual([part.shape, turned.shape], [[2, cols], [cols, rows]]);
  assert.deepEqual([one.dtype, one.shape], ["BF16", [1]]);
  const whole = new Float32Array(rows * cols), two = new Float32Array(2 * cols);
  weights.readFloats(shared, { from: 0, length: rows * cols }, whole);
  weights.readFloats(part, { from: 0, length: 2 * cols }, two);
  assert.deepEqual(two, whole.slice(3 * cols, 5 * cols));
  const number = new Float32Array(1);
  weights.readFloats(one, { from: 0, length: 1 }, number);
  assert.equal(number[0], 1.5);
  assert.match(turned.unreadable!, /do not lie side by side/);
  assert.equal(shared.unreadable, undefined);
  weights.close();
});

test("readTorchHeader() reads names, types and numbers", async () => {
  using folder = new TemporaryFolder();
  const path = folderWith(folder, { "pytorch_model.bin": input("pytorch_model.bin") });
  const found = await openWeights(new LocalFiles(path)),
    wanted = await openWeights(new LocalFiles(SOURCE));
  assert.deepEqual([...found.tensors.keys()].sort(), [...wanted.tensors.keys()].sort());
  for (const [name, tensor] of wanted.tensors) {
    const other = found.tensors.get(name)!;
    assert.deepEqual([other.dtype, other.shape], ["F16", tensor.shape], name);
    const range = { from: 0, length: tensor.length };
    const [a, b] = [new Float32Array(tensor.length), new Float32Array(tensor.length)];
    wanted.readFloats(tensor, range, a);
    found.readFloats(other, range, b);
    assert.deepEqual(b, a, name);
  }
  found.close();
  wanted.close();
});

test("openWeights() says what is wrong with PyTorch's files", async () => {
  const whole = readFileSync(input("pytorch_model.bin"));
  const cases: [Uint8Array, RegExp][] = [
    [whole.subarray(0, whole.length - 1000), /archive cannot be read/],
    [new Uint8Array(0), /no zip archive/],
    [new Uint8Array([0x80, 2, 0x8a, 10]), /PyTorch before 1\.6/],
  ];
  for (const [bytes, message] of cases) {
    using folder = new TemporaryFolder();
    const path = folderWith(folder, { "pytorch_model.bin": input("pytorch_model.bin") });
    writeFileSync(join(path, "pytorch_model.bin"), bytes);
    await assert.rejects(openWeights(new LocalFiles(path)), (error: Error) => {
      assert.ok(error instanceof ModelFileError);
      assert.match(error.message, message);
      return true;
    });
  }
});

test("readGgufHeader() and readTorchHeader() read or refuse whatever was damaged", async () => {
  for (const { kind, read, refused } of await fuzzInputs({ count: 1000, seed: 1 })) {
    // A run that accepts or refuses everything would test nothing.
    assert.ok(read > 50 && refused > 50, `${kind}: ${read} read, ${refused} refused`);
  }
});

test("pack() refuses an unknown architecture, and a GGUF file that is none", async () => {
  using folder = new TemporaryFolder();
  const bytes = readFileSync(input("llama_q4_0.gguf"));
  const other = folder.file("other.gguf"), none = folder.file("none.gguf");
  const at = bytes.indexOf("general.architecture") + "general.architecture".length + 12;
  writeFileSync(
    other,
    Buffer.concat([bytes.subarray(0, at), Buffer.from("mamba"), bytes.subarray(at + 5)]),
  );
  writeFileSync(none, "nothing of the kind");
  const target = folder.file("x.flash");
  await assert.rejects(pack({ source: other, target, quant: "q8" }), (error: Error) => {
    assert.ok(error instanceof UnsupportedModelError);
    assert.match(error.message, /"mamba" is not supported in GGUF files; supported: llama, /);
    return true;
  });
  await assert.rejects(pack({ source: none, target, quant: "q8" }), /not starting with GGUF magic/);
});

test("Checkpoint.readFloats() refuses parts of a block", async () => {
  const source = new FileSource(input("llama_q8_0.gguf"));
  const { tensors } = await readGgufHeader(source);
  const weights = new Checkpoint([source], new Map(tensors.map((each) => [each.name, each])));
  const tensor = weights.tensors.get("blk.0.ffn_up.weight")!;
  const values = new Float32Array(64);
  assert.throws(() => weights.readFloats(tensor, { from: 1, length: 32 }, values), RangeError);
  assert.throws(() => weights.readFloats(tensor, { from: 0, length: 31 }, values), RangeError);
  weights.readFloats(tensor, { from: 32, length: 32 }, values);
  source.close();
});
