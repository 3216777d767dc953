/**
 * The same bits everywhere: in each runtime (plain build), at each address, and before and after the runtime has
 * optimized a kernel that runs often.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  accumulatorByteLength,
  downScratchByteLength,
  instantiateKernels,
  type Kernels,
  loadKernelModule,
  MEMORY_PAGES_MAX,
  STATICS_BYTE_LENGTH,
} from "../src/kernels.ts";
import { storePlanes } from "../src/format/bit_planes.ts";
import { QUANTIZATIONS, vectorByteLength } from "../src/format/layout.ts";
import { storeRows, tileRows } from "../src/format/quantize.ts";
import {
  attentionTwin,
  dotTwin,
  downTwin,
  layerNormTwin,
  levelsTwin,
  planeScoreTwin,
  Random,
  softmaxTwin,
} from "./kernel_twins.ts";

const COLS = 288;
const ROWS = 16;
const HEAD_DIM = 48;

/**
 * Checksum of the outputs below. It comes from the twins, which the test runs too; whoever changes an order of
 * operations changes it on purpose: print `checksum(twinOutputs())`.
 */
const CHECKSUM = 0x55f713d5;

function inputs() {
  const random = new Random(20261121);
  return {
    x: random.vector(COLS),
    bias: random.vector(ROWS, 0.1),
    columnBias: random.vector(COLS, 0.1),
    weights: random.vector(ROWS * COLS, 0.05),
    keys: random.vector(ROWS * HEAD_DIM),
    values: random.vector(ROWS * HEAD_DIM),
  };
}

function rowBytes(quantization: (typeof QUANTIZATIONS)[number]): Uint8Array<ArrayBuffer>[] {
  const length = vectorByteLength(quantization, COLS);
  const bytes = new Uint8Array(ROWS * length);
  storeRows(quantization, inputs().weights, { rows: ROWS, cols: COLS }, bytes);
  return Array.from({ length: ROWS }, (_, row) => bytes.slice(row * length, (row + 1) * length));
}

/** Odd weights of 3 bits, i8[ROWS][COLS]. */
function planeLevels(): Int8Array {
  return Int8Array.from(inputs().weights, (weight) => {
    return Math.max(-7, Math.min(7, 2 * Math.floor(70 * weight) + 1));
  });
}

function twinOutputs(): Float32Array[] {
  const { x, bias, columnBias, keys, values } = inputs();
  const outputs = QUANTIZATIONS.flatMap((quantization) => {
    const rows = rowBytes(quantization);
    const y = Float32Array.from(rows, (row, i) => dotTwin(quantization, row, x, bias[i]));
    const activations = y.map((value) => Math.max(value, 0));
    return [y, downTwin(quantization, rows, activations, columnBias, x)];
  });
  const seen = levelsTwin(x, columnBias), levels = planeLevels();
  const planes = bias.map((scale, row) =>
    planeScoreTwin(levels.subarray(row * COLS, (row + 1) * COLS), seen, scale)
  );
  return [
    ...outputs,
    planes,
    layerNormTwin(x, columnBias, columnBias, 1e-5),
    softmaxTwin(x),
    attentionTwin(x.slice(0, HEAD_DIM), keys, values, 0.25),
  ];
}

