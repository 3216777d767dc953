/**
 * What changes with the operating system's cache on? The engine's own reads, as a replay lists them, one after the other, past
 * the cache and through it; the same memory as slots or as the system's pages; and the engine with its file in memory.
 */
import { DEFAULT_POLICY } from "../../src/cache/policies.ts";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { openDisk } from "../../src/flash/disk.ts";
import { resourceUse } from "../../src/runtime.ts";
import { seededRandom } from "../../src/random.ts";
import type { NeuronTrace } from "../../src/simulate/neuron_trace.ts";
import { replay } from "../../src/simulate/replay.ts";
import { slotCountsOf, warmupOf } from "../../src/simulate/simulate.ts";
import { median } from "../median.ts";
import { makeFile, openUncached } from "../../src/probe/scratch_file.ts";
import { benchTokens } from "../tokens.ts";
import type { TokensResult } from "../tokens.ts";
import { figure, mebibytes, milliseconds, percent } from "./table.ts";
import type { Table } from "./table.ts";
import type { Workbench } from "./workbench.ts";

const CACHE_SHARE = 0.2;
const PAGE_BYTES = 4096;
/** Of random reads: a bundle of OPT 6.7B in f16, of a file that is much larger than what is read of it. */
const BUNDLE_BYTES = 16_384;
const LARGE_FILE_BYTES = 512 * 2 ** 20;
const LARGE_READS = 2000;
/** A file system in memory: what the system's cache is at best. */
const MEMORY_FOLDER = "/dev/shm";

/** Bytes of a file. */
export interface Extent {
  byteOffset: number;
  byteLength: number;
}

/** The engine's reads of a trace after the warm-up, and the tokens that they are for. */
export function readsOf(trace: NeuronTrace, cacheShare: number) {
  const options = {
    slotCounts: slotCountsOf(trace, cacheShare),
    policy: { name: DEFAULT_POLICY, window: Infinity },
  } as const;
  const all: Extent[] = [];
  replay(trace, {
    ...options,
    onRead: (byteOffset, byteLength) => void all.push({ byteOffset, byteLength }),
  });
  const { reads, tokens } = replay(trace, { ...options, warmupTokens: warmupOf(trace) });
  return { reads: all.slice(all.length - reads), tokens };
}

/**
 * What the system's cache of so many pages lets through to the disk, per read of its pages: the longest unused leaves
 * first, nothing is read ahead.
 */
export function pageMisses(reads: readonly Extent[], pageCount: number): number {
  const pages = new Map<number, true>();
  let misses = 0;
  for (const { byteOffset, byteLength } of reads) {
    const end = Math.ceil((byteOffset + byteLength) / PAGE_BYTES);
    for (let page = Math.floor(byteOffset / PAGE_BYTES); page < end; page++) {
      if (!pages.delete(page)) misses++;
      pages.set(page, true);
      if (pages.size > pageCount) pages.delete(pages.keys().next().value!);
    }
  }
  return misses;
}

/** One way to read. */
export interface ReadingRow {
  way: string;
  secondsPerRead: number;
  /** Bytes from the disk for each byte that was asked for. */
  diskShare: number;
  checksum: number;
}

/** Reads past the cache; through it, of a file that is not in it; and again, now that it is. */
export function compareReading(file: string, reads: readonly Extent[]): ReadingRow[] {
  return [
    readAll(file, reads, { way: "past the cache (O_DIRECT)", direct: true }),
    readAll(file, reads, { way: "through it, cold", direct: false }),
    readAll(file, reads, { way: "through it, warm", direct: false }),
  ];
}

function readAll(
  file: string,
  reads: readonly Extent[],
  { way, direct }: { way: string; direct: boolean },
): ReadingRow {
  const longest = reads.reduce((most, { byteLength }) => Math.max(most, byteLength), 0);
  // O_DIRECT asks for aligned memory, as that of a WebAssembly.Memory is.
  const memory = new WebAssembly.Memory({ initial: Math.ceil(longest / 65_536) || 1 });
  const target = new Uint8Array(memory.buffer);
  const disk = openDisk({ path: file, direct });
  const diskBefore = resourceUse().diskBytes, began = performance.now();
  let checksum = 0, bytes = 0;
  try {
    for (const { byteOffset, byteLength } of reads) {
      disk.read(target.subarray(0, byteLength), byteOffset);
      checksum = (Math.imul(checksum, 31) + target[0] + target[byteLength - 1]) >>> 0;
      bytes += byteLength;
    }
  } finally {
    disk.close();
  }
  return {
    way,
    secondsPerRead: (performance.now() - began) / 1000 / reads.length,
    diskShare: (resourceUse().diskBytes - diskBefore) / bytes,
    checksum,
  };
}

/** A copy that is not in the system's cache. */
export function copyUncached(source: string, target: string): void {
  const block = new Uint8Array(new WebAssembly.Memory({ initial: 16 }).buffer);
  const from = fs.openSync(source, "r"), to = openUncached(target);
  try {
    for (let at = 0, count; (count = fs.readSync(from, block, 0, block.length, at)) > 0;) {
      // Whole blocks: what is behind the end is never read.
      fs.writeSync(to, block, 0, Math.ceil(count / PAGE_BYTES) * PAGE_BYTES, at);
      at += count;
    }
    fs.fsyncSync(to);
  } finally {
    fs.closeSync(from);
    fs.closeSync(to);
  }
}

