import {
  matrixByteLength,
  PLANE_ROWS,
  type Quantization,
  QUANTIZATIONS,
  TILE_ROWS,
  vectorByteLength,
} from "../format/layout.ts";
import {
  accumulatorByteLength,
  ACTIVATION,
  instantiateKernels,
  type Kernels,
  loadKernelModule,
  preparedByteLength,
  STATICS_BYTE_LENGTH,
} from "../kernels.ts";
import type { KernelRow } from "./probe_result.ts";

export interface KernelProbeOptions {
  /** Lengths of rows: hidden sizes, and ranks of predictors. */
  cols: readonly number[];
  /** Bytes of weights that a kernel goes round and round in: some that caches hold, and some that they do not. */
  workingBytes: readonly number[];
  /** Of each figure. */
  seconds: number;
  /** Of `kernelProbeByteLength` at least; what is in it is overwritten. */
  memory: WebAssembly.Memory;
  onStep?: () => void;
}

/** The memory, drawn: | statics | vectors: 2 MiB | addresses: 1 MiB | activations: 1 MiB | weights |. */
const VECTORS = STATICS_BYTE_LENGTH;
const ADDRESSES = VECTORS + 2 ** 21;
const ACTIVATIONS = ADDRESSES + 2 ** 20;
const WEIGHTS = ACTIVATIONS + 2 ** 20;

/** Neurons of a list, as a share of those in the working set: sorted and scattered, like those of a layer. */
const LIST_SHARE = 1 / 16;

/** Shorter rows are those of predictors, of which there are no bundles. */
const BUNDLE_COLS_MIN = 256;

/** One kernel on its own data: does a piece of work, and returns the bytes of weights that it took. */
interface Work {
  row: Omit<KernelRow, "bytesPerSecond">;
  run: (round: number) => number;
}

/**
 * How fast the engine's kernels go through weights on one core: products of matrices, up and down halves of scattered bundles, and bit
 * planes. Yields between figures, so that signals have their turn.
 */
export async function probeKernels(options: KernelProbeOptions): Promise<KernelRow[]> {
  const { cols, workingBytes, seconds, memory, onStep } = options;
  fill(memory);
  const kernels = instantiateKernels(loadKernelModule(), memory);
  const rows: KernelRow[] = [];
  for (const bytes of workingBytes) {
    for (const length of cols) {
      const works = QUANTIZATIONS.flatMap((dtype) => [
        matvec(kernels, dtype, length, bytes),
        ...(length < BUNDLE_COLS_MIN ? [] : sparse(kernels, memory, dtype, length, bytes)),
      ]);
      for (const work of [...works, planes(kernels, length, bytes)]) {
        rows.push(measure(work, seconds));
        onStep?.();
        await new Promise((resolve) => setTimeout(resolve, 0));
      }
    }
  }
  return rows;
}

/** Memory that kernels go round in, and what they need besides. */
export function kernelProbeByteLength(
  { workingBytes }: Pick<KernelProbeOptions, "workingBytes">,
): number {
  return WEIGHTS + Math.max(...workingBytes) + 65_536;
}

/** The fastest of some pieces: what others do on the machine only makes one slower. */
function measure({ row, run }: Work, seconds: number): KernelRow {
  run(0);
  const until = performance.now() + 1000 * seconds;
  let best = 0;
  for (let round = 1; round < 4 || performance.now() < until; round++) {
    const began = performance.now(), bytes = run(round);
    best = Math.max(best, 1000 * bytes / Math.max(1e-3, performance.now() - began));
  }
  return { ...row, bytesPerSecond: best };
}

/** Bytes that are usual numbers of every type: f16 from 1 to 2, f32 from 0.008 to 0.12, no denormals. */
function fill(memory: WebAssembly.Memory): void {
  const bytes = new Uint8Array(memory.buffer, WEIGHTS);
  const words = new Uint16Array(memory.buffer, WEIGHTS, 32_768);
  words.forEach((_, i) => words[i] = 0x3c00 | (Math.imul(i, 0x9e3779b1) >>> 22));
  for (let done = 65_536; done < bytes.length; done *= 2) {
    bytes.copyWithin(done, 0, Math.min(done, bytes.length - done));
  }
  new Float32Array(memory.buffer, VECTORS, 65_536).forEach((_, i, all) => all[i] = Math.sin(i) + 2);
  new Float32Array(memory.buffer, ACTIVATIONS, 2 ** 18).fill(0.5);
}

