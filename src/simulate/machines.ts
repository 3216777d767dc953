import type { Machine } from "./cost_model.ts";

/**
 * Machines by figures that somebody measured. What a source does not tell is set so that it costs nothing, and says so.
 */
export const MACHINES = {
  /**
   * Two virtual cores of a cloud server (AMD, Zen 4), one lane, its network disk. Disk: `bench readers`, io_uring, 4 to 64 KiB
   * at depth 16 and 1; memory: `bench kernels`, matvec and sparse in f16; arithmetic: products of f32 matrices, one core
   * (docs/decisions.md); each layer: the embedded model with a cache that misses hardly anything (`bench questions 9`).
   */
  cloud: {
    name: "cloud server, 2 cores",
    disk: {
      bytesPerSecond: 1.5e9,
      secondsPerRead: 13e-6,
      firstReadSeconds: 35e-6,
      blockBytes: 512,
    },
    memory: { bytesPerSecond: 20e9, sparseBytesPerSecond: 7.8e9 },
    flopsPerSecond: 30e9,
    secondsPerLayer: 64e-6,
  },
  /**
   * LLM in a flash, table 2: 6.1 GB/s of long reads, 1.25 GB/s of reads of 8 KiB (OPT 6.7B, f16, 32 threads), so 5.2 us a
   * read. Table 3, CPU: 506 ms of computing in f32, the time of 21 GB/s; 58 ms of memory management. The latency of a lone
   * read is not told.
   */
  m1: {
    name: "M1 Max (the paper's)",
    disk: {
      bytesPerSecond: 6.1e9,
      secondsPerRead: 5.2e-6,
      firstReadSeconds: 0,
      blockBytes: 4096,
    },
    memory: { bytesPerSecond: 21e9, sparseBytesPerSecond: 21e9 },
    flopsPerSecond: Infinity,
    secondsPerLayer: 58e-3 / 32,
  },
  /**
   * LLM in a flash, table 3: 2218 ms for 13.4 GB, so 6.04 GB/s; 20 ms of computing in f16, the time of 260 GB/s; 34 ms of
   * memory management. Neither the cost of a read nor its latency is told.
   */
  rtx4090: {
    name: "RTX 4090 (the paper's)",
    disk: { bytesPerSecond: 6.04e9, secondsPerRead: 0, firstReadSeconds: 0, blockBytes: 4096 },
    memory: { bytesPerSecond: 260e9, sparseBytesPerSecond: 260e9 },
    flopsPerSecond: Infinity,
    secondsPerLayer: 34e-3 / 32,
  },
} as const satisfies Record<string, Machine>;

export type MachineName = keyof typeof MACHINES;