/** What the twins compute, by kernels over data from `base` on; each kernel runs `runs` times and the last one counts. */
function kernelOutputs(
  kernels: Kernels,
  memory: WebAssembly.Memory,
  { base = STATICS_BYTE_LENGTH, runs = 1 } = {},
): Float32Array[] {
  let next = base;
  const put = (values: Float32Array | Uint8Array): number => {
    const address = next;
    next += Math.ceil(values.byteLength / 64) * 64;
    new Uint8Array(memory.buffer, address, values.byteLength)
      .set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    return address;
  };
  const outputs: Float32Array[] = [];
  const take = (address: number, length: number) =>
    outputs.push(new Float32Array(memory.buffer, address, length).slice());
  const often = (run: () => void) => {
    for (let i = 0; i < runs; i++) run();
  };
  const { x, bias, columnBias, keys, values } = inputs();
  const [xAt, biasAt, columnBiasAt] = [put(x), put(bias), put(columnBias)];
  const [xp, y] = [put(new Float32Array(2 * COLS)), put(new Float32Array(COLS))];
  for (const quantization of QUANTIZATIONS) {
    const rows = rowBytes(quantization);
    const bundles = Uint8Array.from(rows.flatMap((row) => [...row]));
    const tiles = new Uint8Array(bundles.length);
    tileRows(quantization, bundles, { rows: ROWS, cols: COLS }, tiles);
    const w = put(tiles);
    kernels.prepare[quantization](xAt, xp, COLS);
    often(() => kernels.matvec[quantization](w, xp, biasAt, y, 0, ROWS, COLS));
    take(y, ROWS);

    const bundlesAt = put(bundles);
    const list = put(new Float32Array(2 * ROWS));
    new Uint32Array(memory.buffer, list, 2 * ROWS)
      .set([...rows.map((row, i) => bundlesAt + i * row.length), ...rows.keys()]);
    const sumsLength = accumulatorByteLength(quantization, COLS);
    const [activations, sums] = [put(new Float32Array(ROWS)), put(new Uint8Array(sumsLength))];
    const scratch = put(new Uint8Array(downScratchByteLength(COLS)));
    often(() => {
      const neurons = list + 4 * ROWS;
      kernels.up[quantization](list, neurons, 0, 0, ROWS, 0, xp, biasAt, activations, COLS, 0, 0);
      kernels.zero(sums, sumsLength);
      kernels.down[quantization](list, 0, activations, ROWS, sums, 0, COLS, COLS, scratch);
    });
    const residual = put(x);
    kernels.finishDown[quantization](sums, columnBiasAt, residual, 0, COLS, COLS);
    take(residual, COLS);
  }
  const planesAt = put(storePlanes(planeLevels(), { rows: ROWS, cols: COLS, bits: 3 }));
  often(() => {
    kernels.preparePlanes(xAt, columnBiasAt, xp, COLS);
    kernels.planeScores(planesAt, xp, biasAt, y, 0, ROWS, 3, COLS);
  });
  take(y, ROWS);
  often(() => kernels.layerNorm(xAt, columnBiasAt, columnBiasAt, y, COLS, 1e-5));
  take(y, COLS);
  const scores = put(x);
  kernels.softmax(scores, COLS);
  take(scores, COLS);
  const [keysAt, valuesAt] = [put(keys), put(values)];
  often(() => kernels.attentionHead(xAt, keysAt, valuesAt, y, scores, HEAD_DIM, ROWS, 0.25));
  take(y, HEAD_DIM);
  return outputs;
}

/** FNV-1a over the words of all outputs. */
function checksum(outputs: readonly Float32Array[]): number {
  let hash = 0x811c9dc5;
  for (const output of outputs) {
    for (const word of new Uint32Array(output.slice().buffer)) {
      hash = Math.imul(hash ^ word, 0x01000193) >>> 0;
    }
  }
  return hash;
}

function sharedMemory(pages: number): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: pages, maximum: MEMORY_PAGES_MAX, shared: true });
}

test("plain kernels give the same bits in every runtime", () => {
  const memory = sharedMemory(17);
  const kernels = instantiateKernels(loadKernelModule("plain"), memory);
  assert.equal(checksum(twinOutputs()), CHECKSUM);
  assert.equal(checksum(kernelOutputs(kernels, memory)), CHECKSUM);
});

for (const build of ["plain", "relaxed"] as const) {
  test(`kernels give the same bits at every address (${build})`, () => {
    const memory = sharedMemory(MEMORY_PAGES_MAX); // 4 GiB, of which few pages are ever touched.
    const kernels = instantiateKernels(loadKernelModule(build), memory);
    const low = checksum(kernelOutputs(kernels, memory));
    for (const base of [2 ** 31 - 8192, 2 ** 32 - 2 ** 20]) {
      assert.equal(checksum(kernelOutputs(kernels, memory, { base })), low);
    }
  });

  test(`kernels give the same bits once they are optimized (${build})`, () => {
    const memory = sharedMemory(17);
    const kernels = instantiateKernels(loadKernelModule(build), memory);
    const first = checksum(kernelOutputs(kernels, memory));
    for (const runs of [1000, 5000, 1]) {
      assert.equal(checksum(kernelOutputs(kernels, memory, { runs })), first);
    }
  });
}
