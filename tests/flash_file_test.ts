import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { familyOf } from "../models/registry.ts";
import { crc32 } from "node:zlib";
import { decode, encode } from "@msgpack/msgpack";
import { ModelFileError, UnsupportedModelError } from "../src/errors.ts";
import { MemorySource } from "../src/format/byte_source.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { updateFlash } from "../src/format/flash_update.ts";
import { type FlashContent, FlashWriter } from "../src/format/flash_writer.ts";
import { predictorTensors } from "../src/format/header.ts";
import type { FlashHeader } from "../src/format/header.ts";
import { findMsgpackProblem } from "../src/format/msgpack_bounds.ts";
import { encodeSlot } from "../src/format/prelude.ts";
import { addBitPlanes, addPredictors, packTiny, withHeader } from "./tiny_flash.ts";
import { TemporaryFolder, TINY_CONFIG } from "./tiny_model.ts";

/** The bytes of a tiny `.flash` file, with predictors or without. */
async function tinyBytes(
  { predictors = false }: { predictors?: boolean | "bit-planes" } = {},
): Promise<Uint8Array<ArrayBuffer>> {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "q8");
  if (predictors === "bit-planes") addBitPlanes(path, 3);
  else if (predictors) addPredictors(path);
  return new Uint8Array(readFileSync(path));
}

/** Opens bytes as a file. */
function openBytes(bytes: Uint8Array): FlashFile {
  return FlashFile.open(new MemorySource(bytes, "x.flash"));
}

test("FlashFile.open() finds header, tensors and bundles where the writer put them", async () => {
  const bytes = await tinyBytes();
  using file = openBytes(bytes);
  assert.equal(new TextDecoder().decode(bytes.subarray(0, 8)), "FLASHPIP");
  assert.equal(bytes.byteLength % 4096, 0);
  assert.equal(file.slot.generation, 1);
  const { header } = file;
  assert.equal(header.config.hiddenSize, TINY_CONFIG.hidden_size);
  const view = new DataView(bytes.buffer);
  const slot = [512, 520, 528].map((at) => Number(view.getBigUint64(at, true)));
  assert.deepEqual(slot, [1, file.slot.byteOffset, file.slot.byteLength]);
  const tensor = file.tensor("layers.1.attention.key.weight");
  assert.deepEqual([tensor.dtype, tensor.layout, tensor.shape], ["q8", "tiled", [32, 32]]);
  assert.equal(crc32(file.readRange(tensor)), tensor.checksum);
  for (const { byteOffset } of header.tensors) assert.equal(byteOffset % 64, 0);
  for (const { bundles } of header.layers) assert.equal(bundles.byteOffset % 4096, 0);
  const { byteOffset, bundleByteLength } = header.layers[1].bundles;
  const expected = bytes.subarray(byteOffset + 95 * bundleByteLength).subarray(0, bundleByteLength);
  assert.deepEqual(file.readBundle(1, 95), new Uint8Array(expected));
  assert.throws(() => file.readBundle(1, 96), RangeError);
  assert.throws(() => file.readBundle(2, 0), RangeError);
  assert.throws(() => file.tensor("lmHead"), RangeError);
});

test("FlashFile.read() reads into shared memory from a real file", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "f16");
  using file = FlashFile.open(path);
  const tensor = file.tensor("embedTokens");
  const shared = new Uint8Array(new SharedArrayBuffer(tensor.byteLength + 128), 64);
  file.read(shared.subarray(0, tensor.byteLength), tensor.byteOffset);
  assert.equal(crc32(shared.subarray(0, tensor.byteLength)), tensor.checksum);
});

