/**
 * Question: does any damage to a model file do worse than a clear refusal?
 *
 * A tiny `.flash` file and a tiny safetensors file are mutated at random: raw bytes, truncation, slots, and headers with
 * right checksums. Each mutant must be refused with one of our errors, or open (and then `verify` must answer). It must
 * never be read outside of its bytes, nor take long, nor throw anything else.
 *
 *   deno run --allow-read --allow-write --allow-env --allow-sys bench/fuzz.ts [count] [seed]
 *
 * Mutant i of a run depends on `seed + i` alone, so a failure is repeated with count 1.
 */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { crc32 } from "node:zlib";
import { decode, encode } from "@msgpack/msgpack";
import {
  FlashReadError,
  MemoryBudgetError,
  ModelFileError,
  UnsupportedModelError,
} from "../src/errors.ts";
import { type ByteSource, MemorySource, readRange } from "../src/format/byte_source.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { readSafetensorsHeader } from "../src/checkpoint/safetensors.ts";
import { open } from "../src/open.ts";
import { seededRandom } from "../src/random.ts";
import { addBitPlanes, addPredictors, packTiny, withHeader } from "../tests/tiny_flash.ts";
import { TemporaryFolder } from "../tests/tiny_model.ts";
import { parseBenchArgs } from "./bench_args.ts";

export interface FuzzOptions {
  /** How many mutants. */
  count: number;
  seed: number;
  /** Is called with each `.flash` mutant that opened, such as to run the engine on it. */
  onAccepted?: (
    mutant: { bytes: Uint8Array; file: FlashFile; seed: number },
  ) => void | Promise<void>;
}

export interface FuzzCounts {
  total: number;
  /** Mutants that opened, and of these, those whose checksums were all right. */
  accepted: number;
  verified: number;
  /** Refusals by error class and mutation: `flash header: ModelFileError`. */
  refused: Record<string, number>;
  slowestMs: number;
  /** CRC-32 over all outcomes: the same for the same count and seed, whatever the runtime. */
  checksum: number;
}

type Random = () => number;
/** A file with predictors of each kind, and a source. */
type Originals = { flash: Uint8Array[]; safetensors: Uint8Array };

const SLOWEST_MS_MAX = 5000;

/** Runs `count` mutants; throws an error that names the seed at the first that is not refused cleanly. */
export async function fuzz({ count, seed, onAccepted }: FuzzOptions): Promise<FuzzCounts> {
  const originals = await makeOriginals();
  const counts: FuzzCounts = {
    total: 0,
    accepted: 0,
    verified: 0,
    refused: {},
    slowestMs: 0,
    checksum: 0,
  };
  for (let index = 0; index < count; index++) {
    const start = performance.now();
    const outcome = await runMutant(originals, seed + index, onAccepted);
    const ms = performance.now() - start;
    counts.total++;
    counts.slowestMs = Math.max(counts.slowestMs, ms);
    counts.checksum = crc32(outcome, counts.checksum);
    if (outcome.startsWith("accepted")) counts.accepted++;
    else counts.refused[outcome] = (counts.refused[outcome] ?? 0) + 1;
    if (outcome === "accepted and verified") counts.verified++;
    if (ms > SLOWEST_MS_MAX) throw new Error(`Mutant of seed ${seed + index} took ${ms} ms`);
  }
  return counts;
}

async function makeOriginals(): Promise<Originals> {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "q8", { ffnQuant: "q4" });
  const flash = [() => addPredictors(path), () => addBitPlanes(path, 2)].map((add) => {
    add();
    return new Uint8Array(readFileSync(path));
  });
  const safetensors = new Uint8Array(readFileSync(folder.file("tiny/model.safetensors")));
  return { flash, safetensors };
}

async function runMutant(
  { flash, safetensors }: Originals,
  seed: number,
  onAccepted: FuzzOptions["onAccepted"],
): Promise<string> {
  const random = seededRandom(Math.imul(seed, 0x9e3779b1)); // Neighbouring seeds, unlike mutants.
  const kinds = Object.keys(FLASH_MUTATIONS);
  const kind = pick(random, [...kinds, ...Object.keys(SAFETENSORS_MUTATIONS)]);
  try {
    if (kind in SAFETENSORS_MUTATIONS) {
      await readSafetensors(
        new MutantSource(SAFETENSORS_MUTATIONS[kind](safetensors.slice(), random)),
      );
      return "accepted safetensors";
    }
    const bytes = FLASH_MUTATIONS[kind](pick(random, flash).slice(), random);
    using file = FlashFile.open(new MutantSource(bytes));
    const { ok } = await file.verify();
    await onAccepted?.({ bytes, file, seed });
    return ok ? "accepted and verified" : "accepted, wrong checksums";
  } catch (error) {
    const ours = [ModelFileError, FlashReadError, UnsupportedModelError]
      .find((Class) => error instanceof Class);
    if (ours !== undefined) return `${kind}: ${ours.name}`;
    throw new Error(`Mutant of seed ${seed} (${kind}) was not refused cleanly`, { cause: error });
  }
}

