import { examineDisk } from "../flash/bypass.ts";
import { alignUp } from "../format/align.ts";
import { canUseUring } from "../flash/uring_reader.ts";
import type { DiskProbe, ReaderRow } from "./probe_result.ts";
import { ReaderRig, rigByteLength } from "./reader_rig.ts";
import type { RigOptions } from "./reader_rig.ts";

/** Readers that are measured. */
export type RigShape = Pick<RigOptions, "backend" | "readerCount" | "depth">;

export interface DiskProbeOptions {
  path: string;
  fileBytes: number;
  rigs: readonly RigShape[];
  /** Bytes of a read; rounded up to whole blocks. */
  readSizes: readonly number[];
  /** The size that is also read block after block. */
  sequentialBytes: number;
  /** Of each figure, in each round. */
  seconds: number;
  rounds: number;
  /** Where reads go: targets of their own for all that is in flight, so sizes that find no place are left out. */
  memory: WebAssembly.Memory;
  signal?: AbortSignal;
  /** After each figure. */
  onStep?: () => void;
}

/** `pread` is one read a worker; more workers than this wake each other more than they gain. io_uring with one and two readers. */
export const RIGS: readonly RigShape[] = [
  { backend: "pread", readerCount: 1, depth: 1 },
  { backend: "pread", readerCount: 8, depth: 8 },
  { backend: "pread", readerCount: 16, depth: 16 },
  { backend: "io_uring", readerCount: 1, depth: 1 },
  { backend: "io_uring", readerCount: 1, depth: 8 },
  { backend: "io_uring", readerCount: 1, depth: 32 },
  { backend: "io_uring", readerCount: 1, depth: 64 },
  { backend: "io_uring", readerCount: 2, depth: 64 },
];

/** 8.5 KiB is a bundle of OPT 6.7B in q8. */
export const READ_SIZES = [4096, 8704, 16_384, 65_536, 262_144, 2 ** 20];

/** Reads of 1 MiB need no deep queue: what all that is in flight takes, at most. */
const RIG_BYTES_MAX = 32 * 2 ** 20;

/**
 * Measures the disk that a file lies on through the engine's readers: all sizes of read by each kind of reader, in rounds, as what a
 * shared disk gives comes and goes; workers, which take 45 ms each to start, all their rounds at once. Reads past the
 * system's cache, where the system allows that.
 */
export async function probeDisk(options: DiskProbeOptions): Promise<DiskProbe> {
  const { path, fileBytes, memory, rounds, seconds, sequentialBytes, signal, onStep } = options;
  const { direct, blockByteLength, bypassed } = examineDisk(path);
  const sizes = options.readSizes.map((bytes) => alignUp(bytes, blockByteLength))
    .filter((bytes) => bytes <= fileBytes);
  const hasUring = canUseUring();
  const rigs = options.rigs.filter(({ backend }) => backend === "pread" || hasUring);
  const rows: ReaderRow[] = [];
  for (let round = 0; round < rounds; round++) {
    for (const shape of rigs) {
      const fits = sizes.filter((readBytesMax) =>
        rigByteLength({ ...shape, path, fileBytes, direct, blockByteLength, readBytesMax }) <=
          Math.min(RIG_BYTES_MAX, memory.buffer.byteLength)
      );
      const isInline = shape.backend === "io_uring" && shape.readerCount === 1;
      if (fits.length === 0 || (round > 0 && !isInline)) continue;
      const visits = isInline ? 1 : rounds;
      const readBytesMax = Math.max(...fits);
      const all = { ...shape, path, fileBytes, direct, blockByteLength, readBytesMax, memory };
      const rig = await ReaderRig.start(all);
      try {
        // The first reads compile the code.
        rig.measure({ readBytes: fits[0], seconds: Math.min(0.01, seconds), seed: 1 });
        for (const [isSequential, readBytes] of figuresOf(fits, sequentialBytes)) {
          for (let seed = round + 2; seed < round + 2 + visits; seed++) {
            const rate = rig.measure({ readBytes, seconds, isSequential, seed });
            const { readsPerSecond, cpuUsPerRead } = rate;
            rows.push({ ...shape, readBytes, isSequential, readsPerSecond, cpuUsPerRead });
          }
          onStep?.();
          // Lets signals and progress have their turn.
          await new Promise((resolve) => setTimeout(resolve, 0));
          signal?.throwIfAborted();
        }
      } finally {
        await rig.close();
      }
    }
  }
  return { direct, blockByteLength, bypassed, rows: middleOf(rows) };
}

function figuresOf(sizes: readonly number[], sequentialBytes: number): [boolean, number][] {
  const random = sizes.map((size): [boolean, number] => [false, size]);
  return sizes.includes(sequentialBytes) ? [...random, [true, sequentialBytes]] : random;
}

/**
 * The round in the middle: one read that some disks take 300 ms for, of a block that they have to fetch first, is worth ten rounds of
 * others, and would make everything foreseen six times as slow.
 */
function middleOf(rows: readonly ReaderRow[]): ReaderRow[] {
  const groups = Map.groupBy(rows, (row) => keyOf(row));
  return [...groups.values()].map((group) => {
    const sorted = group.sort((a, b) => a.readsPerSecond - b.readsPerSecond);
    return sorted[(group.length - 1) >> 1];
  });
}

function keyOf({ backend, readerCount, depth, readBytes, isSequential }: ReaderRow): string {
  return [backend, readerCount, depth, readBytes, isSequential].join();
}