test("FlashFile.verify() is content with a sound file and names what is damaged", async () => {
  const bytes = await tinyBytes({ predictors: true });
  using sound = openBytes(bytes);
  assert.deepEqual((await sound.verify()).failures, []);
  const { header } = sound, [[, firstTensor]] = predictorTensors(header.predictors!.layers[1]);
  const damage = [
    ["finalNorm.bias", sound.tensor("finalNorm.bias").byteOffset + 3],
    ["predictors.layers.1.a", firstTensor.byteOffset],
    ["layers.0.bundles 64..95", header.layers[0].bundles.byteOffset + 96 * 68 - 1],
  ] as const;
  for (const [field, byteOffset] of damage) {
    const damaged = bytes.slice();
    damaged[byteOffset] ^= 0x10;
    using file = openBytes(damaged);
    const { ok, failures } = await file.verify();
    assert.equal(ok, false);
    assert.deepEqual(failures.map((failure) => failure.field), [field]);
  }
});

test("FlashFile.verify() stops when it is told to", async () => {
  using file = openBytes(await tinyBytes());
  await assert.rejects(file.verify({ signal: AbortSignal.abort(new Error("enough")) }), /enough/);
});

test("updateFlash() adds predictors, keeps weights, and takes turns with the slots", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "q8");
  const before = readFileSync(path);
  for (let generation = 2; generation <= 4; generation++) {
    addPredictors(path, generation);
    using file = FlashFile.open(path);
    assert.equal(file.slot.generation, generation);
    assert.equal(file.slotIndex, (generation - 1) % 2);
    assert.equal(file.byteLength % 4096, 0);
    assert.equal(file.header.predictors!.calibration.tokens, generation);
    assert.equal((await file.verify()).ok, true);
  }
  const after = readFileSync(path);
  assert.ok(after.subarray(4096, before.byteLength).equals(before.subarray(4096)));
});

test("updateFlash() that stops anywhere leaves the old header in force", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "q8");
  const before = new Uint8Array(readFileSync(path));
  addPredictors(path);
  const after = new Uint8Array(readFileSync(path));
  // All that is behind the old end, in part or whole, without the slot.
  for (const share of [0, 0.3, 0.9, 1]) {
    const length = before.byteLength + Math.floor(share * (after.byteLength - before.byteLength));
    const partial = after.slice(0, length);
    partial.set(before);
    using file = openBytes(partial);
    assert.deepEqual([file.slot.generation, file.header.predictors], [1, null]);
    assert.equal((await file.verify()).ok, true);
  }
  // The slot, in part.
  for (let slotBytes = 0; slotBytes < 32; slotBytes++) {
    const torn = after.slice();
    torn.fill(0, 1024 + slotBytes, 1024 + 32);
    using file = openBytes(torn);
    assert.equal(file.slot.generation, 1, `${slotBytes} bytes of the slot`);
  }
  // The whole slot, but the header behind it is damaged.
  using updated = openBytes(after);
  const damaged = after.slice();
  damaged[updated.slot.byteOffset + 5] ^= 1;
  using file = openBytes(damaged);
  assert.equal(file.slot.generation, 1);
});

test("updateFlash() refuses an unsound header and a tensor of wrong size, and changes nothing", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "q8");
  assert.throws(
    () => updateFlash(path, ({ header }) => ({ ...header, layers: [] })),
    ModelFileError,
  );
  const tensor = { dtype: "f32", layout: "rows", shape: [8] } as const;
  assert.throws(
    () =>
      updateFlash(path, ({ header, append }) => {
        append({ ...tensor, shape: [8] }, new Uint8Array(31));
        return header;
      }),
    /expected 32 bytes, received 31/,
  );
  using file = FlashFile.open(path);
  assert.equal(file.slot.generation, 1);
});

// deno-lint-ignore no-explicit-any
type Loose = any;