/** Bytes that must not be asked for what they do not have: that would be our mistake, not the file's. */
class MutantSource extends MemorySource {
  override read(target: Uint8Array, byteOffset: number): void {
    if (!(byteOffset >= 0 && byteOffset + target.byteLength <= this.byteLength)) {
      throw new Error(`Read of ${target.byteLength} bytes at ${byteOffset} of ${this.byteLength}`);
    }
    super.read(target, byteOffset);
  }
}

async function readSafetensors(source: ByteSource): Promise<void> {
  for (const tensor of await readSafetensorsHeader(source)) readRange(source, tensor);
}

type Mutation = (bytes: Uint8Array, random: Random) => Uint8Array;

const FLASH_MUTATIONS: Record<string, Mutation> = {
  "flash bytes": (bytes, random) => flip(bytes, random, 0, bytes.byteLength),
  "flash prelude": (bytes, random) => flip(bytes, random, 0, 1056),
  "flash length": changeLength,
  "flash slot": changeSlot,
  "flash header bytes": (bytes, random) => {
    return withHeader(bytes, flip(headerBytes(bytes).slice(), random, 0, Infinity));
  },
  "flash header": (bytes, random) => {
    const header = decode(headerBytes(bytes));
    for (let left = 1 + below(random, 3); left > 0; left--) changeNode(header, random);
    return withHeader(bytes, encode(header, { ignoreUndefined: true }));
  },
};

const SAFETENSORS_MUTATIONS: Record<string, Mutation> = {
  "safetensors bytes": (bytes, random) => flip(bytes, random, 0, 4000),
  "safetensors length": changeLength,
  "safetensors header": (bytes, random) => {
    const view = new DataView(bytes.buffer);
    const end = 8 + Number(view.getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, end)));
    changeNode(header, random);
    const text = new TextEncoder().encode(JSON.stringify(header) ?? "");
    const result = new Uint8Array(8 + text.byteLength + bytes.byteLength - end);
    new DataView(result.buffer).setBigUint64(0, BigInt(text.byteLength), true);
    result.set(text, 8);
    result.set(bytes.subarray(end), 8 + text.byteLength);
    return result;
  },
};

/** Numbers and other values that break careless readers. */
const NASTY: readonly unknown[] = [
  0,
  -1,
  1,
  31,
  33,
  64,
  4095,
  4096,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 40,
  2 ** 52,
  2 ** 53,
  2 ** 63,
  1e300,
  -1e300,
  0.5,
  NaN,
  Infinity,
  null,
  true,
  "",
  "f32",
  "q8",
  "q4",
  "rows",
  "../x",
  "__proto__",
  [],
  {},
  [[[]]],
  new Uint8Array(3),
  "x".repeat(5000),
];

/** Flips some bits, or overwrites some bytes, between `from` and `to`. */
function flip(bytes: Uint8Array, random: Random, from: number, to: number): Uint8Array {
  const length = Math.min(to, bytes.byteLength) - from;
  for (let left = 1 + below(random, 8); left > 0; left--) {
    const index = from + below(random, length);
    if (random() < 0.5) bytes[index] ^= 1 << below(random, 8);
    else bytes[index] = pick(random, [0, 0x7f, 0x80, 0xc1, 0xdd, 0xdf, 0xff, below(random, 256)]);
  }
  return bytes;
}

function changeLength(bytes: Uint8Array, random: Random): Uint8Array {
  const near = pick(random, [0, 8, 512, 1024, 4096, bytes.byteLength]);
  const length = random() < 0.5 ? near + below(random, 64) - 32 : below(random, bytes.byteLength);
  const result = new Uint8Array(Math.max(0, length));
  result.set(bytes.subarray(0, result.byteLength));
  return result;
}

