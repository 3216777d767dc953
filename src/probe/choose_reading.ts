import type { ReaderBackend } from "../flash/reader_options.ts";
import type { DiskProbe } from "./probe_result.ts";
import { ReadCosts } from "./read_costs.ts";
import type { ReadCost, Readers } from "./read_costs.ts";

/** How to read: what `open` takes where its options leave it open. Changes no result. */
export interface Reading {
  backend: ReaderBackend;
  readerCount: number;
  /** Reads in flight of one reader. */
  depth: number;
  gapBytes: number;
}

export interface ReadingWishes {
  /** Bytes of a neuron's record on flash. */
  recordBytes: number;
  /** What can be used here. */
  backends: readonly ReaderBackend[];
  /** So many readers, if the user says so. */
  readerCount?: number;
  coreCount: number;
  /** The longest merged read. */
  mergedBytesMax: number;
}

/** Another kind of readers must be so much better than one io_uring in the predictor's own thread, which wakes nobody. */
const WORTH_WAKING = 0.8;

/** A deeper queue must gain so much: late reads wait behind fewer early ones in a short one. */
const WORTH_DEPTH = 0.97;

/**
 * The readers by which a record costs least: time of the disk, and time of processors, of which lanes and predictor want all that there
 * is. Null if nothing fitting was measured, or a backend that can be used was not: a probe without FFI says nothing of io_uring.
 */
export function chooseReading(disk: DiskProbe, wishes: ReadingWishes): Reading | null {
  const { recordBytes, backends, readerCount, coreCount } = wishes;
  const costs = new ReadCosts(disk), measured = costs.readers;
  const isKnown = (name: ReaderBackend) => measured.some(({ backend }) => backend === name);
  if (!backends.every(isKnown)) return null;
  const scored = measured
    .filter((readers) =>
      backends.includes(readers.backend) && readers.depth > 1 &&
      (readerCount === undefined || readers.readerCount === readerCount)
    )
    .sort((a, b) => a.readerCount - b.readerCount || a.depth - b.depth)
    .map((readers) => ({
      readers,
      score: weighed(costs.of(readers, recordBytes)!, coreCount),
    }));
  if (scored.length === 0) return null;
  const best = scored.reduce((least, one) => {
    const wakes = isInline(least.readers) && !isInline(one.readers);
    return one.score < least.score * (wakes ? WORTH_WAKING : WORTH_DEPTH) ? one : least;
  });
  const { readers } = best;
  return {
    backend: readers.backend,
    readerCount: readers.readerCount,
    depth: readers.backend === "pread" ? 1 : readers.depth / readers.readerCount,
    gapBytes: gapWorthReading(costs, readers, wishes),
  };
}

function isInline({ backend, readerCount }: Readers): boolean {
  return backend === "io_uring" && readerCount === 1;
}

function weighed({ seconds, cpuSeconds }: ReadCost, coreCount: number): number {
  return seconds + cpuSeconds / coreCount;
}

/** A merged read must be so much cheaper: figures of a shared disk are no finer, and the gap takes memory's bandwidth too. */
const WORTH_MERGING = 0.85;

/** Records of a merged read are copied to their slots at this speed. */
const SCATTERED_BYTES_PER_SECOND = 8e9;

/**
 * The longest gap that is cheaper to read over than another read: two records and the gap in one against two reads. Whole KiB.
 */
export function gapWorthReading(
  costs: ReadCosts,
  readers: Readers,
  { recordBytes, coreCount, mergedBytesMax }: Omit<ReadingWishes, "backends">,
): number {
  const costOf = (bytes: number) => weighed(costs.of(readers, bytes)!, coreCount);
  const apart = WORTH_MERGING * 2 * costOf(recordBytes);
  const copying = 2 * recordBytes / SCATTERED_BYTES_PER_SECOND;
  let gapBytes = 0;
  for (let next = 1024; 2 * recordBytes + next <= mergedBytesMax; next += 1024) {
    if (costOf(2 * recordBytes + next) + copying >= apart) break;
    gapBytes = next;
  }
  return gapBytes;
}
