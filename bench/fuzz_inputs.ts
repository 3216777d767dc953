/**
 * Question: does any damage to a checkpoint do worse than a clear refusal?
 *
 * Headers of GGUF files and of PyTorch's archives are mutated at random, in places that are not numbers of weights. Each mutant must
 * be read, or refused with a `ModelFileError`.
 *
 *   deno run --allow-read --allow-env bench/fuzz_inputs.ts [--count 10000] [--seed 1]
 */
import { readFileSync } from "node:fs";
import process from "node:process";
import { readGgufHeader } from "../src/checkpoint/gguf.ts";
import { readTorchHeader } from "../src/checkpoint/torch_zip.ts";
import { ModelFileError } from "../src/errors.ts";
import type { ByteSource } from "../src/format/byte_source.ts";
import { MemorySource } from "../src/format/byte_source.ts";
import { seededRandom } from "../src/random.ts";
import { parseBenchArgs } from "./bench_args.ts";

interface Kind {
  name: string;
  bytes: Uint8Array;
  /** Bytes that may be changed: [from, to); the first one is chosen as often as all others. */
  places: [number, number][];
  read(source: ByteSource): Promise<unknown>;
}

export interface FuzzInputsCounts {
  kind: string;
  read: number;
  refused: number;
  slowestMs: number;
}

const SLOWEST_MS_MAX = 5000;

/** Reads `count` mutants of each kind; throws at the first that is neither read nor refused, naming its seed. */
export async function fuzzInputs(
  { count, seed }: { count: number; seed: number },
): Promise<FuzzInputsCounts[]> {
  const all: FuzzInputsCounts[] = [];
  for (const kind of await kinds()) {
    const counts = { kind: kind.name, read: 0, refused: 0, slowestMs: 0 };
    for (let index = 0; index < count; index++) {
      const began = performance.now();
      if (await isRead(kind, seed + index)) counts.read++;
      else counts.refused++;
      const ms = performance.now() - began;
      counts.slowestMs = Math.max(counts.slowestMs, ms);
      if (ms > SLOWEST_MS_MAX) throw new Error(`${kind.name} of seed ${seed + index}: ${ms} ms`);
    }
    all.push(counts);
  }
  return all;
}

async function isRead({ name, bytes, places, read }: Kind, seed: number): Promise<boolean> {
  const random = seededRandom(Math.imul(seed, 0x9e3779b1));
  const below = (bound: number) => Math.floor(random() * bound);
  const mutant = bytes.slice(0, random() < 0.1 ? below(bytes.length) : bytes.length);
  for (let left = 1 + below(4); left > 0 && mutant.length > 0; left--) {
    const [from, to] = places[random() < 0.5 ? 0 : below(places.length)];
    mutant[Math.min(mutant.length - 1, from + below(to - from))] = below(256);
  }
  try {
    await read(new MemorySource(mutant));
    return true;
  } catch (error) {
    if (error instanceof ModelFileError) return false;
    throw new Error(`${name} of seed ${seed} was not refused cleanly`, { cause: error });
  }
}

async function kinds(): Promise<Kind[]> {
  const [gguf, torch] = ["llama_q4_0.gguf", "pytorch_model-00002-of-00002.bin"].map((name) =>
    new Uint8Array(readFileSync(new URL(`../tests/fixtures/inputs/${name}`, import.meta.url)))
  );
  const { tensors } = await readGgufHeader(new MemorySource(gguf));
  const end = Math.min(...tensors.map(({ byteOffset }) => byteOffset));
  return [
    // Counts stand at the beginning, names and types of tensors at the end; between them is a vocabulary.
    {
      name: "GGUF",
      bytes: gguf,
      places: [[0, 400], [end - 2000, end], [0, end]],
      read: readGgufHeader,
    },
    {
      name: "PyTorch",
      bytes: torch,
      // The pickle comes first in an archive, and its list of entries last.
      places: [[0, 2000], [torch.length - 2500, torch.length]],
      read: readTorchHeader,
    },
  ];
}

const HELP = `Does any damage to a checkpoint do worse than a clear refusal?

  --count N   mutants of each kind (default 10000)
  --seed N    default 1
  --json      print the counts as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    options: {
      count: { type: "string", default: "10000" },
      seed: { type: "string", default: "1" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values } = parsed;
  const all = await fuzzInputs({ count: Number(values.count), seed: Number(values.seed) });
  if (values.json) return console.log(JSON.stringify(all));
  for (const { kind, read, refused, slowestMs } of all) {
    console.log(`${kind}: ${read} read, ${refused} refused, slowest ${slowestMs.toFixed(0)} ms`);
  }
}

if (import.meta.main) await main(process.argv.slice(2));
