import { statSync } from "node:fs";
import { canUseUring } from "../flash/uring_reader.ts";
import { loadKernelModule } from "../kernels.ts";
import { coreCount } from "../runtime.ts";
import { probeDisk, READ_SIZES, RIGS } from "./disk_probe.ts";
import type { DiskProbeOptions } from "./disk_probe.ts";
import { kernelProbeByteLength, probeKernels } from "./kernel_probe.ts";
import type { KernelProbeOptions } from "./kernel_probe.ts";
import { probeMemory } from "./memory_probe.ts";
import { placeOf } from "./probe_place.ts";
import { PROBE_VERSION } from "./probe_result.ts";
import type { Probe } from "./probe_result.ts";
import { createSharedMemory } from "../shared_memory.ts";
import { ScratchFile } from "./scratch_file.ts";

/** How much is measured; tests take less. */
export interface ProbeSizes {
  disk: Pick<DiskProbeOptions, "rigs" | "readSizes" | "sequentialBytes" | "seconds" | "rounds">;
  kernels: Pick<KernelProbeOptions, "cols" | "workingBytes" | "seconds">;
  memory: { seconds: number };
  /** Of the file that is made where none is given. */
  scratchBytes: number;
}

/** Under 10 s in all. One memory of 132 MiB serves everything; 16 reader workers take as much again in Deno. */
export const PROBE_SIZES: ProbeSizes = {
  disk: { rigs: RIGS, readSizes: READ_SIZES, sequentialBytes: 2 ** 20, seconds: 0.03, rounds: 3 },
  kernels: {
    cols: [64, 256, 1024, 4096],
    workingBytes: [2 ** 21, 2 ** 24, 2 ** 27],
    seconds: 0.005,
  },
  memory: { seconds: 0.15 },
  scratchBytes: 2 ** 28,
};

export interface ProbeOptions {
  sizes?: ProbeSizes;
  signal?: AbortSignal;
  onProgress?: (progress: { done: number; total: number; phase: string }) => void;
}

/**
 * Measures what a plan needs to know of this machine: its disk through the engine's own readers, its memory, and the engine's
 * kernels. Reads the file at `path`, or in a folder one that it makes there and takes away again.
 *
 * @throws what the system says if the file cannot be read, or the folder not be written
 */
export async function probe(path: string, options: ProbeOptions = {}): Promise<Probe> {
  const { sizes = PROBE_SIZES, signal, onProgress } = options;
  const isFolder = statSync(path).isDirectory();
  using scratch = isFolder ? new ScratchFile(path, sizes.scratchBytes) : undefined;
  const file = scratch?.path ?? path, fileBytes = statSync(file).size;
  const total = stepCountOf(sizes);
  let done = 0;
  const stepOf = (phase: string) => () => {
    signal?.throwIfAborted();
    onProgress?.({ done: Math.min(++done, total), total, phase });
  };
  const place = placeOf(path);
  const shared = createSharedMemory(kernelProbeByteLength(sizes.kernels));
  const disk = await probeDisk({
    ...sizes.disk,
    path: file,
    fileBytes,
    memory: shared,
    signal,
    onStep: stepOf("disk"),
  });
  const memory = await probeMemory({ ...sizes.memory, memory: shared, coreCount: coreCount() });
  stepOf("memory")();
  const rows = await probeKernels({
    ...sizes.kernels,
    memory: shared,
    onStep: stepOf("kernels"),
  });
  const missing: string[] = [];
  if (!canUseUring()) {
    missing.push("io_uring: it needs Linux, a kernel that allows it, and FFI (Deno: --allow-ffi)");
  }
  if (!disk.direct) missing.push("the disk itself: reads go through the system's cache here");
  return {
    version: PROBE_VERSION,
    createdAt: new Date().toISOString(),
    place,
    disk,
    memory,
    kernels: { build: loadKernelModule().build, rows },
    missing,
  };
}

/** About how many figures there will be. */
function stepCountOf({ disk, kernels }: ProbeSizes): number {
  const inline =
    disk.rigs.filter(({ backend, readerCount: count }) => backend === "io_uring" && count === 1)
      .length;
  const visits = disk.rigs.length + (disk.rounds - 1) * inline;
  return visits * disk.readSizes.length + kernels.cols.length * kernels.workingBytes.length * 9;
}
