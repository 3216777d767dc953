/**
 * What would an FFN of fewer bits cost? Rounds a model's FFN to so many bits a weight, with a scale for each 32 weights of a bundle that
 * makes the squared error least, and measures its perplexity beside those of the kinds that are there. How fast the products of so few
 * bits could be, at best: `bench kernels --only planes`, beside `--only "matvec q4"`.
 *
 *   deno run -A bench/low_bits.ts FOLDER TEXT [--help]
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { readSafetensorsHeader } from "../src/checkpoint/safetensors.ts";
import type { SourceTensor } from "../src/checkpoint/source_tensor.ts";
import { evaluate } from "../src/eval.ts";
import { FileSource, MemorySource } from "../src/format/byte_source.ts";
import type { Quantization } from "../src/format/layout.ts";
import { pack } from "../src/format/pack.ts";
import { parseBenchArgs, wholeNumber } from "./bench_args.ts";

export interface LowBitsBench {
  /** A model in one safetensors file of f16 numbers, small enough for memory, with its tokenizer. */
  folder: string;
  /** To be scored. */
  text: string;
  tokensMax: number;
  /** How it is rounded, and the kinds that stand beside. */
  bits: readonly number[];
  kinds?: readonly Quantization[];
}

export interface LowBitsRow {
  name: string;
  /** Of a weight of the FFN, scales included. */
  bitsPerWeight: number;
  perplexity: number;
}

/** Weights that share an f16 scale. */
const GROUP = 32;
/** Scales that are tried for a group: these shares of the one with which its largest number is the last level. */
const SCALES = Array.from({ length: 13 }, (_, i) => 0.4 + 0.05 * i);
const ROWS = /\.(fc1|gate_proj|up_proj)\.weight$/, COLUMNS = /\.(fc2|down_proj)\.weight$/;

const KINDS: readonly Quantization[] = ["f16", "q8", "q4"];
/** Of a weight. */
const BITS: Record<Quantization, number> = { f32: 32, f16: 16, q8: 8.5, q4: 4.5 };

/** Kinds as `pack` makes them, then each number of bits. */
export async function benchLowBits(
  bench: LowBitsBench,
  each: (row: LowBitsRow) => void = () => {},
): Promise<LowBitsRow[]> {
  const { folder, bits, kinds = KINDS } = bench, rows: LowBitsRow[] = [];
  const add = async (name: string, bitsPerWeight: number, how: How) => {
    rows.push({ name, bitsPerWeight, perplexity: await perplexityOf(bench, how) });
    each(rows[rows.length - 1]);
  };
  for (const kind of kinds) await add(kind, BITS[kind], { ffnQuant: kind });
  for (const count of bits) {
    const weights = await roundedWeights(join(folder, "model.safetensors"), count);
    await add(`${count} bits`, count + 16 / GROUP, { ffnQuant: "f16", weights });
  }
  return rows;
}

interface How {
  ffnQuant: Quantization;
  /** The safetensors file to take instead of the folder's. */
  weights?: Uint8Array;
}

async function perplexityOf(
  { folder, text, tokensMax }: LowBitsBench,
  { ffnQuant, weights }: How,
): Promise<number> {
  const scratch = mkdtempSync(join(tmpdir(), "bench-low-bits-")), path = join(scratch, "m.flash");
  try {
    await pack({
      source: folder,
      target: path,
      quant: "f16",
      ffnQuant,
      openSource: (path) =>
        weights && path.endsWith(".safetensors")
          ? new MemorySource(weights, path)
          : new FileSource(path),
    });
    const { perplexity } = await evaluate({
      path,
      text,
      tokensMax,
      ffn: "dense",
      reference: false,
    });
    return perplexity;
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

/** The file with its FFN rounded. */
async function roundedWeights(path: string, bits: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(readFileSync(path));
  for (const tensor of await readSafetensorsHeader(new MemorySource(bytes, path))) {
    const isRows = ROWS.test(tensor.name);
    if (isRows || COLUMNS.test(tensor.name)) roundTensor(bytes, tensor, bits, isRows);
  }
  return bytes;
}

/** Rounds f16[rows][cols] in groups along rows, or along columns. */
function roundTensor(
  bytes: Uint8Array,
  { name, dtype, shape: [rows, cols], byteOffset, byteLength }: SourceTensor,
  bits: number,
  isRows: boolean,
): void {
  if (dtype !== "F16") throw new RangeError(`Cannot round ${name}: it is ${dtype}, not F16`);
  const stored = bytes.slice(byteOffset, byteOffset + byteLength);
  const values = new Float16Array(stored.buffer), group = new Float32Array(GROUP);
  const [vectors, length] = isRows ? [rows, cols] : [cols, rows], step = isRows ? 1 : cols;
  for (let vector = 0; vector < vectors; vector++) {
    const begin = isRows ? vector * cols : vector;
    for (let from = 0; from < length; from += GROUP) {
      for (let i = 0; i < GROUP; i++) group[i] = values[begin + (from + i) * step];
      roundGroup(group, bits);
      for (let i = 0; i < GROUP; i++) values[begin + (from + i) * step] = group[i];
    }
  }
  bytes.set(stored, byteOffset);
}

/** Levels are odd numbers, as bit planes have them: +-1, +-3 .. times a scale. */
function roundGroup(values: Float32Array, bits: number): void {
  const last = 2 ** bits - 1, largest = values.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
  if (largest === 0) return;
  let best = 0, least = Infinity;
  for (const share of SCALES) {
    const scale = share * largest / last;
    const error = values.reduce((sum, v) => sum + (v - nearest(v, scale, last)) ** 2, 0);
    if (error < least) [best, least] = [scale, error];
  }
  values.forEach((value, i) => values[i] = nearest(value, best, last));
}

function nearest(value: number, scale: number, last: number): number {
  const level = 2 * Math.floor(value / scale / 2) + 1;
  return scale * Math.max(-last, Math.min(last, level));
}

const HELP = `What would an FFN of fewer bits cost in perplexity?

  low_bits FOLDER TEXT
  --bits LIST    default 4,3,2
  --tokens N     of the text that are scored (default 8192)`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 2,
    options: {
      bits: { type: "string", default: "4,3,2" },
      tokens: { type: "string", default: "8192" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [folder, textPath] } = parsed;
  if (!folder || !textPath) throw new RangeError("usage: low_bits FOLDER TEXT (--help)");
  const text = readFileSync(textPath, "utf8"), bits = values.bits.split(",").map(Number);
  console.log("FFN        bits a weight   perplexity");
  await benchLowBits(
    { folder, text, bits, tokensMax: wholeNumber("tokens", values.tokens, 2) },
    ({ name, bitsPerWeight, perplexity }) =>
      console.log(
        `${name.padEnd(10)} ${bitsPerWeight.toFixed(1).padStart(13)} ${
          perplexity.toFixed(3).padStart(12)
        }`,
      ),
  );
}

if (import.meta.main) await main(process.argv.slice(2));