/** Where a vector of `cols` is prepared, and where results go. */
function placesOf(cols: number): { prepared: number; result: number } {
  const prepared = VECTORS + 4 * cols;
  return { prepared, result: Math.ceil((prepared + preparedByteLength(cols)) / 64) * 64 };
}

function matvec(kernels: Kernels, dtype: Quantization, cols: number, workingBytes: number): Work {
  const { prepared, result } = placesOf(cols);
  const tileRowBytes = matrixByteLength(dtype, TILE_ROWS, cols);
  // Matrices of cols x cols, one after the other.
  const rows = Math.min(cols, Math.floor(workingBytes / tileRowBytes) * TILE_ROWS);
  const bytes = matrixByteLength(dtype, rows, cols), count = Math.floor(workingBytes / bytes);
  return {
    row: { kernel: "matvec", dtype, cols, workingBytes },
    run() {
      for (let k = 0; k < count; k++) {
        kernels.prepare[dtype](VECTORS, prepared, cols);
        kernels.matvec[dtype](WEIGHTS + k * bytes, prepared, 0, result, 0, rows, cols);
      }
      return count * bytes;
    },
  };
}

/** Up and down of lists of bundles, each list another share of the working set. */
function sparse(
  kernels: Kernels,
  memory: WebAssembly.Memory,
  dtype: Quantization,
  cols: number,
  workingBytes: number,
): Work[] {
  const { prepared, result } = placesOf(cols), half = vectorByteLength(dtype, cols);
  const bundleCount = Math.floor(workingBytes / (2 * half));
  const count = Math.min(2 ** 18, Math.max(8, Math.floor(bundleCount * LIST_SHARE)));
  const step = Math.max(1, Math.floor(bundleCount / count));
  const addresses = new Uint32Array(memory.buffer, ADDRESSES, count);
  const accumulator = result, residual = result + accumulatorByteLength(dtype, cols);
  const scratch = Math.ceil((residual + 4 * cols) / 64) * 64;
  /** Another bundle of each `step` neighbours. */
  const list = (round: number) => {
    for (let k = 0; k < count; k++) {
      const at = k * step + ((Math.imul(k, 0x9e3779b1) >>> 16) + 7 * round) % step;
      addresses[k] = WEIGHTS + Math.min(at, bundleCount - 1) * 2 * half;
    }
  };
  const workOf = (kernel: "up" | "down", run: () => void): Work => ({
    row: { kernel, dtype, cols, workingBytes },
    run(round) {
      if (round === 0) {
        kernels.prepare[dtype](VECTORS, prepared, cols);
        kernels.zero(accumulator, residual - accumulator + 4 * cols);
      }
      list(round);
      run();
      return count * half;
    },
  });
  return [
    workOf("up", () => {
      const to = 2 ** 19 + ACTIVATIONS;
      kernels.up[dtype](ADDRESSES, 0, 0, 0, count, 0, prepared, 0, to, cols, ACTIVATION.relu, 0);
    }),
    workOf("down", () => {
      kernels.down[dtype](ADDRESSES, half, ACTIVATIONS, count, accumulator, 0, cols, cols, scratch);
      kernels.finishDown[dtype](accumulator, 0, residual, 0, cols, cols);
    }),
  ];
}

/** Scores of two bit planes a row. */
function planes(kernels: Kernels, cols: number, workingBytes: number): Work {
  const { prepared, result } = placesOf(cols), bits = 2, rowBytes = bits * cols / 8;
  const rows = Math.min(2 ** 17, Math.floor(workingBytes / rowBytes / PLANE_ROWS) * PLANE_ROWS);
  return {
    row: { kernel: "planes", dtype: "u1", cols, workingBytes },
    run() {
      kernels.preparePlanes(VECTORS, VECTORS, prepared, cols);
      kernels.planeScores(WEIGHTS, prepared, ACTIVATIONS, result, 0, rows, bits, cols);
      return rows * rowBytes;
    },
  };
}
