/**
 * What does another position cost?
 *
 * Three parts, on one core, each in turns with what it is compared with. Times are the shortest of all rounds: what else
 * the machine does only adds to them.
 *
 *   matmat     many positions against a matrix, beside one position (matvec)
 *   attention  one position against a long KV cache in shuffled pages, beside a plain read of as many bytes
 *   bundles    a q8 bundle's up and down that another position has just used (L2), beside one from DRAM
 *
 *   deno run --allow-read bench/positions.ts [--json] [--only TEXT] [--rounds N] ...
 *   bun bench/positions.ts ...
 */
import process from "node:process";
import {
  bundleByteLength,
  matrixByteLength,
  type Quantization,
  QUANTIZATIONS,
  vectorByteLength,
} from "../src/format/layout.ts";
import {
  keysOffset,
  KV_QUANTIZATIONS,
  type KvQuantization,
  PAGE_POSITIONS,
  pageByteLength,
  pageCount,
  pagedScratchByteLength,
  valuesOffset,
} from "../src/kv_page.ts";
import {
  accumulatorByteLength,
  ACTIVATION,
  downScratchByteLength,
  instantiateKernels,
  type Kernels,
  loadKernelModule,
  matmatScratchByteLength,
  MEMORY_PAGES_MAX,
  preparedByteLength,
  STATICS_BYTE_LENGTH,
} from "../src/kernels.ts";
import { runtimeName } from "../src/runtime.ts";
import { parseBenchArgs } from "./bench_args.ts";

export interface PositionsOptions {
  /** Bytes of weights, or of a KV cache, that a part cycles through; small, so that tests can run the bench. */
  byteLength?: number;
  rounds?: number;
  hiddenSize?: number;
  headDim?: number;
  /** Positions of the KV cache. */
  context?: number;
  counts?: readonly number[];
  /** Only parts and dtypes whose names contain this. */
  only?: string;
}

export interface PositionsResult {
  name: string;
  /** The shortest. */
  milliseconds: number;
  /** Of the time of what it is compared with. */
  ratio: number;
  /** matmat: GFLOP/s; the others: GB/s. */
  speed: number;
  /** Of the outputs, so that nobody makes it faster by computing something else. */
  checksum: number;
}

/** A thing to measure, and its fellow. Both do one step, the `step`-th, and say nothing. */
interface Entry {
  name: string;
  /** How many steps go through all data once. */
  steps: number;
  run(step: number): void;
  fellow(step: number): void;
  /** Operations or bytes of a step of `run`. */
  work: number;
  output: { address: number; length: number };
}

/** The memory; each part begins anew behind the statics. */
class Bench {
  readonly #memory: WebAssembly.Memory;
  readonly kernels: Kernels;
  #next = STATICS_BYTE_LENGTH;

