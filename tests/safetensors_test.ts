import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { LocalFiles } from "../src/checkpoint/model_files.ts";
import { openWeights } from "../src/checkpoint/open_weights.ts";
import { readSafetensorsHeader } from "../src/checkpoint/safetensors.ts";
import { ModelFileError } from "../src/errors.ts";
import { MemorySource } from "../src/format/byte_source.ts";
import {
  encodeSafetensors,
  floatsOf,
  floatTensor,
  joinSafetensors,
  TemporaryFolder,
  writeTinyModel,
} from "./tiny_model.ts";

const FIXTURE = fileURLToPath(new URL("./fixtures/opt", import.meta.url));

/** Opens a model and reads every tensor. */
async function readAll(folder: string): Promise<Map<string, Float32Array>> {
  const weights = await openWeights(new LocalFiles(folder));
  try {
    return new Map([...weights.tensors.values()].map((tensor) => {
      const values = new Float32Array(tensor.length);
      weights.readFloats(tensor, { from: 0, length: tensor.length }, values);
      return [tensor.name, values];
    }));
  } finally {
    weights.close();
  }
}

test("openWeights() reads the fixture as its header and bytes say", async () => {
  const file = readFileSync(join(FIXTURE, "model.safetensors"));
  const headerLength = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + headerLength));
  delete header.__metadata__;
  const values = await readAll(FIXTURE);
  assert.deepEqual([...values.keys()].sort(), Object.keys(header).sort());
  type Entry = { data_offsets: [number, number] };
  for (const [name, { data_offsets: [begin] }] of Object.entries<Entry>(header)) {
    const floats = values.get(name)!;
    for (const index of [0, floats.length >> 1, floats.length - 1]) {
      assert.equal(floats[index], file.readFloatLE(8 + headerLength + begin + 4 * index), name);
    }
  }
});

for (const dtype of ["F32", "F16", "BF16"] as const) {
  test(`Checkpoint.readFloats() reads ${dtype}, whole and in parts, from one file and from shards`, async () => {
    using folder = new TemporaryFolder();
    const single = folder.file("single");
    const sharded = folder.file("sharded");
    const tensors = writeTinyModel(single, { dtype });
    writeTinyModel(sharded, { dtype, shards: 3 });
    const expected = new Map(tensors.map((tensor) => [tensor.name, floatsOf(tensor)]));
    for (const found of [await readAll(single), await readAll(sharded)]) {
      assert.equal(found.size, expected.size);
      for (const [name, values] of expected) assert.deepEqual(found.get(name), values, name);
    }
    const weights = await openWeights(new LocalFiles(sharded));
    const tensor = weights.tensors.get("model.decoder.layers.1.fc2.weight")!;
    const part = new Float32Array(5);
    weights.readFloats(tensor, { from: 7, length: 5 }, part);
    assert.deepEqual(part, expected.get(tensor.name)!.slice(7, 12));
    const beyond = { from: tensor.length - 1, length: 2 };
    assert.throws(() => weights.readFloats(tensor, beyond, part), RangeError);
    weights.close();
  });
}

test("Checkpoint.readFloats() keeps infinities, NaN and subnormal numbers of BF16 and F16", async () => {
  using folder = new TemporaryFolder();
  const bits = Uint16Array.of(0x7f80, 0xff80, 0x7fc0, 0x0001, 0x8000, 0x3f80);
  const halves = Uint16Array.of(0x7c00, 0xfc00, 0x7e00, 0x0001, 0x8000, 0x3c00);
  writeFileSync(
    folder.file("model.safetensors"),
    encodeSafetensors([
      { name: "b", dtype: "BF16", shape: [6], bytes: new Uint8Array(bits.buffer) },
      { name: "h", dtype: "F16", shape: [6], bytes: new Uint8Array(halves.buffer) },
    ]),
  );
  const values = await readAll(folder.path);
  // Written from the definitions of the two formats: least subnormal 2^-133 and 2^-24.
  assert.deepEqual([...values.get("b")!], [Infinity, -Infinity, NaN, 2 ** -133, -0, 1]);
  assert.deepEqual([...values.get("h")!], [Infinity, -Infinity, NaN, 2 ** -24, -0, 1]);
});

const entry = (begin: number, end: number, shape = [2], dtype = "F32") =>
  JSON.stringify({ dtype, shape, data_offsets: [begin, end] });

