/**
 * How near do the kernels come to the speed of memory?
 *
 * Each kernel works on more weights than the L3 cache holds, in turns with a plain read of the same memory, on one
 * core; the figures are medians. A share is GB/s of weights (scales included) by GB/s of the plain read.
 *
 *   deno run --allow-read bench/kernels.ts [--json] [--plain] [--only TEXT] [--rounds N] [--megabytes N]
 *   bun bench/kernels.ts ...
 */
import process from "node:process";
import { recordOf } from "../src/arena.ts";
import {
  bundleByteLength,
  type BundleForm,
  isBlocked,
  isPrunable,
  matrixByteLength,
  type Quantization,
  QUANTIZATIONS,
  tileByteLength,
  vectorByteLength,
} from "../src/format/layout.ts";
import { storeRows } from "../src/format/quantize.ts";
import { countStored, storeSparse } from "../src/format/sparse_vectors.ts";
import {
  accumulatorByteLength,
  ACTIVATION,
  bundleKernels,
  instantiateKernels,
  type KernelBuild,
  type Kernels,
  loadKernelModule,
  preparedByteLength,
  STATICS_BYTE_LENGTH,
} from "../src/kernels.ts";
import { runtimeName } from "../src/runtime.ts";
import { createSharedMemory } from "../src/shared_memory.ts";
import { median } from "./median.ts";
import { parseBenchArgs } from "./bench_args.ts";

export interface KernelBenchOptions {
  /** Bytes of weights that each kernel cycles through; small by default, so that tests can run the bench. */
  byteLength?: number;
  rounds?: number;
  /** Columns of the matrices. */
  cols?: readonly number[];
  /** Hidden sizes of the sparse FFNs. */
  hiddenSizes?: readonly number[];
  /** Shares of zeros in the bundles of pruned models, which are stored without them. */
  zeros?: readonly number[];
  build?: KernelBuild;
  /** Default true: in pages of 2 MiB, where FFI reaches the system. */
  hugePages?: boolean;
  /** Only entries whose name contains this. */
  only?: string;
}

export interface KernelBenchResult {
  name: string;
  /** GB/s of weights, median. */
  gigabytesPerSecond: number;
  /** Of the plain read in the same rounds. */
  shareOfRead: number;
  /** For sparse kernels: one bundle, up and down. */
  nanosecondsPerBundle: number | null;
  /** For whole matrices: what kernels of other numbers of bits are compared by. */
  weightsPerNanosecond: number | null;
  /** Of the outputs, so that nobody makes it faster by computing something else. */
  checksum: number;
}

/** One kernel on its own data. `run` does a round and returns the bytes of weights that it read. */
interface Entry {
  name: string;
  /** Bytes of weights, from `WEIGHTS` on. */
  byteLength: number;
  bundleByteLength: number | null;
  /** Weights that a round multiplies, of whole matrices. */
  weights: number | null;
  prepare(): void;
  run(): number;
  checksum(): number;
}

/** Part of a layer's neurons that fire, as in the table of sparse kernels. */
const ACTIVE_SHARE = 0.05;

/** The memory, drawn: | statics | vectors: 1 MiB | lists: 4 MiB | weights: byteLength |. */
const VECTORS = STATICS_BYTE_LENGTH;
const LISTS = VECTORS + 2 ** 20;
const WEIGHTS = LISTS + 2 ** 22;

