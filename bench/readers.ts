/**
 * How fast do the flash readers read? The real reader workers with real tickets, against fio on the same file with the
 * same size of read, depth and O_DIRECT. Alternating, medians; the page cache must not grow.
 *
 *   deno run -A bench/readers.ts [--json] [--size 1GiB] [--seconds 2] [--repeat 3] [--depth 16]
 */
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { formatBytes, parseByteSize } from "../src/byte_size.ts";
import { ReadPlan } from "../src/cache/read_plan.ts";
import { examineDisk } from "../src/flash/bypass.ts";
import type { ReaderBackend, ReaderOptions } from "../src/flash/reader.ts";
import { canUseUring } from "../src/flash/uring_reader.ts";
import { Control } from "../src/pipeline/control.ts";
import { Crew } from "../src/pipeline/crew.ts";
import { LandingBell } from "../src/pipeline/landing.ts";
import { seededRandom } from "../src/random.ts";
import { resourceUse, runtimeName } from "../src/runtime.ts";
import { median } from "./median.ts";

export interface ReadersBench {
  /** Bytes of the file that is read. */
  fileBytes: number;
  seconds: number;
  repeat: number;
  /** Reads in flight: reader workers, and fio's jobs. */
  depth: number;
  /** One `io_uring` worker with so many reads in flight, or so many `pread` workers. */
  backend: ReaderBackend;
  sizes: number[];
  /** Where the file is made; it is removed afterwards. */
  folder: string;
}

