import type { ReaderBackend } from "../flash/reader_options.ts";
import type { DiskProbe, ReaderRow } from "./probe_result.ts";

/** Readers of a kind, and the reads that they have in flight together. */
export interface Readers {
  backend: ReaderBackend;
  readerCount: number;
  depth: number;
}

/** What one of many reads takes. */
export interface ReadCost {
  /** Of the disk, with the queue full: the inverse of reads a second. */
  seconds: number;
  /** Of a processor. */
  cpuSeconds: number;
}

/**
 * What reads of any size cost, between the sizes and depths that were measured: on straight lines over the logarithm of either.
 */
export class ReadCosts {
  readonly #rows: readonly ReaderRow[];

  constructor({ rows }: Pick<DiskProbe, "rows">) {
    this.#rows = rows.filter(({ isSequential }) => !isSequential);
  }

  /** Kinds of readers that were measured, each once. */
  get readers(): Readers[] {
    const all = this.#rows.map(({ backend, readerCount, depth }) => ({
      backend,
      readerCount,
      depth,
    }));
    return all.filter((one, index) => all.findIndex((other) => isSame(one, other)) === index);
  }

  /** Null if no readers of the backend were measured. Of those, the ones with the nearest number of readers count. */
  of(readers: Readers, readBytes: number): ReadCost | null {
    const rows = this.#rows.filter(({ backend }) => backend === readers.backend);
    if (rows.length === 0) return null;
    // So many `pread` workers are so many reads in flight; io_uring readers have more of their own.
    const isWorkers = readers.backend === "pread";
    const near = isWorkers
      ? rows
      : rows.filter(({ readerCount }) =>
        readerCount === nearest(rows.map((row) => row.readerCount), readers.readerCount)
      );
    const depths = [...new Set(near.map(({ depth }) => depth))].sort((a, b) => a - b);
    const costs = depths.map((depth) =>
      ofSize(near.filter((row) => row.depth === depth), readBytes)
    );
    const at = (pick: (cost: ReadCost) => number) =>
      between(depths, costs.map(pick), readers.depth);
    return { seconds: at(({ seconds }) => seconds), cpuSeconds: at((cost) => cost.cpuSeconds) };
  }
}

function ofSize(rows: readonly ReaderRow[], readBytes: number): ReadCost {
  const sorted = [...rows].sort((a, b) => a.readBytes - b.readBytes);
  const sizes = sorted.map((row) => row.readBytes);
  const largest = sizes[sizes.length - 1];
  // Beyond what was measured, bytes are all that counts.
  const scale = Math.max(1, readBytes / largest);
  const at = (pick: (row: ReaderRow) => number) =>
    scale * between(sizes, sorted.map(pick), readBytes);
  return {
    seconds: at(({ readsPerSecond }) => 1 / readsPerSecond),
    cpuSeconds: at(({ cpuUsPerRead }) => cpuUsPerRead / 1e6),
  };
}

function nearest(values: readonly number[], wanted: number): number {
  return values.reduce((best, value) =>
    Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best
  );
}

/** The value at `x` of a curve through points whose `xs` ascend, straight over log x; the ends go on level. */
export function between(xs: readonly number[], ys: readonly number[], x: number): number {
  const right = xs.findIndex((other) => other >= x);
  if (right < 0) return ys[ys.length - 1];
  if (right === 0 || xs[right] === x) return ys[right];
  const share = Math.log(x / xs[right - 1]) / Math.log(xs[right] / xs[right - 1]);
  return ys[right - 1] + share * (ys[right] - ys[right - 1]);
}

function isSame(one: Readers, other: Readers): boolean {
  return one.backend === other.backend && one.readerCount === other.readerCount &&
    one.depth === other.depth;
}