/** Measures each kernel; the first result is the plain read itself. */
export function benchKernels({
  byteLength = 2 ** 20,
  rounds = 2,
  cols = [256],
  hiddenSizes = [256],
  zeros = [0.75],
  build,
  hugePages = true,
  only = "",
}: KernelBenchOptions = {}): KernelBenchResult[] {
  const memory = createSharedMemory(WEIGHTS + byteLength + 65536, { hugePages });
  const kernels = instantiateKernels(loadKernelModule(build), memory);
  const entries = [
    ...cols.flatMap((n) =>
      QUANTIZATIONS.map((q) => matvecEntry(kernels, memory, q, n, byteLength))
    ),
    ...cols.flatMap((n) =>
      [4, 3, 2].map((bits) => planesEntry(kernels, memory, bits, n, byteLength))
    ),
    ...hiddenSizes.flatMap((d) =>
      QUANTIZATIONS.map((q) => sparseEntry(kernels, memory, q, d, byteLength))
    ),
    ...hiddenSizes.flatMap((d) =>
      QUANTIZATIONS.filter(isPrunable).flatMap((q) =>
        zeros.map((share) => sparseEntry(kernels, memory, q, d, byteLength, share))
      )
    ),
  ].filter((entry) => entry.name.includes(only));
  const reads: number[] = [];
  const results = entries.map((entry) => measure(entry, kernels, rounds, reads));
  return [{
    name: "read",
    gigabytesPerSecond: median(reads),
    shareOfRead: 1,
    nanosecondsPerBundle: null,
    weightsPerNanosecond: null,
    checksum: 0,
  }, ...results];
}

function measure(
  entry: Entry,
  kernels: Kernels,
  rounds: number,
  reads: number[],
): KernelBenchResult {
  entry.prepare();
  entry.run();
  const readLength = entry.byteLength & -128;
  const ownReads: number[] = [];
  const speeds: number[] = [], weightSpeeds: number[] = [];
  for (let round = 1; round <= rounds; round++) {
    const start = performance.now();
    const bytes = entry.run();
    const middle = performance.now();
    kernels.fold(WEIGHTS, readLength);
    const end = performance.now();
    speeds.push(bytes / (middle - start) / 1e6);
    weightSpeeds.push((entry.weights ?? NaN) / (middle - start) / 1e6);
    ownReads.push(readLength / (end - middle) / 1e6);
  }
  reads.push(...ownReads);
  const speed = median(speeds);
  return {
    name: entry.name,
    gigabytesPerSecond: speed,
    shareOfRead: speed / median(ownReads),
    nanosecondsPerBundle: entry.bundleByteLength === null ? null : entry.bundleByteLength / speed,
    weightsPerNanosecond: entry.weights === null ? null : median(weightSpeeds),
    checksum: entry.checksum() >>> 0,
  };
}

/** One matrix of `cols` columns that fills the memory. */
function matvecEntry(
  kernels: Kernels,
  memory: WebAssembly.Memory,
  quantization: Quantization,
  cols: number,
  byteLength: number,
): Entry {
  const rows = Math.min(
    Math.floor(byteLength / matrixByteLength(quantization, 8, cols)) * 8,
    (LISTS - VECTORS) / 4 - 4 * cols,
  );
  const bytes = matrixByteLength(quantization, rows, cols);
  const xp = VECTORS + 4 * cols;
  const y = xp + Math.ceil(preparedByteLength(cols) / 64) * 64;
  return {
    name: `matvec ${quantization} ${cols}`,
    byteLength: bytes,
    bundleByteLength: null,
    weights: rows * cols,
    prepare() {
      fillWeights(memory, quantization, tileByteLength(quantization), 16, bytes);
      new Float32Array(memory.buffer, VECTORS, cols).set(wave(cols));
      kernels.prepare[quantization](VECTORS, xp, cols);
    },
    run() {
      kernels.matvec[quantization](WEIGHTS, xp, 0, y, 0, rows, cols);
      return bytes;
    },
    checksum: () => checksum(memory, y, rows),
  };
}

/**
 * Table look-ups in their cheapest form: one scale a row, inputs of five bits. What a kernel of few bits with scales for groups of
 * columns would at least take.
 */
