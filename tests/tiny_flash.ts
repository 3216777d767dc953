import { crc32 } from "node:zlib";
import { updateFlash } from "../src/format/flash_update.ts";
import { tensorByteLength } from "../src/format/header.ts";
import type { TensorRef } from "../src/format/header.ts";
import type { Quantization } from "../src/format/layout.ts";
import { pack } from "../src/format/pack.ts";
import { encodeSlot } from "../src/format/prelude.ts";
import { seededRandom } from "../src/random.ts";
import { type TemporaryFolder, type TinyModelOptions, writeTinyModel } from "./tiny_model.ts";

/** Packs a tiny model of random weights; returns the path of the `.flash` file. */
export async function packTiny(
  folder: TemporaryFolder,
  quant: Quantization,
  { ffnQuant, ...options }: TinyModelOptions & { ffnQuant?: Quantization } = {},
): Promise<string> {
  writeTinyModel(folder.file("tiny"), options);
  const target = folder.file(`tiny-${quant}.flash`);
  await pack({
    source: folder.file("tiny"),
    target,
    quant,
    ffnQuant,
    createdAt: "2026-01-01",
    synthetic: true,
  });
  return target;
}

/** Puts another header, with right checksums and the highest generation, behind a file. */
export function withHeader(bytes: Uint8Array, header: Uint8Array): Uint8Array {
  const result = new Uint8Array(bytes.byteLength + Math.ceil(header.byteLength / 4096) * 4096);
  result.set(bytes);
  result.set(header, bytes.byteLength);
  const place = { byteOffset: bytes.byteLength, byteLength: header.byteLength };
  result.set(encodeSlot({ generation: 9, ...place, checksum: crc32(header) }), 512);
  return result;
}

/** Of predictors that are made of random numbers. */
const ABOUT = { createdBy: "tests", recallWanted: 0.98 };
const MEASURED = { recall: 0.98, predictedShare: 0.2, activeShare: 0.05 };
const MISS_CURVE = { slots: [8, 16], missesPerToken: [3.5, 1.25] };

/** Adds bit planes of random bits to a file, by whose scores about half of the neurons are named. */
export function addBitPlanes(path: string, bits: number): void {
  const random = seededRandom(bits);
  updateFlash(path, ({ header, append }) => {
    const { hiddenSize: d, intermediateSize: n } = header.config;
    const vector = (length: number, make: () => number) =>
      append(
        { dtype: "f32", layout: "rows", shape: [length] },
        new Uint8Array(Float32Array.from({ length }, make).buffer),
      );
    const layers = header.layers.map(() => ({
      bits,
      planes: append(
        { dtype: "u1", layout: "planes", shape: [n, bits, d] },
        Uint8Array.from({ length: n * bits * d / 8 }, () => 256 * random()),
      ),
      rowScales: vector(n, () => random() + 0.5),
      mean: vector(d, () => random() - 0.5),
      earlyMean: vector(d, () => random() - 0.5),
      bias: vector(n, () => random() - 0.5),
      earlyBias: vector(n, () => random() - 0.5),
      ...MEASURED,
    }));
    const calibration = { tokens: bits, textName: "random" };
    const missCurves = layers.map(() => MISS_CURVE);
    return {
      ...header,
      predictors: { kind: "bit-planes", ...ABOUT, calibration, layers, missCurves },
    };
  });
}

/** Adds low-rank predictors of random bytes to a file; `tokens` tells one such update from another. */
export function addPredictors(path: string, tokens = 100): void {
  const random = seededRandom(tokens);
  updateFlash(path, ({ header, append }) => {
    const { hiddenSize: d, intermediateSize: n } = header.config;
    const add = (shape: Pick<TensorRef, "dtype" | "layout" | "shape">): TensorRef =>
      append(shape, Uint8Array.from({ length: tensorByteLength(shape) }, () => 50 * random()));
    const layers = header.layers.map(() => ({
      rank: 32,
      a: add({ dtype: "q8", layout: "tiled", shape: [32, d] }),
      b: add({ dtype: "q8", layout: "tiled", shape: [n, 32] }),
      bias: add({ dtype: "f32", layout: "rows", shape: [n] }),
      earlyBias: add({ dtype: "f32", layout: "rows", shape: [n] }),
      ...MEASURED,
    }));
    const predictors = {
      kind: "low-rank" as const,
      ...ABOUT,
      calibration: { tokens, textName: "random" },
      layers,
      missCurves: layers.map(() => MISS_CURVE),
    };
    return { ...header, predictors };
  });
}
