/**
 * How fast do the flash readers read? The real reader workers with real tickets, against fio on the same file with the
 * same size of read, depth and O_DIRECT. Alternating, medians; the page cache must not grow.
 *
 *   deno run -A bench/readers.ts [--help]
 */
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { formatBytes, parseByteSize } from "../src/byte_size.ts";
import { examineDisk } from "../src/flash/bypass.ts";
import type { ReaderBackend } from "../src/flash/reader_options.ts";
import { canUseUring } from "../src/flash/uring_reader.ts";
import { ReaderRig } from "../src/probe/reader_rig.ts";
import type { ReadRate } from "../src/probe/reader_rig.ts";
import { makeFile } from "../src/probe/scratch_file.ts";
import { resourceUse, runtimeName } from "../src/runtime.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { median } from "./median.ts";

export interface ReadersBench {
  /** Bytes of the file that is read: of its beginning, if there is more. */
  fileBytes: number;
  /** A file that is there already; default: one is made, and removed in the end. */
  file?: string;
  seconds: number;
  repeat: number;
  /** Reads in flight, of the readers and of fio: so many `pread` workers, or so many reads of one io_uring. */
  depth: number;
  backends: ReaderBackend[];
  sizes: number[];
  /** Where the file is made; it is removed afterwards. */
  folder: string;
}

/** What one backend reached at one size; medians. */
export interface ReadersRate {
  backend: ReaderBackend;
  bytesPerSecond: number;
  /** CPU time of the whole process a read, in us: user and system. */
  cpuUsPerRead: number;
}

export interface ReadersRow {
  readBytes: number;
  depth: number;
  /** Bytes a second by fio, median; null where it is not installed. */
  fio: number | null;
  /** The fastest backend first. */
  readers: ReadersRate[];
}

export interface ReadersResult {
  runtime: string;
  direct: boolean;
  bypassed: string;
  rows: ReadersRow[];
  /** Growth of the page cache over the whole run, in bytes; null where the system does not say. */
  cacheGrowth: number | null;
  /** What the readers read, and what the system counted as read from disks for this process. */
  readBytes: number;
  diskBytes: number;
  /** Sum of a byte of each read: so that nobody reads nothing. */
  checksum: number;
}

/** Runs the bench; makes its file and removes it, unless there is one. */
export async function benchReaders(options: ReadersBench): Promise<ReadersResult> {
  const file = options.file ?? path.join(options.folder, `readers-${process.pid}.bin`);
  if (options.file === undefined) makeFile(file, options.fileBytes);
  try {
    const disk = examineDisk(file);
    const rows: ReadersRow[] = [];
    const cacheBefore = cachedBytes();
    const diskBefore = resourceUse().diskBytes;
    let checksum = 0, readTotal = 0;
    for (const readBytes of options.sizes) {
      const runs = await runInTurn({ ...options, ...disk, file, readBytes, seed: 0 });
      for (const run of [...runs.readers.values()].flat()) {
        checksum = (checksum + run.checksum) >>> 0;
        readTotal += run.readCount * readBytes;
      }
      rows.push(rowOf(readBytes, options.depth, runs));
    }
    const cacheAfter = cachedBytes();
    const cacheGrowth = cacheBefore === null || cacheAfter === null
      ? null
      : cacheAfter - cacheBefore;
    return {
      runtime: runtimeName(),
      ...disk,
      rows,
      cacheGrowth,
      readBytes: readTotal,
      diskBytes: resourceUse().diskBytes - diskBefore,
      checksum,
    };
  } finally {
    if (options.file === undefined) fs.rmSync(file, { force: true });
  }
}

interface Runs {
  fio: number[];
  readers: Map<ReaderBackend, ReadRate[]>;
}

/** Everybody once a round, each round beginning with another, as what a shared disk gives comes and goes. */
async function runInTurn(options: RunOptions): Promise<Runs> {
  const { repeat, backends } = options;
  const runs: Runs = { fio: [], readers: new Map(backends.map((backend) => [backend, []])) };
  const turns = ["fio" as const, ...backends];
  for (let round = 0; round < repeat; round++) {
    for (let turn = 0; turn < turns.length; turn++) {
      const who = turns[(round + turn) % turns.length];
      if (who === "fio") {
        const rate = runFio(options);
        if (rate !== null) runs.fio.push(rate);
      } else {
        const how = { ...options, seed: round };
        runs.readers.get(who)!.push(await runReaders(who, how));
      }
    }
  }
  return runs;
}

function rowOf(readBytes: number, depth: number, { fio, readers }: Runs): ReadersRow {
  const rates = [...readers].map(([backend, runs]) => ({
    backend,
    bytesPerSecond: median(runs.map((run) => run.bytesPerSecond)),
    cpuUsPerRead: median(runs.map((run) => run.cpuUsPerRead)),
  }));
  rates.sort((one, other) => other.bytesPerSecond - one.bytesPerSecond);
  return { readBytes, depth, fio: fio.length > 0 ? median(fio) : null, readers: rates };
}