function planesEntry(
  kernels: Kernels,
  memory: WebAssembly.Memory,
  bits: number,
  cols: number,
  byteLength: number,
): Entry {
  const rowBytes = bits * cols / 8, spaceOfRows = (LISTS - VECTORS) / 8 - 8 * cols;
  const rows = Math.floor(Math.min(byteLength / rowBytes, spaceOfRows / 4) / 16) * 16;
  const tables = VECTORS + 4 * cols, mean = tables + preparedByteLength(cols);
  const scales = VECTORS + 2 ** 19, y = scales + 4 * rows;
  return {
    name: `planes ${bits} bits ${cols}`,
    byteLength: rows * rowBytes,
    bundleByteLength: null,
    weights: rows * cols,
    prepare() {
      fillWeights(memory, "q8", 4096, 0, rows * rowBytes);
      new Float32Array(memory.buffer, VECTORS, cols).set(wave(cols));
      kernels.zero(mean, 4 * cols);
      new Float32Array(memory.buffer, scales, rows).fill(0.01);
      kernels.preparePlanes(VECTORS, mean, tables, cols);
    },
    run() {
      kernels.planeScores(WEIGHTS, tables, scales, y, 0, rows, bits, cols);
      return rows * rowBytes;
    },
    checksum: () => checksum(memory, y, rows),
  };
}

/**
 * Layers of 4 d bundles each that fill the memory; in each round another 5 % of every layer fires, sorted. With a share of
 * `zeros` bundles are stored without them.
 */
function sparseEntry(
  kernels: Kernels,
  memory: WebAssembly.Memory,
  quantization: Quantization,
  hiddenSize: number,
  byteLength: number,
  zeros?: number,
): Entry {
  const pruned = zeros === undefined ? null : prunedBundles(quantization, hiddenSize, zeros);
  const { capacities } = pruned?.form ?? { capacities: null };
  const stride = bundleByteLength(quantization, hiddenSize, false, capacities);
  const bundles = bundleKernels(kernels, {
    ffnQuantization: quantization,
    isPruned: pruned !== null,
  });
  // As many as the table of addresses holds.
  const bundleCount = Math.min(Math.floor(byteLength / stride), 2 ** 21 / 4);
  const activeCount = Math.min(
    Math.ceil(4 * hiddenSize * ACTIVE_SHARE),
    Math.floor(bundleCount * ACTIVE_SHARE),
  );
  const xp = VECTORS + 4 * hiddenSize;
  const accumulator = xp + Math.ceil(preparedByteLength(hiddenSize) / 64) * 64;
  const residual = accumulator + accumulatorByteLength(quantization, hiddenSize);
  const downScratch = residual + 4 * hiddenSize;
  const activations = LISTS + 2 ** 21 + 2 ** 20;
  const { downOffset } = recordOf(quantization, hiddenSize, false, false, capacities);
  const listCount = Math.floor(bundleCount / activeCount);
  return {
    name: pruned
      ? `pruned ${quantization} ${hiddenSize} ${Math.round(100 * zeros!)}%`
      : `sparse ${quantization} ${hiddenSize}`,
    byteLength: bundleCount * stride,
    bundleByteLength: stride,
    weights: null,
    prepare() {
      const scalesLength = isBlocked(quantization) ? hiddenSize / 16 : 0;
      if (pruned) repeat(memory, pruned.bytes, bundleCount * stride);
      else fillWeights(memory, quantization, downOffset, scalesLength, bundleCount * stride);
      new Float32Array(memory.buffer, VECTORS, hiddenSize).set(wave(hiddenSize));
      kernels.prepare[quantization](VECTORS, xp, hiddenSize);
      kernels.zero(accumulator, residual - accumulator + 4 * hiddenSize);
      fillLists(memory, { stride, activeCount, listCount });
      // All neurons go on, whichever sign their dot products have: the question is the cost of a bundle.
      new Float32Array(memory.buffer, activations + 4 * activeCount, activeCount).fill(0.5);
    },
    run() {
      for (let list = 0; list < listCount; list++) {
        const addresses = LISTS + list * activeCount * 4;
        bundles.up(
          addresses,
          0,
          0,
          0,
          activeCount,
          0,
          xp,
          0,
          activations,
          hiddenSize,
          ACTIVATION.relu,
          0,
        );
        bundles.down(
          addresses,
          downOffset,
          activations + 4 * activeCount,
          activeCount,
          accumulator,
          0,
          hiddenSize,
          hiddenSize,
          downScratch,
        );
        kernels.finishDown[quantization](accumulator, 0, residual, 0, hiddenSize, hiddenSize);
      }
      return listCount * activeCount * stride;
    },
    checksum: () =>
      checksum(memory, residual, hiddenSize) ^ checksum(memory, activations, activeCount),
  };
}

