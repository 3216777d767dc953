import os from "node:os";
import { canUseUring } from "../../src/flash/uring_reader.ts";
import type { DiskCost, Machine } from "../../src/simulate/cost_model.ts";
import { MACHINES } from "../../src/simulate/machines.ts";
import { benchKernels } from "../kernels.ts";
import { benchReaders } from "../readers.ts";

export interface ProbeOptions {
  fileBytes?: number;
  seconds?: number;
  repeat?: number;
  /** Weights that kernels go through: more than the caches hold. */
  weightBytes?: number;
  hiddenSize?: number;
}

const SMALL_BYTES = 4096;
const LARGE_BYTES = 65536;
const DEPTH = 16;

/**
 * Measures this machine: two sizes of read with a full queue give the cost of a read and of its bytes, lone ones the latency;
 * kernels in f16 the memory. What a layer costs beside its bytes is not measured here but in question 9, against the engine.
 */
export async function probeMachine(options: ProbeOptions = {}): Promise<Machine> {
  const { hiddenSize = 256, weightBytes = 64 << 20 } = options;
  const [matvec, sparse] = ["matvec f16", "sparse f16"].map((only) => {
    const bench = { byteLength: weightBytes, rounds: 11, cols: [2048], hiddenSizes: [hiddenSize] };
    const [, { gigabytesPerSecond }] = benchKernels({ ...bench, only });
    return 1e9 * gigabytesPerSecond;
  });
  return {
    ...MACHINES.cloud,
    name: "this machine, probed",
    disk: await probeDisk(options),
    memory: { bytesPerSecond: matvec, sparseBytesPerSecond: sparse },
  };
}

async function probeDisk(
  { fileBytes = 256 << 20, seconds = 0.5, repeat = 3 }: ProbeOptions,
): Promise<DiskCost> {
  const secondsOf = async (depth: number) => {
    const { rows } = await benchReaders({
      fileBytes,
      seconds,
      repeat,
      depth,
      backends: [canUseUring() ? "io_uring" : "pread"],
      sizes: [SMALL_BYTES, LARGE_BYTES],
      folder: os.tmpdir(),
    });
    return rows.map(({ readBytes, readers }) => readBytes / readers[0].bytesPerSecond);
  };
  return diskCostOf({ full: await secondsOf(DEPTH), lone: await secondsOf(1) });
}

/** The cost of a read and of its bytes, from the seconds of a small and a large read with a full queue and alone. */
export function diskCostOf(
  { full: [small, large], lone: [loneSmall] }: { full: number[]; lone: number[] },
): DiskCost {
  const secondsPerByte = Math.max(0, large - small) / (LARGE_BYTES - SMALL_BYTES);
  return {
    bytesPerSecond: 1 / secondsPerByte,
    secondsPerRead: Math.max(0, small - SMALL_BYTES * secondsPerByte),
    firstReadSeconds: Math.max(0, loneSmall - small),
    blockBytes: 512,
  };
}
