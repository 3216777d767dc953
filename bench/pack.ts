/**
 * Does `pack` keep up with the disk, and in how little memory? Packs a folder, in turn with writing as many bytes to the same disk, and
 * prints both speeds and the largest memory of the process. Without a folder one of noise is made, in a real model's sizes.
 *
 *   deno run -A bench/pack.ts [FOLDER] [--help]
 */
import { closeSync, existsSync, fsyncSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { formatBytes, parseByteSize, parseShare } from "../src/byte_size.ts";
import type { Quantization } from "../src/format/layout.ts";
import { QUANTIZATIONS } from "../src/format/layout.ts";
import { pack } from "../src/format/pack.ts";
import { DirectWriter, PlainWriter } from "../src/format/direct_writer.ts";
import { residentBytes, resourceUse, runtimeName } from "../src/runtime.ts";
import { parseBenchArgs, wholeNumber } from "./bench_args.ts";
import { median } from "./median.ts";
import { LLAMAS, makeCheckpoint } from "./pack/checkpoint_maker.ts";

export interface PackBench {
  /** The model: a folder that `pack` takes. */
  source: string;
  quant: Quantization;
  rounds: number;
  /** Where the packed file goes; it is removed after each round. */
  folder: string;
  /** Bytes that are written beside each round, to know what the disk can do. */
  writeBytes: number;
}

export interface PackBenchResult {
  runtime: string;
  /** Of the packed file. */
  byteLength: number;
  /** Medians: of a pack, of plain writing, and of writing past the system's cache, all with what reaches the disk last. */
  seconds: number;
  packBytesPerSecond: number;
  writeBytesPerSecond: number;
  directBytesPerSecond: number;
  /** Medians of each round's pack over the mean of the writes before and after it. */
  shareOfWriting: number;
  shareOfDirect: number;
  /** Memory of the process before the first pack, and its largest. */
  beforeBytes: number;
  peakBytes: number;
}

/** Writes, packs, writes, packs, writes: each pack stands beside the writes around it, as what a shared disk gives comes and goes. */
export async function benchPack(bench: PackBench): Promise<PackBenchResult> {
  const { source, quant, rounds, folder, writeBytes } = bench;
  const target = join(folder, `pack-${process.pid}.flash`), beforeBytes = residentBytes();
  const packs: number[] = [], seconds: number[] = [];
  const plain = [writeSpeed(folder, writeBytes, false)];
  const direct = [writeSpeed(folder, writeBytes, true)];
  let byteLength = 0;
  for (let round = 0; round < rounds; round++) {
    try {
      const began = performance.now();
      ({ byteLength } = await pack({ source, target, quant, synthetic: true }));
      seconds.push((performance.now() - began) / 1000);
      packs.push(byteLength / seconds[round]);
    } finally {
      rmSync(target, { force: true });
    }
    plain.push(writeSpeed(folder, writeBytes, false));
    direct.push(writeSpeed(folder, writeBytes, true));
  }
  const shareOf = (writes: number[]) =>
    median(packs.map((pack, round) => pack / ((writes[round] + writes[round + 1]) / 2)));
  return {
    runtime: runtimeName(),
    byteLength,
    seconds: median(seconds),
    packBytesPerSecond: median(packs),
    writeBytesPerSecond: median(plain),
    directBytesPerSecond: median(direct),
    shareOfWriting: shareOf(plain),
    shareOfDirect: shareOf(direct),
    beforeBytes,
    peakBytes: resourceUse().peakBytes,
  };
}

/** Bytes a second of a new file that is written from front to back, until it is on the disk. */
function writeSpeed(folder: string, byteLength: number, isDirect: boolean): number {
  const path = join(folder, `write-${process.pid}.tmp`),
    block = new Uint8Array(4 * 2 ** 20).fill(7);
  const descriptor = openSync(path, "w");
  const direct = isDirect ? new DirectWriter(path, path) : null;
  const writer = direct ?? new PlainWriter(descriptor, path);
  try {
    const began = performance.now();
    for (let at = 0; at < byteLength; at += block.byteLength) {
      const length = Math.min(block.byteLength, byteLength - at);
      writer.write(block.subarray(0, length), at);
    }
    writer.flush();
    fsyncSync(descriptor);
    return byteLength / ((performance.now() - began) / 1000);
  } finally {
    direct?.close();
    closeSync(descriptor);
    rmSync(path, { force: true });
  }
}

/** How fast, beside what, and in how much memory: three lines. */
export function renderPack(result: PackBenchResult): string {
  const speed = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB/s`;
  const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
  const { byteLength, seconds, packBytesPerSecond, beforeBytes, peakBytes } = result;
  return [
    `${result.runtime}: ${formatBytes(byteLength)} in ${seconds.toFixed(1)} s, ${
      speed(packBytesPerSecond)
    }`,
    `plain writes: ${speed(result.writeBytesPerSecond)}, of which ${
      percent(result.shareOfWriting)
    }; past the system's cache: ${speed(result.directBytesPerSecond)}, of which ${
      percent(result.shareOfDirect)
    }`,
    `memory: ${formatBytes(beforeBytes)} before, ${formatBytes(peakBytes)} at most`,
  ].join("\n");
}

const HELP = `Does \`pack\` keep up with the disk, and in how little memory?

  pack [FOLDER]
  --make NAME      ${
  Object.keys(LLAMAS).join(" or ")
}: noise in f16, made in --folder/NAME unless it is there
                   (default llama-7b, without FOLDER)
  --zeros SHARE    of the FFN's numbers that are made (default 0%)
  --quant KIND     how weights are stored (default f16)
  --rounds N       default 3
  --write SIZE     bytes written beside each round (default 4GiB)
  --folder DIR     where files go; of one that is not given all are removed
  --json           print the result as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 1,
    options: {
      make: { type: "string", default: "llama-7b" },
      zeros: { type: "string", default: "0%" },
      quant: { type: "string", default: "f16" },
      rounds: { type: "string", default: "3" },
      write: { type: "string", default: "4GiB" },
      folder: { type: "string" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [given] } = parsed, quant = values.quant as Quantization;
  if (!QUANTIZATIONS.includes(quant)) {
    throw new RangeError(`Cannot pack as "${quant}": one of ${QUANTIZATIONS.join(", ")}`);
  }
  if (!Object.hasOwn(LLAMAS, values.make)) {
    throw new RangeError(`Cannot make "${values.make}": ${Object.keys(LLAMAS).join(" or ")}`);
  }
  const zeros = parseShare(values.zeros), writeBytes = parseByteSize(values.write);
  const folder = values.folder ?? mkdtempSync(join(tmpdir(), "bench-pack-"));
  try {
    const source = given ?? made(folder, values.make, zeros);
    const rounds = wholeNumber("rounds", values.rounds);
    const result = await benchPack({ source, quant, rounds, folder, writeBytes });
    console.log(values.json ? JSON.stringify(result) : renderPack(result));
  } finally {
    if (values.folder === undefined) rmSync(folder, { recursive: true });
  }
}

/** The folder of noise of this name, which another run may have left. Its index is written last. */
function made(folder: string, name: string, zeros: number): string {
  const source = join(folder, zeros > 0 ? `${name}-${Math.round(100 * zeros)}-zeros` : name);
  if (!existsSync(join(source, "model.safetensors.index.json"))) {
    makeCheckpoint(source, LLAMAS[name], { zeros });
  }
  return source;
}

if (import.meta.main) await main(process.argv.slice(2));