/** Some bundles of random numbers, of which a share is zero, as they are stored without those. */
function prunedBundles(
  quantization: Quantization,
  hiddenSize: number,
  zeros: number,
): { form: BundleForm; bytes: Uint8Array } {
  const count = 64, whole = { quantization, hiddenSize, isGated: false, capacities: null };
  const next = generator(1), shape = { rows: 2 * count, cols: hiddenSize };
  const values = Float32Array.from({ length: 2 * count * hiddenSize }, () => {
    const isZero = 0.5 + next() / 2 < zeros;
    return isZero ? 0 : next() * 0.1;
  });
  const bundles = new Uint8Array(2 * count * vectorByteLength(quantization, hiddenSize));
  storeRows(quantization, values, shape, bundles);
  const most = [0, 0];
  countStored(whole, bundles, count, most);
  const form = { ...whole, capacities: most.map((stored) => Math.ceil(stored / 2) * 2) };
  const bytes = new Uint8Array(
    count * bundleByteLength(quantization, hiddenSize, false, form.capacities),
  );
  storeSparse(form, bundles, count, bytes);
  return { form, bytes };
}

/** Weights of `byteLength` bytes, these over and over. */
function repeat(memory: WebAssembly.Memory, part: Uint8Array, byteLength: number): void {
  const bytes = new Uint8Array(memory.buffer, WEIGHTS, byteLength);
  for (let at = 0; at < byteLength; at += part.length) {
    bytes.set(part.subarray(0, byteLength - at), at);
  }
}

/**
 * Lists of bundles, each sorted: list i takes one bundle of every 20 neighbours of its layer, so that all lists together
 * read each bundle once.
 */
function fillLists(
  memory: WebAssembly.Memory,
  { stride, activeCount, listCount }: { stride: number; activeCount: number; listCount: number },
): void {
  const addresses = new Uint32Array(memory.buffer, LISTS, activeCount * listCount);
  const step = Math.round(1 / ACTIVE_SHARE);
  for (let list = 0; list < listCount; list++) {
    const layer = Math.min(list - list % step, listCount - step) * activeCount;
    for (let k = 0; k < activeCount; k++) {
      const inStep = (Math.imul(k, 0x9e3779b1) >>> 16) % step;
      const index = layer + k * step + (inStep + list * 7) % step;
      addresses[list * activeCount + k] = WEIGHTS + index * stride;
    }
  }
}

function checksum(memory: WebAssembly.Memory, address: number, length: number): number {
  return new Uint32Array(memory.buffer, address, length)
    .reduce((sum, word) => Math.imul(sum ^ word, 0x01000193) >>> 0, 0x811c9dc5);
}

/** Weights of a usual size; q8, q4: each `recordLength` bytes begin with `scalesLength` bytes of scales. */
function fillWeights(
  memory: WebAssembly.Memory,
  quantization: Quantization,
  recordLength: number,
  scalesLength: number,
  byteLength: number,
): void {
  const part = Math.min(byteLength, recordLength * 512);
  const bytes = new Uint8Array(memory.buffer, WEIGHTS, byteLength);
  const count = part / (quantization === "f32" ? 4 : 2);
  const next = generator(1);
  if (quantization === "f32") {
    new Float32Array(memory.buffer, WEIGHTS, count).forEach((_, i, all) => all[i] = next() * 0.1);
  } else if (quantization === "f16") {
    new Float16Array(memory.buffer, WEIGHTS, count).forEach((_, i, all) => all[i] = next() * 0.1);
  } else {
    for (let record = 0; record + recordLength <= part; record += recordLength) {
      new Float16Array(memory.buffer, WEIGHTS + record, scalesLength / 2).fill(0.001);
      bytes.subarray(record + scalesLength, record + recordLength)
        .forEach((_, i, all) => all[i] = next() * 127);
    }
  }
  for (let done = part; done < byteLength; done *= 2) {
    bytes.copyWithin(done, 0, Math.min(done, byteLength - done));
  }
}