const BAD_HEADERS: [string, (header: Loose) => void, RegExp][] = [
  ["an unknown key", (h) => h.extra = 1, /Unrecognized key: "extra"/],
  ["a missing key", (h) => delete h.provenance, /\(provenance/],
  ["an unknown number type", (h) => h.tensors[0].dtype = "q3", /tensors\.0\.dtype/],
  ["a wrong shape", (h) => h.tensors[0].shape = [32, 43], /embedTokens\)\.shape/],
  ["a wrong length", (h) => h.tensors[0].byteLength -= 1, /embedTokens\)\.byteLength/],
  ["an unaligned tensor", (h) => h.tensors[0].byteOffset += 1, /no multiple of 64/],
  ["a tensor in the prelude", (h) => h.tensors[0].byteOffset = 64, /tensors\.0\.byteOffset/],
  ["a tensor beyond the end", (h) => h.tensors[0].byteOffset = 2 ** 40, /ends at byte 1099511/],
  ["a broken offset", (h) => h.tensors[0].byteOffset = 4096.5, /tensors\.0\.byteOffset/],
  ["an offset beyond 2^53", (h) => h.tensors[0].byteOffset = 2 ** 60, /tensors\.0\.byteOffset/],
  ["two tensors on one place", (h) => {
    h.tensors[4].byteOffset = h.tensors[6].byteOffset;
  }, /inside of layers/],
  ["a missing tensor", (h) => h.tensors.splice(3, 1), /is missing/],
  ["a tensor too many", (h) => h.tensors.push({ ...h.tensors[0], name: "x" }), /expected \d+: x/],
  ["a name that stands twice", (h) => h.tensors.push(h.tensors[0]), /stands twice/],
  ["a layer too few", (h) => h.layers.pop(), /1 layers, expected 2/],
  ["more layers than tensors", (h) => h.config.numLayers = 4000, /4000 layers in/],
  ["wild sizes", (h) => h.config.hiddenSize = 2 ** 40, /config\.hiddenSize/],
  [
    "heads that do not divide",
    (h) => h.config.numKeyValueHeads = 3,
    /2 attention heads cannot share 3/,
  ],
  ["a token beyond the vocabulary", (h) => h.config.bosTokenId = 43, /token 43 is not in/],
  ["NaN", (h) => h.config.norm.epsilon = NaN, /norm\.epsilon/],
  ["a wrong count of bundles", (h) => h.layers[0].bundles.count = 95, /bundles\.count/],
  ["bundles of another size", (h) => h.layers[0].bundles.bundleByteLength = 4, /bundleByteLength/],
  ["unaligned bundles", (h) => h.layers[0].bundles.byteOffset += 64, /bundles\.byteOffset/],
  ["too few checksums", (h) => h.layers[1].bundles.groupCount = 1, /layers\.1\.bundles\.checksums/],
  ["an order that is no bytes", (h) => h.layers[0].bundles.order = "x", /bundles\.order/],
  [
    "an order of too few neurons",
    (h) => h.layers[0].bundles.order = new Uint8Array(8),
    /expected 384, found 8/,
  ],
  [
    "an order with a neuron twice",
    (h) => h.layers[1].bundles.order = new Uint8Array(4 * 96),
    /neuron 0 stands at position 1/,
  ],
  ["a rank that is no multiple of 32", (h) => h.predictors.layers[0].rank = 33, /rank/],
  ["predictors of too few layers", (h) => h.predictors.layers.pop(), /predictors\.layers/],
  [
    "a miss curve of unequal arrays",
    (h) => h.predictors.missCurves[0].slots.pop(),
    /missCurves\.0/,
  ],
];