const BAD_HEADERS: [string, string, number, RegExp][] = [
  ["no JSON", "{", 0, /not JSON/],
  ["no object", "[]", 0, /not an object/],
  ["a list as entry", `{"a":[]}`, 0, /a\./],
  ["an unknown type", `{"a":${entry(0, 8, [2], "F33")}}`, 8, /unknown type "F33".*a\.dtype/],
  ["a wrong size", `{"a":${entry(0, 8, [3])}}`, 8, /takes 12 bytes, not 8.*a\.data_offsets/],
  ["a size beyond 2^53", `{"a":${entry(0, 8, [2 ** 40, 2 ** 40])}}`, 8, /a\.data_offsets/],
  ["a negative size", `{"a":${entry(0, 8, [-2])}}`, 8, /a\.shape/],
  ["a broken size", `{"a":${entry(0, 8, [0.5, 4])}}`, 8, /a\.shape/],
  ["offsets turned round", `{"a":${entry(8, 0)}}`, 8, /a\.data_offsets/],
  ["bytes beyond the file", `{"a":${entry(0, 8)}}`, 7, /ends at byte .*a\.data_offsets/],
  ["an overlap", `{"a":${entry(0, 8)},"b":${entry(4, 12)}}`, 12, /b overlaps/],
  ["a gap", `{"a":${entry(0, 8)},"b":${entry(12, 20)}}`, 20, /b leaves a gap/],
  ["bytes at the end", `{"a":${entry(0, 8)}}`, 9, /1 bytes after the last tensor/],
  [
    "a name that stands twice",
    `{"a":${entry(0, 8)},"\\u0061":${entry(8, 16)}}`,
    16,
    /stands twice/,
  ],
  ["a key that stands twice", `{"a":{"dtype":"F16",${entry(0, 8).slice(1)}}`, 8, /stands twice/],
  ["an unknown key", `{"a":{"x":1,${entry(0, 8).slice(1)}}`, 8, /Unrecognized/],
];

for (const [what, header, dataLength, message] of BAD_HEADERS) {
  test(`readSafetensorsHeader() refuses ${what}`, () => {
    const source = new MemorySource(joinSafetensors(header, [new Uint8Array(dataLength)]), "x.st");
    return assert.rejects(readSafetensorsHeader(source), (error: Error) => {
      assert.ok(error instanceof ModelFileError, `${error.stack}`);
      assert.equal(error.path, "x.st");
      assert.match(error.message, message);
      return true;
    });
  });
}

test("readSafetensorsHeader() refuses a header length that the file cannot hold, before allocating", async () => {
  for (const length of [2n ** 63n, 2n ** 40n, 100n]) {
    const bytes = new Uint8Array(64);
    new DataView(bytes.buffer).setBigUint64(0, length, true);
    const read = () => readSafetensorsHeader(new MemorySource(bytes));
    await assert.rejects(read, /beyond the end of the file.*header length, byte 0/);
  }
  const short = new MemorySource(new Uint8Array(7));
  await assert.rejects(readSafetensorsHeader(short), ModelFileError);
});

test("readSafetensorsHeader() takes scalars, empty tensors and metadata", async () => {
  const scalar = floatTensor("s", "F32", [], Float32Array.of(3));
  const empty = floatTensor("e", "F32", [0, 4], new Float32Array(0));
  const tensors = await readSafetensorsHeader(new MemorySource(encodeSafetensors([empty, scalar])));
  assert.deepEqual(tensors.map(({ name, length }) => [name, length]), [["e", 0], ["s", 1]]);
  const header = `{"__metadata__":{"format":"pt"},"a":${entry(0, 8)}}   `;
  const source = new MemorySource(joinSafetensors(header, [new Uint8Array(8)]));
  assert.equal((await readSafetensorsHeader(source)).length, 1);
});

test("openWeights() refuses shards whose names lead out of the folder", async () => {
  const names = ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x\0.safetensors", ""];
  for (const name of names) {
    using folder = new TemporaryFolder();
    const index = JSON.stringify({ weight_map: { a: name } });
    writeFileSync(folder.file("model.safetensors.index.json"), index);
    await assert.rejects(
      openWeights(new LocalFiles(folder.path)),
      /is not a shard's file name/,
      name,
    );
  }
});

test("openWeights() refuses a tensor in two shards, or missing from its shard", async () => {
  using folder = new TemporaryFolder();
  const a = encodeSafetensors([floatTensor("a", "F32", [2], new Float32Array(2))]);
  const writeIndex = (weightMap: Record<string, string>) => {
    const index = JSON.stringify({ weight_map: weightMap });
    writeFileSync(folder.file("model.safetensors.index.json"), index);
  };
  writeFileSync(folder.file("1.safetensors"), a);
  writeFileSync(folder.file("2.safetensors"), a);
  writeIndex({ a: "1.safetensors", b: "2.safetensors" });
  await assert.rejects(
    openWeights(new LocalFiles(folder.path)),
    /tensor a is in .*1\.safetensors too/,
  );
  writeIndex({ a: "1.safetensors", b: "1.safetensors" });
  await assert.rejects(
    openWeights(new LocalFiles(folder.path)),
    /tensor b is not in 1\.safetensors/,
  );
});

test("openWeights() says what it looked for in a folder without weights", async () => {
  using folder = new TemporaryFolder();
  await assert.rejects(
    openWeights(new LocalFiles(folder.path)),
    /there is none of model\.safetensors, /,
  );
  writeFileSync(folder.file("pytorch_model.bin"), "");
  await assert.rejects(
    openWeights(new LocalFiles(folder.path)),
    /pytorch_model\.bin: this is no zip archive/,
  );
});

test("Checkpoint.readFloats() refuses types that are no weights", async () => {
  using folder = new TemporaryFolder();
  const tensor = { name: "i", dtype: "I64", shape: [1], bytes: new Uint8Array(8) };
  writeFileSync(folder.file("model.safetensors"), encodeSafetensors([tensor]));
  const weights = await openWeights(new LocalFiles(folder.path));
  const read = () =>
    weights.readFloats(weights.tensors.get("i")!, { from: 0, length: 1 }, new Float32Array(1));
  assert.throws(read, /I64; supported: F32, F16, BF16, Q8_0, .* \(i\.dtype/);
  weights.close();
});