/** Numbers from -1 to 1 that look random. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    return state / 2 ** 31;
  };
}

function wave(length: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin(i * 0.7));
}

/** Shares of the read speed (29 GB/s) in the table of 2026-11 on AMD servers: what to measure oneself against. */
const EXPECTED: Record<string, { deno: number; bun: number }> = {
  "matvec f32": { deno: 27.6 / 29, bun: 29.3 / 29 },
  "matvec f16": { deno: 24.8 / 29, bun: 20.6 / 29 },
  "matvec q8": { deno: 23.8 / 29, bun: 22.6 / 29 },
  "matvec q4": { deno: 19.3 / 29, bun: 14.2 / 29 },
  "sparse f16 768": { deno: 3072 / 354 / 29, bun: NaN },
  "sparse f16 2048": { deno: 8192 / 619 / 29, bun: NaN },
  "sparse f16 4096": { deno: 16384 / 1109 / 29, bun: NaN },
  "sparse q8 768": { deno: 1632 / 356 / 29, bun: NaN },
  "sparse q8 2048": { deno: 4352 / 759 / 29, bun: NaN },
  "sparse q8 4096": { deno: 8704 / 1385 / 29, bun: NaN },
  "sparse q4 768": { deno: 864 / 317 / 29, bun: NaN },
  "sparse q4 2048": { deno: 2304 / 634 / 29, bun: NaN },
  "sparse q4 4096": { deno: 4608 / 1061 / 29, bun: NaN },
};

function report(result: KernelBenchResult): string {
  const runtime = "bun" in process.versions ? "bun" : "deno";
  const expected = Object.entries(EXPECTED).find(([name]) => result.name.startsWith(name));
  const percent = (share: number | undefined) =>
    share === undefined || Number.isNaN(share) ? "" : `${Math.round(share * 100)} %`;
  return [
    result.name.padEnd(20),
    result.gigabytesPerSecond.toFixed(1).padStart(6),
    percent(result.shareOfRead).padStart(8),
    percent(expected?.[1][runtime]).padStart(8),
    (result.weightsPerNanosecond?.toFixed(1) ?? "").padStart(10),
    (result.nanosecondsPerBundle?.toFixed(0) ?? "").padStart(10),
    result.checksum.toString(16).padStart(10),
  ].join(" ");
}

const HELP =
  `How near do the kernels come to the speed of memory? Each in turn with a plain read, on one core; medians.

  --small-pages      memory in pages of 4 KiB: without, those of 2 MiB are asked for (with --allow-ffi in Deno)
  --only TEXT        kernels whose name has TEXT in it
  --plain            the build without relaxed SIMD
  --cols LIST        lengths of rows (default 256,2048,4096)
  --megabytes N      of weights, more than the caches hold (default 128)
  --rounds N         default 21
  --json             print the results as JSON`;

export function main(args: string[]): void {
  const values = parseBenchArgs(args, HELP, {
    options: {
      only: { type: "string" },
      "small-pages": { type: "boolean" },
      plain: { type: "boolean" },
      cols: { type: "string", default: "256,2048,4096" },
      megabytes: { type: "string", default: "128" },
      rounds: { type: "string", default: "21" },
      json: { type: "boolean" },
    },
  })?.values;
  if (!values) return;
  const results = benchKernels({
    byteLength: Number(values.megabytes) * 2 ** 20,
    rounds: Number(values.rounds),
    cols: values.cols.split(",").map(Number),
    hiddenSizes: [256, 768, 2048, 4096],
    zeros: [0.6, 0.75, 0.9],
    build: values.plain ? "plain" : undefined,
    only: values.only,
    hugePages: !values["small-pages"],
  });
  if (values.json) console.log(JSON.stringify(results, null, 2));
  else {
    console.log(`${runtimeName()}, weights from DRAM, one core, medians`);
    console.log("kernel                 GB/s  of read    table weights/ns  ns/bundle   checksum");
    for (const result of results) console.log(report(result));
  }
}

if (import.meta.main) main(process.argv.slice(2));