  constructor(byteLength: number) {
    const pages = Math.ceil((byteLength + STATICS_BYTE_LENGTH) / 65536);
    this.#memory = new WebAssembly.Memory({
      initial: pages,
      maximum: MEMORY_PAGES_MAX,
      shared: true,
    });
    this.kernels = instantiateKernels(loadKernelModule(), this.#memory);
  }

  reset(): void {
    this.#next = STATICS_BYTE_LENGTH;
  }

  reserve(byteLength: number): number {
    const address = this.#next;
    this.#next += Math.ceil(byteLength / 64) * 64;
    return address;
  }

  floats(length: number, address = this.reserve(4 * length)): number {
    new Float32Array(this.#memory.buffer, address, length)
      .forEach((_, i, all) => all[i] = Math.sin(i * 0.7 + address));
    return address;
  }

  words(values: readonly number[]): number {
    const address = this.reserve(4 * values.length);
    new Uint32Array(this.#memory.buffer, address, values.length).set(values);
    return address;
  }

  /** Bytes of a few patterns whose pairs are f16 of a usual size, whatever they are used as. */
  weights(byteLength: number): number {
    const address = this.reserve(byteLength);
    const bytes = new Uint8Array(this.#memory.buffer, address, byteLength);
    bytes.forEach((_, i) => bytes[i] = i % 4 === 3 ? 0x3c : i % 2 === 1 ? 0x2c : (i * 37) & 0x7f);
    return address;
  }

  checksum({ address, length }: Entry["output"]): number {
    return new Uint32Array(this.#memory.buffer, address, length)
      .reduce((sum, word) => Math.imul(sum ^ word, 0x01000193) >>> 0, 0x811c9dc5);
  }
}

/** Measures each part. */
export function benchPositions({
  byteLength = 2 ** 19,
  rounds = 2,
  hiddenSize = 128,
  headDim = 32,
  context = 40,
  counts = [2, 5],
  only = "",
}: PositionsOptions = {}): PositionsResult[] {
  const most = Math.max(...counts);
  const vectors = most * (preparedByteLength(hiddenSize) + 4 * hiddenSize + 128);
  const bench = new Bench(2 * byteLength + vectors + 200 * hiddenSize + 8 * context * 64 + 2 ** 22);
  const parts: (() => Entry[])[] = [
    ...QUANTIZATIONS.map((q) => () => matmatEntries(bench, q, { byteLength, hiddenSize, counts })),
    ...KV_QUANTIZATIONS.map((kv) => () => [
      attentionEntry(bench, kv, { byteLength, hiddenSize, headDim, context }),
    ]),
    () => bundleEntries(bench, { byteLength, hiddenSize }),
  ];
  return parts.flatMap((part) => {
    bench.reset();
    return part().filter(({ name }) => name.includes(only))
      .map((entry) => measure(bench, entry, rounds));
  });
}

function measure(bench: Bench, entry: Entry, rounds: number): PositionsResult {
  const times: number[] = [], fellows: number[] = [];
  const time = (run: (step: number) => void, step: number) => {
    const start = performance.now();
    run(step);
    return performance.now() - start;
  };
  for (let step = 0; step < Math.min(entry.steps, 8); step++) entry.run(step);
  for (let round = 0; round < rounds; round++) {
    for (let step = 0; step < entry.steps; step++) {
      times.push(time(entry.run, step));
      fellows.push(time(entry.fellow, (step + (entry.steps >> 1)) % entry.steps));
    }
  }
  const milliseconds = Math.min(...times);
  return {
    name: entry.name,
    milliseconds,
    ratio: milliseconds / Math.min(...fellows),
    speed: entry.work / milliseconds / 1e6,
    checksum: bench.checksum(entry.output) >>> 0,
  };
}

/** Square matrices that fill the memory, one a step. */
function matmatEntries(
  bench: Bench,
  quantization: Quantization,
  { byteLength, hiddenSize: d, counts }: {
    byteLength: number;
    hiddenSize: number;
    counts: readonly number[];
  },
): Entry[] {
  const { kernels } = bench, bytes = matrixByteLength(quantization, d, d);
  const steps = Math.max(1, Math.floor(byteLength / bytes)), most = Math.max(...counts);
  const w = bench.weights(bytes * steps), stride = Math.ceil(preparedByteLength(d) / 64) * 64;
  const xs = bench.reserve(stride * most), y = bench.reserve(4 * d * most);
  const scratch = bench.reserve(matmatScratchByteLength(d)), x = bench.reserve(4 * d);
  for (let t = 0; t < most; t++) {
    bench.floats(d, x);
    kernels.prepare[quantization](x, xs + t * stride, d);
  }
  const matmat = kernels.matmat[quantization], matvec = kernels.matvec[quantization];
  return counts.map((count) => ({
    name: `matmat ${quantization} ${d} x ${count}`,
    steps,
    run: (step) => matmat(w + step * bytes, xs, stride, count, 0, y, 4 * d, 0, d, d, scratch),
    fellow: (step) => matvec(w + step * bytes, xs, 0, y, 0, d, d),
    work: 2 * d * d * count,
    output: { address: y, length: d * count },
  }));
}

/** Layers of a KV cache that fill the memory, one a step; their pages are shuffled. */
function attentionEntry(
  bench: Bench,
  kv: KvQuantization,
  { byteLength, hiddenSize, headDim, context }: Required<
    Pick<PositionsOptions, "byteLength" | "hiddenSize" | "headDim" | "context">
  >,
): Entry {
  const { kernels } = bench, numKeyValueHeads = hiddenSize / headDim;
  const heads = { numKeyValueHeads, headDim }, length = pageByteLength(kv, heads);
  const pages = pageCount(context), layer = pages * length;
  const steps = Math.max(1, Math.floor(byteLength / layer));
  const cache = bench.reserve(layer * steps), row = bench.floats(headDim);
  // Neighbours in a layer lie a prime number of pages apart.
  const addresses = Array.from({ length: pages * steps }, (_, i) => {
    return cache + ((i * 10_007) % (pages * steps)) * length;
  });
  for (const page of addresses) {
    for (let head = 0; head < numKeyValueHeads; head++) {
      for (let place = 0; place < PAGE_POSITIONS; place++) {
        kernels.storeKey[kv](row, page + keysOffset(kv, heads, head), place, headDim);
        kernels.storeValue[kv](row, page + valuesOffset(kv, heads, head), place, headDim);
      }
    }
  }
  const table = bench.words(addresses), q = bench.floats(hiddenSize);
  const out = bench.reserve(4 * hiddenSize);
  const scratch = bench.reserve(pagedScratchByteLength(numKeyValueHeads, headDim, context));
  const attention = kernels.attentionPages[kv], n = numKeyValueHeads;
  return {
    name: `attention ${kv} ${context}`,
    steps,
    run: (step) =>
      attention(q, table + 4 * pages * step, n, 0, n, 1, out, scratch, headDim, context, 0, 0.1, 0),
    fellow: (step) => kernels.fold(cache + step * layer, layer - layer % 128),
    work: layer,
    output: { address: out, length: hiddenSize },
  };
}

/** 64 bundles a step, which all use twice: the first time from DRAM, the second from L2. */
function bundleEntries(
  bench: Bench,
  { byteLength, hiddenSize: d }: { byteLength: number; hiddenSize: number },
): Entry[] {
  const { kernels } = bench, stride = bundleByteLength("q8", d), count = 64;
  const total = Math.max(count, Math.floor(byteLength / stride / count) * count);
  const bundles = bench.weights(total * stride), steps = total / count;
  const listed = Array.from({ length: total }, (_, i) => bundles + ((i * 10_007) % total) * stride);
  const addresses = bench.words(listed), neurons = bench.words(listed.map((_, i) => i % count));
  const xp = bench.reserve(preparedByteLength(d)), dots = bench.reserve(4 * count);
  kernels.prepare.q8(bench.floats(d), xp, d);
  const activations = bench.floats(count), offset = vectorByteLength("q8", d);
  const sums = bench.reserve(accumulatorByteLength("q8", d)), residual = bench.floats(d);
  const scratch = bench.reserve(downScratchByteLength(d));
  kernels.zero(sums, accumulatorByteLength("q8", d));
  const up = (step: number) => {
    const list = addresses + 4 * count * step;
    kernels.up.q8(list, neurons, 0, 0, count, 0, xp, 0, dots, d, ACTIVATION.relu, 0);
  };
  const down = (step: number) => {
    const list = addresses + 4 * count * step;
    kernels.down.q8(list, offset, activations, count, sums, 0, d, d, scratch);
    kernels.finishDown.q8(sums, 0, residual, 0, d, d);
  };
  // Steps of run follow those of fellow on the same bundles: see `measure`.
  return ([["up", up, dots, count], ["down", down, residual, d]] as const).map(
    ([name, run, address, length]) => {
      let last = 0;
      return {
        name: `bundles ${name} q8 ${d}, again`,
        steps,
        run: () => run(last),
        fellow: (step: number) => run(last = step),
        work: count * offset,
        output: { address, length },
      };
    },
  );
}

function report({ name, milliseconds, ratio, speed, checksum }: PositionsResult): string {
  return [
    name.padEnd(28),
    milliseconds.toFixed(3).padStart(9),
    ratio.toFixed(2).padStart(8),
    speed.toFixed(1).padStart(8),
    checksum.toString(16).padStart(10),
  ].join(" ");
}

const HELP =
  `What does another position cost? Many positions against a matrix, attention over pages, bundles used again.

  --only TEXT        parts and dtypes whose name has TEXT in it
  --hidden N         hidden size (default 4096)
  --head N           length of a head (default 128)
  --context N        positions of the KV cache (default 2048)
  --counts LIST      positions at once (default 2,3,4,5,6,8,16,64,256)
  --megabytes N      of weights or of a KV cache, more than the caches hold (default 128)
  --rounds N         default 5
  --json             print the results as JSON`;

export function main(args: string[]): void {
  const values = parseBenchArgs(args, HELP, {
    options: {
      only: { type: "string" },
      hidden: { type: "string", default: "4096" },
      head: { type: "string", default: "128" },
      context: { type: "string", default: "2048" },
      counts: { type: "string", default: "2,3,4,5,6,8,16,64,256" },
      megabytes: { type: "string", default: "128" },
      rounds: { type: "string", default: "5" },
      json: { type: "boolean" },
    },
  })?.values;
  if (!values) return;
  const results = benchPositions({
    byteLength: Number(values.megabytes) * 2 ** 20,
    rounds: Number(values.rounds),
    hiddenSize: Number(values.hidden),
    headDim: Number(values.head),
    context: Number(values.context),
    counts: values.counts.split(",").map(Number),
    only: values.only,
  });
  if (values.json) console.log(JSON.stringify(results, null, 2));
  else {
    console.log(
      `${runtimeName()}, one core, the fastest of all rounds; ratio: to matvec, a plain read, DRAM`,
    );
    console.log("                                    ms    ratio   G.../s   checksum");
    for (const result of results) console.log(report(result));
  }
}

if (import.meta.main) main(process.argv.slice(2));
