/**
 * How near does each part come to what bounds it? One run measures a token's time against what its processor work and its reads
 * must take at least, the readers against fio, kernels against memory, and a prompt; each line a figure and its bound.
 *
 *   deno run -A bench/bounds.ts MODEL.flash --memory 3.5GiB [--llama-gbs 21.8] [--llama-gflops 60] [--llama-first 12]
 */
import process from "node:process";
import { formatBytes } from "../src/byte_size.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { canUseUring } from "../src/flash/uring_reader.ts";
import { open } from "../src/mod.ts";
import type { OpenOptions } from "../src/mod.ts";
import { coreCount, runtimeName } from "../src/runtime.ts";
import type { Cost } from "../src/statistics.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { promptOf } from "./generate.ts";
import { benchKernels } from "./kernels.ts";
import { median } from "./median.ts";
import { benchPositions } from "./positions.ts";
import { benchReaders } from "./readers.ts";
import type { ReadersRate } from "./readers.ts";

export interface BoundsBench {
  modelPath: string;
  options: OpenOptions;
  /** Tokens of the prompt before those whose time is taken, and of the prompt whose own time is. */
  prompt: number;
  tokens: number;
  longPrompt: number;
  rounds: number;
  /** Seconds of each run of readers or fio. */
  seconds: number;
  /** Bytes of weights that a kernel goes through. */
  kernelBytes: number;
  /** What llama.cpp takes; lines that need it have no verdict without. */
  llama: { gigabytesPerSecond?: number; gigaflops?: number; firstTokenSeconds?: number };
}

export interface Bound {
  name: string;
  /** null: it cannot be told here; `how` says why. */
  figure: number | null;
  /** What it must keep to; null where what it is compared with was not told. */
  atMost?: number | null;
  atLeast?: number | null;
  how: string;
}

/** Reads in flight of a pool of `pread` workers, for what a read costs. */
const POOL_DEPTH = 8;
const URING_DEPTH = 64;

/** Medians of what the tokens took, and of what the disk gave in the same minutes. */
interface Measured {
  costs: Cost[];
  firstTokenSeconds: number[];
  /** Bytes of a read, in whole blocks. */
  readBytes: number;
  /** By fio, bytes a second; null where it is not installed. */
  fio: number | null;
  uring: ReadersRate | null;
  pool: ReadersRate;
}

/** Measures and judges; the lines in the order of the table. */
export async function benchBounds(bench: BoundsBench): Promise<Bound[]> {
  const measured = await measureTokens(bench);
  return [
    ...tokenBounds(measured),
    ...readerBounds(measured),
    ...kernelBounds(bench),
    firstToken(measured, bench),
  ];
}

/** Tokens and reads in turn, as a disk that is shared gives now more, now less. */
async function measureTokens(bench: BoundsBench): Promise<Measured> {
  const { modelPath, options, prompt, tokens, longPrompt, rounds } = bench;
  await using model = await open(modelPath, options);
  const { blockByteLength } = model.disk;
  const costs: Cost[] = [], firstTokenSeconds: number[] = [];
  const fios: number[] = [], urings: ReadersRate[] = [], pools: ReadersRate[] = [];
  let readBytes = blockByteLength;
  for (let round = 0; round < rounds; round++) {
    const start = 5000 * round, ids = promptOf(modelPath, { prompt, text: "chain", start });
    for await (const _ of model.generate(ids, { maxTokens: tokens, ignoreEos: true }));
    costs.push(model.stats().decode);
    const long = promptOf(modelPath, { prompt: longPrompt, text: "chain", start: start + 1000 });
    const began = performance.now();
    for await (const _ of model.generate(long, { maxTokens: 1, ignoreEos: true }));
    firstTokenSeconds.push((performance.now() - began) / 1000);
    const { bytesPerToken, readsPerToken } = costs[round];
    const mean = readsPerToken > 0 ? bytesPerToken / readsPerToken : 16 * blockByteLength;
    readBytes = Math.max(1, Math.round(mean / blockByteLength)) * blockByteLength;
    if (canUseUring()) {
      const { fio, readers: [uring] } = await readRow(bench, readBytes, URING_DEPTH, "io_uring");
      if (fio !== null) fios.push(fio);
      urings.push(uring);
    }
    const pool = await readRow(bench, readBytes, POOL_DEPTH, "pread");
    if (!canUseUring() && pool.fio !== null) fios.push(pool.fio);
    pools.push(pool.readers[0]);
  }
  const middle = (rates: ReadersRate[]): ReadersRate => ({
    backend: rates[0].backend,
    bytesPerSecond: median(rates.map((rate) => rate.bytesPerSecond)),
    cpuUsPerRead: median(rates.map((rate) => rate.cpuUsPerRead)),
  });
  return {
    costs,
    firstTokenSeconds,
    readBytes,
    fio: fios.length > 0 ? median(fios) : null,
    uring: urings.length > 0 ? middle(urings) : null,
    pool: middle(pools),
  };
}