/** The same of bit planes: 96 neurons, 32 columns, 3 bits. */
const BAD_BIT_PLANES: typeof BAD_HEADERS = [
  ["no bits", (h) => h.predictors.layers[0].bits = 0, /layers\.0\.bits/],
  ["5 bits", (h) => h.predictors.layers[0].bits = 5, /layers\.0\.bits/],
  [
    "other bits than the planes",
    (h) => h.predictors.layers[1].bits = 2,
    /expected 96,2,32, found 96,3,32 .*layers\.1\.planes\.shape/,
  ],
  ["a shape of two", (h) => h.predictors.layers[0].planes.shape = [96, 96], /planes\.shape/],
  ["bytes as planes", (h) => h.predictors.layers[0].planes.dtype = "q8", /planes\.dtype/],
  ["planes in tiles", (h) => h.predictors.layers[0].planes.layout = "tiled", /planes\.layout/],
  [
    "planes that are too short",
    (h) => h.predictors.layers[0].planes.byteLength -= 16,
    /expected 1152, found 1136 .*layers\.0\.planes\.byteLength/,
  ],
  ["bits as scales", (h) => h.predictors.layers[0].rowScales.dtype = "u1", /rowScales\.dtype/],
  ["a mean of n", (h) => h.predictors.layers[0].mean.shape = [96], /layers\.0\.mean\.shape/],
  ["no early mean", (h) => delete h.predictors.layers[1].earlyMean, /layers\.1\.earlyMean/],
  ["a rank", (h) => h.predictors.layers[0].rank = 32, /rank/],
  ["layers of another kind", (h) => h.predictors.kind = "low-rank", /predictors\.layers\.0/],
  ["an unknown kind", (h) => h.predictors.kind = "gate", /predictors\.kind/],
  [
    "planes inside of other planes",
    (h) => h.predictors.layers[1].planes.byteOffset = h.predictors.layers[0].planes.byteOffset,
    /inside of predictors\.layers\.[01]\.planes/,
  ],
  ["bits in the model's tensors", (h) => h.tensors[0].dtype = "u1", /tensors\.0\.dtype/],
  ["predictors of too few layers", (h) => h.predictors.layers.pop(), /predictors\.layers/],
];

test("FlashFile.open() refuses unsound headers with right checksums, naming the field", async () => {
  const bytes = await tinyBytes({ predictors: true });
  const original = refuseAll(bytes, BAD_HEADERS);
  refuseAll(await tinyBytes({ predictors: "bit-planes" }), BAD_BIT_PLANES);
  const header = { ...decode(original) as FlashHeader, architecture: "gpt9" };
  const open = () => openBytes(withHeader(bytes, encode(header)));
  assert.throws(open, (error: Error) => {
    assert.ok(error instanceof UnsupportedModelError);
    assert.match(error.message, /"gpt9" is not supported; supported: opt/);
    return true;
  });
});

/** Opens a sound file with each of the headers behind it; returns the bytes of its own. */
function refuseAll(bytes: Uint8Array, headers: typeof BAD_HEADERS): Uint8Array {
  const { slot } = openBytes(bytes);
  const original = bytes.subarray(slot.byteOffset, slot.byteOffset + slot.byteLength);
  for (const [what, change, message] of headers) {
    const header = decode(original) as FlashHeader;
    change(header);
    const bad = withHeader(bytes, encode(header));
    assert.throws(() => openBytes(bad), (error: Error) => {
      assert.ok(error instanceof ModelFileError, `${what}: ${error.stack}`);
      assert.match(error.message, message, what);
      assert.ok(error.byteOffset === bytes.byteLength, what);
      return true;
    }, what);
  }
  return original;
}