export async function ask(workbench: Workbench): Promise<Table[]> {
  const trace = await workbench.trace(), { modelPath, repeat } = workbench.options;
  const { reads, tokens } = readsOf(trace, CACHE_SHARE);
  const file = path.join(os.tmpdir(), `questions-${process.pid}.bin`);
  const few = reads.slice(0, 20_000);
  try {
    const small = inRounds(repeat, () => {
      copyUncached(modelPath, file);
      return compareReading(file, few);
    });
    const random = seededRandom(1), blocks = LARGE_FILE_BYTES / BUNDLE_BYTES;
    const scattered = Array.from({ length: LARGE_READS }, () => ({
      byteOffset: Math.floor(random() * blocks) * BUNDLE_BYTES,
      byteLength: BUNDLE_BYTES,
    }));
    const large = inRounds(repeat, () => {
      makeFile(file, LARGE_FILE_BYTES);
      return compareReading(file, scattered);
    });
    return [
      readingTable(`The traced model's own reads (${few.length}), one at a time`, small),
      readingTable(
        `Random reads of ${BUNDLE_BYTES} bytes of a file of ${
          mebibytes(LARGE_FILE_BYTES)
        } MiB, one at a time`,
        large,
      ),
      memoryTable(trace, { tokens }),
      ...await engineTable(workbench),
    ];
  } finally {
    fs.rmSync(file, { force: true });
  }
}

/** Medians over rounds, each with a file that is new. */
function inRounds(rounds: number, compare: () => ReadingRow[]): ReadingRow[] {
  const all = Array.from({ length: rounds }, compare);
  return all[0].map((row, index) => ({
    ...row,
    secondsPerRead: median(all.map((rows) => rows[index].secondsPerRead)),
    diskShare: median(all.map((rows) => rows[index].diskShare)),
  }));
}

function readingTable(title: string, rows: ReadingRow[]): Table {
  return {
    title,
    head: ["", "us a read", "bytes from the disk", "checksum"],
    rows: rows.map(({ way, secondsPerRead, diskShare, checksum }) => [
      way,
      figure(1e6 * secondsPerRead),
      percent(diskShare),
      `${checksum}`,
    ]),
  };
}

/** The same memory as slots, or a part of it as pages that the system keeps of what was read. */
function memoryTable(trace: NeuronTrace, { tokens }: { tokens: number }): Table {
  const { numLayers, intermediateSize, strideBytes } = trace.header;
  const ffnBytes = numLayers * intermediateSize * strideBytes;
  const splits = [[0.2, 0], [0.4, 0], [0.2, 0.2], [0.2, 1], [0.15, 0.05], [0.1, 0.1], [0.05, 0.15]];
  return {
    title:
      "Memory as slots and as pages of the system, shares of the FFN: what reaches the disk for a token",
    head: ["slots", "pages", "reads", "KiB asked for", "KiB from the disk"],
    rows: splits.map(([slots, pages]) => {
      const { reads } = readsOf(trace, slots);
      const asked = reads.reduce((sum, { byteLength }) => sum + byteLength, 0);
      const pageCount = Math.floor(pages * ffnBytes / PAGE_BYTES);
      const fromDisk = pageCount > 0 ? PAGE_BYTES * pageMisses(reads, pageCount) : asked;
      return [
        percent(slots),
        percent(pages),
        figure(reads.length / tokens),
        figure(asked / tokens / 1024),
        figure(fromDisk / tokens / 1024),
      ];
    }),
  };
}

/** The engine with its file on the disk, and in memory: the best that any cache of the system could be. */
async function engineTable({ options }: Workbench): Promise<Table[]> {
  if (!fs.existsSync(MEMORY_FOLDER)) return [];
  const { modelPath, repeat } = options;
  const inMemory = path.join(MEMORY_FOLDER, `questions-${process.pid}.flash`);
  const bench = {
    ways: [modelPath, inMemory].map((modelPath) => ({
      modelPath,
      options: { ffnCache: CACHE_SHARE },
    })),
    tokens: 256,
    repeat,
    prompt: "Once upon a time",
    temperature: 0.7,
    topP: 0.9,
  };
  try {
    fs.copyFileSync(modelPath, inMemory);
    const [onDisk, cached] = await benchTokens(bench);
    const rowOf = (name: string, { runs, checksum }: TokensResult) => [
      name,
      milliseconds(median(runs.map(({ msPerToken }) => msPerToken.total)) / 1000),
      milliseconds(median(runs.map(({ msPerToken }) => msPerToken.flash)) / 1000),
      figure(median(runs.map(({ readsPerToken }) => readsPerToken))),
      `${checksum}`,
    ];
    return [{
      title: "The engine, a fifth cached",
      head: ["file", "ms a token", "waiting for flash", "reads", "checksum"],
      rows: [rowOf("on the disk, O_DIRECT", onDisk), rowOf("in memory (tmpfs)", cached)],
    }];
  } finally {
    fs.rmSync(inMemory, { force: true });
  }
}
