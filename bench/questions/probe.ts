import os from "node:os";
import { probe } from "../../src/probe/probe.ts";
import type { KernelRow, Probe } from "../../src/probe/probe_result.ts";
import { ReadCosts } from "../../src/probe/read_costs.ts";
import type { DiskCost, Machine } from "../../src/simulate/cost_model.ts";
import { MACHINES } from "../../src/simulate/machines.ts";

const SMALL_BYTES = 4096;
const LARGE_BYTES = 65536;

/** Measures this machine: the disk of the folder for temporary files, memory, kernels. */
export async function probeMachine(): Promise<Machine> {
  return machineOf(await probe(os.tmpdir()));
}

/**
 * A probe in the few numbers of the questions' cost model: two sizes of read with a full queue give the cost of a read and of its
 * bytes, lone ones the latency; kernels in f16 the memory. What a layer costs beside its bytes is not measured here but in question
 * 9, against the engine.
 */
export function machineOf({ disk, kernels }: Probe, hiddenSize = 256): Machine {
  const costs = new ReadCosts(disk);
  const fastest = costs.readers.reduce((best, readers) =>
    costs.of(readers, SMALL_BYTES)!.seconds < costs.of(best, SMALL_BYTES)!.seconds ? readers : best
  );
  const secondsOf = (depth: number) =>
    [SMALL_BYTES, LARGE_BYTES].map((bytes) => costs.of({ ...fastest, depth }, bytes)!.seconds);
  const largest = Math.max(...kernels.rows.map(({ workingBytes }) => workingBytes));
  const rateOf = (kernel: KernelRow["kernel"], cols: number) =>
    kernels.rows.filter((row) =>
      row.kernel === kernel && row.dtype === "f16" && row.workingBytes === largest
    ).reduce((a, b) => Math.abs(a.cols - cols) <= Math.abs(b.cols - cols) ? a : b).bytesPerSecond;
  return {
    ...MACHINES.cloud,
    name: "this machine, probed",
    disk: diskCostOf({ full: secondsOf(fastest.depth), lone: secondsOf(1) }),
    memory: {
      bytesPerSecond: rateOf("matvec", 2048),
      // Up and down halves of a bundle.
      sparseBytesPerSecond: 2 / (1 / rateOf("up", hiddenSize) + 1 / rateOf("down", hiddenSize)),
    },
  };
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