export interface ReadersRow {
  readBytes: number;
  depth: number;
  /** Medians, in bytes a second; fio is null where it is not installed. */
  readers: number;
  fio: number | null;
  /** CPU time of the process a read, in us. */
  cpuUsPerRead: number;
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

/** Runs the bench; makes its file and removes it. */
export async function benchReaders(options: ReadersBench): Promise<ReadersResult> {
  const file = path.join(options.folder, `readers-${process.pid}.bin`);
  makeFile(file, options.fileBytes);
  try {
    const disk = examineDisk(file);
    const rows: ReadersRow[] = [];
    const cacheBefore = cachedBytes();
    const diskBefore = resourceUse().diskBytes;
    let checksum = 0, readTotal = 0;
    for (const readBytes of options.sizes) {
      const readers: number[] = [], fio: number[] = [], cpu: number[] = [];
      for (let round = 0; round < options.repeat; round++) {
        const run = await runReaders(file, readBytes, {
          ...options,
          direct: disk.direct,
          seed: round,
        });
        readers.push(run.bytesPerSecond);
        cpu.push(run.cpuUsPerRead);
        checksum = (checksum + run.checksum) >>> 0;
        readTotal += run.readCount * readBytes;
        const rate = runFio(file, readBytes, options);
        if (rate !== null) fio.push(rate);
      }
      rows.push({
        readBytes,
        depth: options.depth,
        readers: median(readers),
        fio: fio.length > 0 ? median(fio) : null,
        cpuUsPerRead: median(cpu),
      });
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
    fs.rmSync(file, { force: true });
  }
}

/** A file of pseudo-random bytes, on the disk and out of the page cache as far as we can have it. */
function makeFile(file: string, byteLength: number): void {
  const block = new Uint8Array(1 << 20);
  const random = seededRandom(1);
  for (let i = 0; i < block.length; i++) block[i] = random() * 256;
  const descriptor = fs.openSync(file, "w");
  for (let at = 0; at < byteLength; at += block.length) {
    fs.writeSync(descriptor, block, 0, Math.min(block.length, byteLength - at));
  }
  fs.fsyncSync(descriptor);
  fs.closeSync(descriptor);
}

async function runReaders(
  file: string,
  readBytes: number,
  { depth, backend, seconds, fileBytes, direct, seed }: ReadersBench & {
    direct: boolean;
    seed: number;
  },
): Promise<{ bytesPerSecond: number; cpuUsPerRead: number; readCount: number; checksum: number }> {
  // Targets in flight, and others waiting in rings, which must not fill up: this thread would be woken for each read.
  const slots = depth * (backend === "io_uring" ? 3 : 4);
  const pages = Math.ceil((slots * readBytes) / 65536) + 2;
  const arena = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const style = { spins: 100, flashSpins: 100, waitMsMax: 30_000 };
  const readerCount = backend === "io_uring" ? 1 : depth;
  const share = Control.create({ laneCount: 1, readerCount, flagCount: slots }, style);
  const control = new Control(share);
  const crew = new Crew(control);
  const readerOptions = (readerIndex: number): ReaderOptions => ({
    readerIndex,
    backend,
    depth: backend === "io_uring" ? depth : 1,
    control: share,
    arena,
    disk: { path: file, direct },
    bounce: { address: 65536, byteLength: readBytes },
    timeOrigin: performance.timeOrigin,
  });
  await crew.start(Array.from({ length: readerCount }, (_, index) => ({
    name: `reader ${index}`,
    file: "reader" as const,
    options: readerOptions(index),
  })));
  const plan = new ReadPlan(control, { blockByteLength: 512, gapBytesMax: -1, mergedBytesMax: 0 });
  const bell = new LandingBell(control, 0);
  const bytes = new Uint8Array(arena.buffer);
  const random = seededRandom(seed);
  const count = Math.floor(fileBytes / readBytes);
  let issued = 0, checksum = 0;
  const cpuBefore = process.cpuUsage();
  const began = performance.now();
  const until = began + seconds * 1000;
  try {
    plan.begin("late");
    while (performance.now() < until) {
      bell.waitFor((issued - slots + depth) | 0, "reads to land");
      // At most a round of slots between two looks at the clock, however fast reads land.
      for (let room = slots; room > 0 && issued - bell.landed < slots; room--) {
        const address = 65536 + (issued % slots) * readBytes;
        checksum = (checksum + bytes[address]) >>> 0;
        const byteOffset = Math.floor(random() * count) * readBytes;
        plan.add({ byteOffset, byteLength: readBytes }, address, issued % slots);
        issued++;
      }
      plan.finish();
      plan.ring();
    }
    bell.waitFor(issued, "the last reads to land");
    const elapsed = (performance.now() - began) / 1000;
    const { user, system } = process.cpuUsage(cpuBefore);
    return {
      bytesPerSecond: issued * readBytes / elapsed,
      cpuUsPerRead: (user + system) / issued,
      readCount: issued,
      checksum,
    };
  } finally {
    await crew.close();
  }
}

/** The same reads by fio; null where it is not installed. */
function runFio(
  file: string,
  readBytes: number,
  { depth, seconds, fileBytes }: ReadersBench,
): number | null {
  try {
    const output = execFileSync("fio", [
      "--name=readers",
      `--filename=${file}`,
      `--size=${fileBytes}`,
      "--rw=randread",
      `--bs=${readBytes}`,
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

export async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      json: { type: "boolean" },
      size: { type: "string", default: "1GiB" },
      seconds: { type: "string", default: "2" },
      repeat: { type: "string", default: "3" },
      depth: { type: "string", default: "16" },
      backend: { type: "string", default: canUseUring() ? "io_uring,pread" : "pread" },
      folder: { type: "string", default: os.tmpdir() },
    },
  });
  for (const backend of values.backend.split(",") as ReaderBackend[]) {
    const result = await benchReaders({
      fileBytes: parseByteSize(values.size),
      seconds: Number(values.seconds),
      repeat: Number(values.repeat),
      depth: Number(values.depth),
      backend,
      sizes: [4096, 16384, 65536, 1 << 20],
      folder: values.folder,
    });
    if (values.json) console.log(JSON.stringify(result));
    else print(result, backend);
  }
}

function print(result: ReadersResult, backend: ReaderBackend): void {
  console.log(`${result.runtime}, ${backend}, OS cache bypassed: ${result.bypassed}`);
  for (const { readBytes, depth, readers, fio, cpuUsPerRead } of result.rows) {
    const mine = `${(readers / 1e6).toFixed(0)} MB/s (${Math.round(readers / readBytes)} reads/s)`;
    const theirs = fio
      ? `fio ${(fio / 1e6).toFixed(0)} MB/s: ${(100 * readers / fio).toFixed(0)} %`
      : "no fio";
    console.log(
      `${formatBytes(readBytes).padStart(8)} x ${depth}: ${mine}, ${theirs}, ${
        cpuUsPerRead.toFixed(1)
      } us CPU a read`,
    );
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