async function readRow(
  { modelPath, seconds }: BoundsBench,
  readBytes: number,
  depth: number,
  backend: "io_uring" | "pread",
) {
  const { rows: [row] } = await benchReaders({
    file: modelPath,
    fileBytes: byteLengthOf(modelPath),
    seconds,
    repeat: 1,
    depth,
    backends: [backend],
    sizes: [readBytes],
    folder: "",
  });
  return row;
}

function byteLengthOf(modelPath: string): number {
  using file = FlashFile.open(modelPath);
  return file.byteLength;
}

function tokenBounds({ costs, fio, uring, pool, readBytes }: Measured): Bound[] {
  const middle = (pick: (cost: Cost) => number) => median(costs.map(pick));
  const cores = coreCount(), ms = middle((cost) => cost.msPerToken.total);
  const reads = middle((cost) => cost.readsPerToken), bytes = middle((cost) => cost.bytesPerToken);
  const lanes = middle((cost) => cost.workMsPerToken.lanes);
  const look = middle((cost) => cost.workMsPerToken.look);
  const management = middle((cost) => cost.workMsPerToken.management + cost.copyMsPerToken);
  const reading = reads * (uring ?? pool).cpuUsPerRead / 1000;
  const coreMs = (lanes + look + management + reading) / cores;
  const flashMs = fio === null ? null : 1000 * bytes / fio;
  const hidden = middle((cost) => cost.hidden);
  const cpu = middle((cost) => cost.cpuMsPerToken.lanes + cost.cpuMsPerToken.predictor);
  const rate = fio === null ? "no fio here" : `${(fio / 1e6).toFixed(0)} MB/s by fio`;
  const isComputeLonger = flashMs !== null && coreMs >= flashMs;
  return [
    {
      name: "a token over the larger of work and flash",
      figure: flashMs === null ? null : ms / Math.max(coreMs, flashMs),
      atMost: 1.15,
      how: `${ms.toFixed(1)} ms; work (${lanes.toFixed(1)} lanes + ${
        look.toFixed(1)
      } early look + ${management.toFixed(1)} management + ${
        reading.toFixed(1)
      } reading) / ${cores} = ${coreMs.toFixed(1)}; flash ${
        flashMs === null ? "?" : flashMs.toFixed(1)
      }: ${reads.toFixed(0)} reads of ${
        formatBytes(readBytes)
      }, ${rate}; CPU of lanes and predictor ${cpu.toFixed(1)}`,
    },
    {
      name: "flash time hidden behind compute",
      figure: hidden,
      atLeast: isComputeLonger ? 0.9 : null,
      how: isComputeLonger ? "compute is the longer" : "flash is the longer, or not known",
    },
    {
      name: "memory management, share of a token",
      figure: management / ms,
      atMost: 0.03,
      how: `${management.toFixed(2)} ms: cache, slots, read plan, copies to slots`,
    },
  ];
}

function readerBounds({ fio, uring, pool, readBytes }: Measured): Bound[] {
  const best = uring ?? pool, depth = uring ? URING_DEPTH : POOL_DEPTH;
  const rate = ({ bytesPerSecond }: ReadersRate) => `${(bytesPerSecond / 1e6).toFixed(0)} MB/s`;
  return [
    {
      name: "readers over fio",
      figure: fio === null ? null : best.bytesPerSecond / fio,
      atLeast: 0.95,
      how: fio === null
        ? `no fio here; ${best.backend} ${rate(best)}`
        : `${best.backend} ${rate(best)}, fio ${(fio / 1e6).toFixed(0)} MB/s, ${
          formatBytes(readBytes)
        } x ${depth}`,
    },
    {
      name: "CPU a read, io_uring over pread",
      figure: uring && uring.cpuUsPerRead / pool.cpuUsPerRead,
      atMost: 0.6,
      how: uring
        ? `${uring.cpuUsPerRead.toFixed(1)} us, depth ${URING_DEPTH}; ${
          pool.cpuUsPerRead.toFixed(1)
        } us, ${POOL_DEPTH} workers`
        : "no io_uring here",
    },
  ];
}

