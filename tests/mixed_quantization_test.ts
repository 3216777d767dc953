/** Resident weights and bundles of different types: `pack --quant A --ffn-quant B`. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { FlashHeader } from "../src/format/header.ts";
import { QUANTIZATIONS, vectorByteLength } from "../src/format/layout.ts";
import type { Quantization } from "../src/format/layout.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { updateFlash } from "../src/format/flash_update.ts";
import { pack } from "../src/format/pack.ts";
import { loadRows, storeRows } from "../src/format/quantize.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { addPredictors, packTiny } from "./tiny_flash.ts";
import { floatsOf, floatTensor, TemporaryFolder, writeTinyModel } from "./tiny_model.ts";
import type { SourceTensor } from "./tiny_model.ts";

const folder = new TemporaryFolder();
after(() => folder[Symbol.dispose]());

const CONFIG = { hidden_size: 64, word_embed_proj_dim: 64 };
const IDS = [2, 17, 40, 5, 31, 8];

/** Values [rows][cols] as they come back from being stored. */
function rounded(kind: Quantization, values: Float32Array, cols: number): Float32Array {
  const shape = { rows: values.length / cols, cols };
  const bytes = new Uint8Array(shape.rows * vectorByteLength(kind, cols));
  storeRows(kind, values, shape, bytes);
  const result = new Float32Array(values.length);
  loadRows(kind, bytes, shape, result);
  return result;
}

function transposed(values: Float32Array, cols: number): Float32Array {
  const rows = values.length / cols;
  return values.map((_, i) => values[(i % rows) * cols + Math.floor(i / rows)]);
}

/** The tensor with the numbers that a file with these types holds. */
function roundTensor(
  tensor: SourceTensor,
  quant: Quantization,
  ffnQuant: Quantization,
): SourceTensor {
  const { name, shape } = tensor, cols = shape[shape.length - 1];
  if (shape.length === 1) return tensor;
  const values = floatsOf(tensor);
  const positions = quant === "f32" ? "f32" : "f16";
  const store = (result: Float32Array) =>
    floatTensor(name, "F32", shape, result as Float32Array<ArrayBuffer>);
  if (name.includes("embed_positions")) return store(rounded(positions, values, cols));
  if (name.includes("fc1")) return store(rounded(ffnQuant, values, cols));
  // A neuron's column of the down matrix is a row of its bundle.
  if (name.includes("fc2")) {
    const columns = rounded(ffnQuant, transposed(values, cols), shape[0]);
    return store(transposed(columns, shape[0]));
  }
  return store(rounded(quant, values, cols));
}

async function logitsOf(path: string, options: OpenOptions): Promise<Float32Array> {
  await using model = await open(path, {
    lanes: 1,
    readers: 2,
    kv: "f32",
    ffnCache: "20%",
    ...options,
  });
  return await model.logits(IDS);
}

for (const quant of QUANTIZATIONS) {
  for (const ffnQuant of QUANTIZATIONS) {
    test(`Resident ${quant} and bundles ${ffnQuant}: logits of the stored numbers, exact equals dense`, async () => {
      const source = folder.file(`${quant}-${ffnQuant}`), target = `${source}.flash`;
      writeTinyModel(source, { config: CONFIG });
      await pack({ source, target, quant, ffnQuant });
      const dense = await logitsOf(target, { ffn: "dense" });
      assert.deepEqual(await logitsOf(target, { ffn: "exact", lanes: 2 }), dense);

      writeTinyModel(source, {
        config: CONFIG,
        change: (tensors) => tensors.map((tensor) => roundTensor(tensor, quant, ffnQuant)),
      });
      const plain = `${source}-plain.flash`;
      await pack({ source, target: plain, quant: "f32" });
      const wanted = await logitsOf(plain, { ffn: "dense", ffnCache: "100%" });
      const scale = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      dense.forEach((value, i) => {
        const error = Math.abs(value - wanted[i]) / scale;
        // Activations of q8 and q4 have 16 bits, coefficients of their columns at least 11.
        assert.ok(error <= 2e-3, `logit ${i} is off by ${error} of the largest`);
      });
    });
  }
}

test("Resident f16 and bundles q8: predicted with an audit does not depend on cache and lanes", async () => {
  const source = folder.file("predicted"), path = folder.file("predicted.flash");
  writeTinyModel(source, { config: CONFIG });
  await pack({ source, target: path, quant: "f16", ffnQuant: "q8" });
  addPredictors(path);
  const expected = await logitsOf(path, { ffn: "predicted" });
  const ways: OpenOptions[] = [{ lanes: 2, audit: true }, { ffnCache: "100%" }];
  for (const options of ways) {
    assert.deepEqual(await logitsOf(path, { ffn: "predicted", ...options }), expected);
  }
});

test("FlashFile.open() takes bundles for stored like the rest where an older file does not say", async () => {
  const path = await packTiny(folder, "q8");
  updateFlash(path, ({ header }) => {
    const { ffnQuantization: _, ...older } = header;
    return older as FlashHeader;
  });
  using file = FlashFile.open(path);
  assert.equal(file.header.ffnQuantization, "q8");
});