function changeSlot(bytes: Uint8Array, random: Random): Uint8Array {
  const view = new DataView(bytes.buffer);
  const at = pick(random, [512, 1024]);
  const numbers = [0n, 1n, 4095n, 4096n, 8192n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 64n - 1n];
  const field = at + pick(random, [0, 8, 16, 16]);
  const near = view.getBigUint64(field, true) + BigInt(pick(random, [-1, 1, 4096, -4096]));
  view.setBigUint64(field, BigInt.asUintN(64, pick(random, [...numbers, near])), true);
  view.setUint32(at + 28, crc32(bytes.subarray(at, at + 28)), true);
  return bytes;
}

function headerBytes(bytes: Uint8Array): Uint8Array {
  const { slot } = FlashFile.open(new MemorySource(bytes));
  return bytes.subarray(slot.byteOffset, slot.byteOffset + slot.byteLength);
}

/** Changes one value somewhere inside of `root`: replaces, nudges, removes, repeats or swaps it. */
function changeNode(root: unknown, random: Random): void {
  // deno-lint-ignore no-explicit-any
  let node = root as any;
  while (true) {
    const keys = Object.keys(node);
    if (keys.length === 0) return;
    const key = pick(random, keys);
    const child = node[key];
    const inner = child !== null && typeof child === "object" && !(child instanceof Uint8Array);
    if (inner && random() < 0.9) {
      node = child;
      continue;
    }
    const change = below(random, 5);
    if (change === 0) Array.isArray(node) ? node.splice(Number(key), 1) : delete node[key];
    else if (change === 1 && Array.isArray(node)) node.push(child);
    else if (change === 1) node[`${key}x`] = child;
    else if (change === 2 && typeof child === "number") {
      node[key] = child + pick(random, [-4096, -64, -1, 1, 32, 64, 4096]);
    } else if (change === 3) node[key] = node[pick(random, keys)];
    else node[key] = pick(random, NASTY);
    return;
  }
}

function below(random: Random, bound: number): number {
  return Math.floor(random() * bound);
}

function pick<T>(random: Random, values: readonly T[]): T {
  return values[below(random, values.length)];
}

/**
 * Runs the engine on mutants that opened: a few logits must come, or a clear refusal, and no worker may fail. Returns
 * what is to be handed to `fuzz` as `onAccepted`, and the counts of outcomes.
 */
export function engineRunner(folder: string): {
  onAccepted: NonNullable<FuzzOptions["onAccepted"]>;
  outcomes: Record<string, number>;
} {
  const outcomes: Record<string, number> = {};
  const path = join(folder, `mutant-${process.pid}.flash`);
  const run = async (ids: number[]): Promise<string> => {
    try {
      await using model = await open(path, { ffnCache: "50%", lanes: 1, readers: 1 });
      await model.logits(ids);
      return "ran";
    } catch (error) {
      const clear = [
        ModelFileError,
        FlashReadError,
        UnsupportedModelError,
        MemoryBudgetError,
        RangeError,
      ]
        .find((Class) => error instanceof Class);
      if (clear === undefined) throw error;
      return clear.name;
    }
  };
  const onAccepted: FuzzOptions["onAccepted"] = async ({ bytes, file }) => {
    writeFileSync(path, bytes);
    try {
      const outcome = await run([0, Math.min(1, file.header.config.vocabSize - 1)]);
      outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    } finally {
      rmSync(path, { force: true });
    }
  };
  return { onAccepted, outcomes };
}

/** usage: fuzz [COUNT] [SEED] [--run]; `--run` also generates from every mutant that opens. */
const HELP =
  `Does any damage to a model file do worse than a clear refusal? Mutates tiny files at random.

  fuzz [COUNT] [SEED]   mutants (default 10000), and the first one's seed (default 1)
  --run                 runs the engine on each mutant that opens`;

export async function main(args: string[]): Promise<void> {
  const options = { run: { type: "boolean" } } as const;
  const parsed = parseBenchArgs(args, HELP, { options, positionals: 2 });
  if (!parsed) return;
  const [count = 10_000, seed = 1] = parsed.positionals.map(Number);
  const engine = parsed.values.run ? engineRunner(tmpdir()) : undefined;
  const start = performance.now();
  const counts = await fuzz({ count, seed, onAccepted: engine?.onAccepted });
  const peakMiB = Math.round(process.resourceUsage().maxRSS / 1024);
  const seconds = (performance.now() - start) / 1000;
  console.log({ ...counts, engine: engine?.outcomes, seconds, peakMiB });
}

if (import.meta.main) await main(process.argv.slice(2));