test("FlashFile.open() refuses what is no .flash file, or not whole", async () => {
  const bytes = await tinyBytes();
  assert.throws(() => openBytes(new Uint8Array(100)), /too few/);
  assert.throws(() => openBytes(new Uint8Array(5000)), /not a \.flash file \(magic, byte 0\)/);
  const future = bytes.slice();
  future[8] = 2;
  assert.throws(() => openBytes(future), /version 2 is not known.*byte 8/);
  const truncated = bytes.subarray(0, bytes.byteLength - 4096);
  assert.throws(
    () => openBytes(truncated),
    /slot 0: the header goes beyond.*slot 1: unused/,
  );
  const wild = bytes.slice();
  wild.set(encodeSlot({ generation: 1, byteOffset: 4096, byteLength: 2 ** 52, checksum: 0 }), 512);
  assert.throws(() => openBytes(wild), /goes beyond the file's end/);
  assert.throws(
    () => FlashFile.open("/nowhere/x.flash"),
    /Cannot open \/nowhere\/x\.flash: ENOENT/,
  );
});

test("findMsgpackProblem() refuses what would cost a decoder much memory", () => {
  const problem = (...bytes: number[]) => findMsgpackProblem(Uint8Array.from(bytes))?.problem;
  assert.equal(
    findMsgpackProblem(encode({ a: [1, -1, 1.5, "x", null, true, new Uint8Array(300)] })),
    null,
  );
  assert.match(problem(0xdd, 0xff, 0xff, 0xff, 0xff)!, /4294967295 goes beyond/); // array32
  assert.match(problem(0xdf, 0, 0, 0, 2, 1, 1, 1)!, /2 goes beyond/); // map32
  assert.match(problem(0xdb, 0, 0, 0, 9)!, /9 goes beyond/); // str32
  assert.match(problem(0xc6, 0, 0)!, /within a length/); // bin32
  assert.match(problem(0xcb, 1, 2)!, /goes beyond/); // f64
  assert.match(problem()!, /ends? within a value/);
  assert.match(problem(1, 1)!, /1 bytes after the end/);
  assert.match(problem(0xd6, 0xff, 0, 0, 0, 0)!, /0xd6 is not used/); // A timestamp.
  assert.match(problem(...new Array(100).fill(0x91))!, /nested deeper than 16/);
  const many = new Uint8Array(5 + 2 ** 19).fill(0xc0);
  many.set([0xdd, 0, 8, 0, 0]);
  assert.match(findMsgpackProblem(many)!.problem, /more than/);
});

test("FlashWriter refuses bytes beyond a part and unfinished files, and leaves nothing behind", () => {
  using folder = new TemporaryFolder();
  const target = folder.file("x.flash");
  const content: FlashContent = {
    architecture: "opt",
    quantization: "f32",
    ffnQuantization: "f32",
    config: familyOf("opt", "here").readConfig(TINY_CONFIG, "config.json"),
    tokenizer: null,
    provenance: {
      source: "x",
      sourceFiles: [],
      flashpipeVersion: "0",
      createdAt: "",
      synthetic: true,
    },
  };
  {
    using writer = new FlashWriter(target, content);
    const [{ byteLength }] = writer.parts;
    assert.throws(() => writer.write(new Uint8Array(byteLength + 1)), RangeError);
    writer.write(new Uint8Array(byteLength));
    assert.throws(() => writer.finish(), /part 1 is not whole/);
    assert.equal(readdirSync(folder.path).length, 1);
  }
  assert.deepEqual(readdirSync(folder.path), []);
  assert.throws(() => new FlashWriter(folder.path, content), /is a folder/);
  assert.equal(existsSync(target), false);
});

test("FlashWriter keeps right checksums whatever the pieces it is given", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "q8");
  using source = FlashFile.open(path);
  const { architecture, quantization, ffnQuantization, config, tokenizer, provenance } =
    source.header;
  const target = folder.file("copy.flash");
  using writer = new FlashWriter(target, {
    architecture,
    quantization,
    ffnQuantization,
    config,
    tokenizer,
    provenance,
  });
  let piece = 1;
  for (const part of writer.parts) {
    const bytes = source.readRange(part);
    for (let from = 0; from < bytes.byteLength; from += piece) {
      piece = piece * 7 % 4093;
      writer.write(bytes.subarray(from, from + piece));
    }
  }
  writer.finish();
  assert.ok(readFileSync(target).equals(readFileSync(path)));
});

test("FlashFile.damaged tells of a newer header that could not be used", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "f16");
  {
    using fresh = FlashFile.open(path);
    assert.equal(fresh.damaged, null);
  }
  addPredictors(path);
  const bytes = new Uint8Array(readFileSync(path));
  {
    using updated = FlashFile.open(path);
    assert.equal(updated.damaged, null);
    bytes[updated.slot.byteOffset + 9] ^= 1;
  }
  writeFileSync(path, bytes);
  using damaged = FlashFile.open(path);
  assert.equal(damaged.header.predictors, null);
  assert.match(damaged.damaged ?? "", /slot 1: wrong checksum of the header/);
});