function kernelBounds({ modelPath, kernelBytes, rounds, llama }: BoundsBench): Bound[] {
  using file = FlashFile.open(modelPath);
  const { hiddenSize: d } = file.header.config, { gigabytesPerSecond, gigaflops } = llama;
  const kernels = benchKernels({
    byteLength: kernelBytes,
    rounds: 4 * rounds + 1,
    cols: [d],
    hiddenSizes: [d],
    only: `q8 ${d}`,
  });
  const [read, matvec, sparse] = kernels;
  const [matmat] = benchPositions({
    byteLength: kernelBytes,
    rounds,
    hiddenSize: d,
    headDim: file.header.config.headDim,
    counts: [64],
    only: `matmat q8 ${d}`,
  });
  return [
    {
      name: "dense q8 matvec over llama.cpp, per core",
      figure: gigabytesPerSecond === undefined
        ? null
        : matvec.gigabytesPerSecond / gigabytesPerSecond,
      atLeast: gigabytesPerSecond === undefined ? null : 0.9,
      how: `${matvec.gigabytesPerSecond.toFixed(1)} GB/s, llama.cpp ${
        gigabytesPerSecond ?? "? (--llama-gbs)"
      }, plain read ${read.gigabytesPerSecond.toFixed(1)}`,
    },
    {
      name: "sparse q8 FFN over a core's read bandwidth",
      figure: sparse.shareOfRead,
      atLeast: 0.5,
      how: `${sparse.gigabytesPerSecond.toFixed(1)} GB/s of bundles, up and down`,
    },
    {
      name: "batched q8 over llama.cpp's prompt, per core",
      figure: gigaflops === undefined ? null : matmat.speed / gigaflops,
      atLeast: gigaflops === undefined ? null : 0.4,
      how: `${matmat.speed.toFixed(1)} GFLOP/s of 64 positions, llama.cpp ${
        gigaflops ?? "? (--llama-gflops)"
      }`,
    },
  ];
}

function firstToken({ firstTokenSeconds }: Measured, { longPrompt, llama }: BoundsBench): Bound {
  const seconds = median(firstTokenSeconds), theirs = llama.firstTokenSeconds;
  return {
    name: `first token of a prompt of ${longPrompt} over llama.cpp`,
    figure: theirs === undefined ? null : seconds / theirs,
    atMost: theirs === undefined ? null : 2.5,
    how: `${seconds.toFixed(2)} s, llama.cpp ${theirs ?? "? (--llama-first)"}`,
  };
}

const HELP = `How near does each part come to what bounds it? A figure and its bound a line.

  bounds MODEL.flash
  --memory SIZE       ceiling of the process
  --options JSON      more options of \`open\`, such as '{"lanes":2}'
  --prompt N          tokens of the prompt (default 64)
  --tokens N          new tokens whose time is taken (default 64)
  --long-prompt N     prompt whose own time is taken (default 256)
  --rounds N          default 3
  --seconds N         of each run of readers and fio (default 3)
  --megabytes N       of weights that a kernel goes through (default 128)
  --llama-gbs N       GB/s of llama.cpp's q8 with one thread, for the lines that compare with it
  --llama-gflops N    its prompt's GFLOP/s per core
  --llama-first N     its first token of the long prompt, in seconds
  --json              print the lines as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 1,
    options: {
      memory: { type: "string" },
      options: { type: "string", default: "{}" },
      prompt: { type: "string", default: "64" },
      tokens: { type: "string", default: "64" },
      "long-prompt": { type: "string", default: "256" },
      rounds: { type: "string", default: "3" },
      seconds: { type: "string", default: "3" },
      megabytes: { type: "string", default: "128" },
      "llama-gbs": { type: "string" },
      "llama-gflops": { type: "string" },
      "llama-first": { type: "string" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [modelPath] } = parsed;
  if (!modelPath) throw new RangeError("usage: bounds MODEL.flash [--memory SIZE]");
  const told = (text: string | undefined) => text === undefined ? undefined : Number(text);
  const bounds = await benchBounds({
    modelPath,
    options: { ...JSON.parse(values.options), memory: values.memory },
    prompt: Number(values.prompt),
    tokens: Number(values.tokens),
    longPrompt: Number(values["long-prompt"]),
    rounds: Number(values.rounds),
    seconds: Number(values.seconds),
    kernelBytes: Number(values.megabytes) * 2 ** 20,
    llama: {
      gigabytesPerSecond: told(values["llama-gbs"]),
      gigaflops: told(values["llama-gflops"]),
      firstTokenSeconds: told(values["llama-first"]),
    },
  });
  if (values.json) return console.log(JSON.stringify(bounds));
  console.log(`${runtimeName()}, medians of ${values.rounds}\n`);
  for (const bound of bounds) console.log(render(bound));
}

function render({ name, figure, atMost, atLeast, how }: Bound): string {
  const bound = atMost ? `at most ${atMost}` : atLeast ? `at least ${atLeast}` : "";
  const isKept = figure !== null &&
    (atMost ? figure <= atMost : atLeast ? figure >= atLeast : undefined);
  const verdict = figure === null || isKept === undefined ? "" : isKept ? "kept" : "SHORT";
  return [
    name.padEnd(48),
    (figure === null ? "?" : figure.toFixed(3)).padStart(7),
    bound.padStart(13),
    verdict.padEnd(5),
    how,
  ].join("  ");
}

if (import.meta.main) await main(process.argv.slice(2));