interface RunOptions extends ReadersBench {
  file: string;
  readBytes: number;
  direct: boolean;
  blockByteLength: number;
  seed: number;
}

/** So many `pread` workers, each with one read in flight; or one io_uring in this thread, as the predictor has it. */
async function runReaders(backend: ReaderBackend, options: RunOptions): Promise<ReadRate> {
  const { file: path, readBytes, depth, seconds, seed } = options;
  const readerCount = backend === "pread" ? depth : 1;
  const rig = await ReaderRig.start({
    ...options,
    path,
    backend,
    readerCount,
    readBytesMax: readBytes,
  });
  try {
    return rig.measure({ readBytes, seconds, seed });
  } finally {
    await rig.close();
  }
}

/** The same reads by fio; null where it is not installed. */
function runFio({ file, readBytes, depth, seconds, fileBytes }: RunOptions): number | null {
  try {
    const output = execFileSync("fio", [
      "--name=readers",
      `--filename=${file}`,
      `--size=${fileBytes}`,
      "--rw=randread",
      `--bs=${readBytes}`,
      "--readonly",
      "--direct=1",
      "--ioengine=libaio",
      `--iodepth=${depth}`,
      `--runtime=${Math.round(1000 * seconds)}ms`,
      "--time_based",
      "--output-format=json",
    ], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    return JSON.parse(output.slice(output.indexOf("{"))).jobs[0].read.bw_bytes;
  } catch {
    return null;
  }
}

/** Bytes in the page cache of the system, where it tells. */
function cachedBytes(): number | null {
  try {
    const line = /^Cached:\s+(\d+) kB/m.exec(fs.readFileSync("/proc/meminfo", "utf8"));
    return line ? Number(line[1]) * 1024 : null;
  } catch {
    return null;
  }
}

const HELP =
  `How fast do the flash readers read, and how does fio read the same? Random direct reads, alternating, medians.

  --size SIZE        of the file that is made, read and removed (default 1GiB)
  --folder FOLDER    where it is made; must be on the disk that is meant (default: the system's for temporary files)
  --depth N          reads in flight (default 16)
  --backend LIST     pread, io_uring, or both with a comma (default: what can be used here)
  --seconds N        of each run (default 2)
  --repeat N         runs of each (default 3)
  --json             print the result as JSON`;

export async function main(args: string[]): Promise<void> {
  const values = parseBenchArgs(args, HELP, {
    options: {
      json: { type: "boolean" },
      size: { type: "string", default: "1GiB" },
      seconds: { type: "string", default: "2" },
      repeat: { type: "string", default: "3" },
      depth: { type: "string", default: "16" },
      backend: { type: "string", default: canUseUring() ? "io_uring,pread" : "pread" },
      folder: { type: "string", default: os.tmpdir() },
    },
  })?.values;
  if (!values) return;
  const result = await benchReaders({
    fileBytes: parseByteSize(values.size),
    seconds: Number(values.seconds),
    repeat: Number(values.repeat),
    depth: Number(values.depth),
    backends: values.backend.split(",") as ReaderBackend[],
    sizes: [4096, 16384, 65536, 1 << 20],
    folder: values.folder,
  });
  if (values.json) console.log(JSON.stringify(result));
  else print(result);
}

function print(result: ReadersResult): void {
  console.log(`${result.runtime}, OS cache bypassed: ${result.bypassed}`);
  for (const { readBytes, depth, readers, fio } of result.rows) {
    const theirs = fio === null ? "no fio here" : `fio ${(fio / 1e6).toFixed(0)} MB/s`;
    console.log(`${formatBytes(readBytes)} x ${depth}: ${theirs}`);
    for (const { backend, bytesPerSecond, cpuUsPerRead } of readers) {
      const share = fio === null ? "" : `${(100 * bytesPerSecond / fio).toFixed(0)} % of fio, `;
      const reads = Math.round(bytesPerSecond / readBytes);
      console.log(
        `  ${backend.padEnd(8)} ${(bytesPerSecond / 1e6).toFixed(0).padStart(5)} MB/s, ${share}` +
          `${reads} reads/s, ${cpuUsPerRead.toFixed(1)} us CPU a read`,
      );
    }
  }
  const fromDisk = (100 * result.diskBytes / result.readBytes).toFixed(1);
  const growth = result.cacheGrowth === null ? "unknown" : formatBytes(result.cacheGrowth);
  console.log(
    `${fromDisk} % of the bytes came from the disk; page cache grew by ${growth}; peak memory ${
      formatBytes(resourceUse().peakBytes)
    }; checksum ${result.checksum}`,
  );
}

if (import.meta.main) await main(process.argv.slice(2));
