/**
 * What do a predictor's bytes buy? Calibrates copies of a model: low-rank predictors with several shares of bytes, bit planes
 * of several counts of bits. One table: bytes, time of a look, recall, precision, lost mass, perplexity against dense, and
 * what is read; with the exact look, which needs no calibration, as the last row. The held-out text should not be
 * the one that is calibrated with.
 *
 *   deno run -A bench/predictors.ts MODEL.flash CALIBRATION.txt HELD_OUT.txt [--shares 5,7,10,15] [--bits 2,3,4]
 *     [--methods trained,closed-form,sign-sketch,low-bit] [--minutes 2] [--tokens 8192] [--recall 99%] [--ffn-cache 20%]
 *     [--folder DIR] [--json]
 */
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseShare } from "../src/byte_size.ts";
import { calibrate } from "../src/calibrate.ts";
import type { CalibrateOptions } from "../src/calibrate.ts";
import { evaluate } from "../src/eval.ts";
import type { Evaluation } from "../src/evaluation.ts";
import { FIT_METHODS } from "../src/fit/fit_plan.ts";
import type { FitMethod } from "../src/fit/fit_plan.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { predictorTensors } from "../src/format/header.ts";
import type { Predictors } from "../src/format/header.ts";
import { matrixByteLength } from "../src/format/layout.ts";
import { ReplayedLooks } from "../src/predict/replayed_looks.ts";
import { seededRandom } from "../src/random.ts";
import { resourceUse, runtimeName } from "../src/runtime.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { median } from "./median.ts";

export interface PredictorsBench {
  modelPath: string;
  calibrationText: string;
  heldOutText: string;
  /** Of low-rank predictors: shares of the FFN's bytes in f16. */
  byteShares: number[];
  /** Of the low-bit copy. */
  bits: number[];
  methods: FitMethod[];
  minutes: number;
  tokensMax: number;
  recall: number;
  ffnCache: string;
  /** Where copies of the model go. */
  folder: string;
}

/** A row of the table. */
export interface PredictorsResult {
  /** Such as "trained, 10 %". */
  name: string;
  /** Rank or bits of each layer; none of `exact`. */
  sizes: number[];
  /** Bytes in memory: of all predictors, or of all up projections. */
  byteLength: number;
  /** One thread's late look at a layer, in us: a median over layers that take turns. */
  lookMicroseconds: number;
  /** Of calibration. */
  seconds: number;
  evaluation: Evaluation;
}

type Candidate = Pick<CalibrateOptions, "method" | "byteShare" | "bits"> & {
  name: string;
};

/** Calls `each` with the dense model's evaluation, then with each row. */
export async function benchPredictors(
  bench: PredictorsBench,
  each: (result: PredictorsResult | Evaluation) => void = () => {},
): Promise<{ dense: Evaluation; results: PredictorsResult[] }> {
  const { modelPath, heldOutText: text, tokensMax, ffnCache } = bench;
  const scoring = { text, tokensMax, reference: false };
  const dense = await evaluate({ ...scoring, path: modelPath, ffn: "dense" });
  each(dense);
  const results: PredictorsResult[] = [];
  const add = (result: PredictorsResult) => {
    results.push(result);
    each(result);
  };
  for (const candidate of candidatesOf(bench)) {
    const path = join(bench.folder, `${candidate.name.replaceAll(/[^a-z0-9]+/g, "-")}.flash`);
    copyFileSync(modelPath, path);
    try {
      add(await measure(bench, candidate, path));
    } finally {
      rmSync(path);
    }
  }
  add({
    name: "exact",
    sizes: [],
    byteLength: upBytesOf(modelPath),
    lookMicroseconds: timeLooks(modelPath, "exact"),
    seconds: 0,
    evaluation: await evaluate({ ...scoring, path: modelPath, ffn: "exact", ffnCache }),
  });
  return { dense, results };
}

/** Calibrates the copy, and scores the held-out text with it. */
async function measure(
  bench: PredictorsBench,
  { name, ...candidate }: Candidate,
  path: string,
): Promise<PredictorsResult> {
  const { heldOutText: text, tokensMax, ffnCache } = bench;
  const began = performance.now();
  const predictors = await calibrate({
    path,
    text: bench.calibrationText,
    textName: "calibration",
    minutes: bench.minutes,
    recall: bench.recall,
    cacheShares: [parseShare(ffnCache)],
    ...candidate,
  });
  return {
    name,
    seconds: (performance.now() - began) / 1000,
    sizes: predictors.layers.map((layer) => "rank" in layer ? layer.rank : layer.bits),
    byteLength: bytesOf(predictors),
    lookMicroseconds: timeLooks(path, "predicted"),
    evaluation: await evaluate({
      path,
      text,
      tokensMax,
      ffn: "predicted",
      ffnCache,
      reference: false,
    }),
  };
}

function candidatesOf({ byteShares, bits, methods }: PredictorsBench): Candidate[] {
  const lowRank = methods.filter((method) => method === "trained" || method === "closed-form");
  const candidates = byteShares.flatMap((byteShare) =>
    lowRank.map((method): Candidate => ({
      name: `${method}, ${Math.round(1000 * byteShare) / 10} %`,
      method,
      byteShare,
    }))
  );
  if (methods.includes("sign-sketch")) {
    candidates.push({ name: "sign-sketch", method: "sign-sketch" });
  }
  if (methods.includes("low-bit")) {
    for (const count of bits) {
      candidates.push({ name: `low-bit, ${count} bits`, method: "low-bit", bits: count });
    }
  }
  return candidates;
}

function bytesOf({ layers }: Predictors): number {
  return layers.flatMap((layer) => predictorTensors(layer))
    .reduce((sum, [, { byteLength }]) => sum + byteLength, 0);
}

function upBytesOf(path: string): number {
  using file = FlashFile.open(path);
  const { ffnQuantization, config: { numLayers, intermediateSize, hiddenSize } } = file.header;
  return numLayers * matrixByteLength(ffnQuantization, intermediateSize, hiddenSize);
}

const SWEEPS = 64;

/** One thread's look at a layer. How long it takes does not depend on what it sees. */
function timeLooks(path: string, mode: "predicted" | "exact"): number {
  using file = FlashFile.open(path);
  const { numLayers, hiddenSize } = file.header.config, random = seededRandom(1);
  const ffnInput = Float32Array.from({ length: hiddenSize }, () => random() - 0.5);
  const looks = new ReplayedLooks(file);
  const times = Array.from({ length: SWEEPS }, () => {
    const began = performance.now();
    for (let layer = 0; layer < numLayers; layer++) {
      if (mode === "exact") looks.lookExactly(layer, { ffnInput });
      else looks.lookLate(layer, { ffnInput });
    }
    return performance.now() - began;
  });
  return 1000 * median(times) / numLayers;
}

const HELP = `What do a predictor's bytes buy in recall, reads and perplexity?

  predictors MODEL.flash CALIBRATION_TEXT HELD_OUT_TEXT
  --shares LIST      bytes of low-rank predictors, in percent of the FFN's in f16 (default 5,7,10,15)
  --bits LIST        of a weight, for low-bit (default 2,3,4)
  --methods LIST     trained, closed-form, sign-sketch, low-bit (default all)
  --minutes N        of training (default 2)
  --tokens N         of the held-out text (default 8192)
  --recall SHARE     wanted (default 99%)
  --ffn-cache SHARE  default 20%
  --folder FOLDER    where copies of the model are made and removed (default: the system's for temporary files)
  --json             print the results as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 3,
    options: {
      shares: { type: "string", default: "5,7,10,15" },
      bits: { type: "string", default: "2,3,4" },
      methods: { type: "string", default: FIT_METHODS.join(",") },
      minutes: { type: "string", default: "2" },
      tokens: { type: "string", default: "8192" },
      recall: { type: "string", default: "99%" },
      "ffn-cache": { type: "string", default: "20%" },
      folder: { type: "string" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [modelPath, calibrationPath, heldOutPath] } = parsed;
  if (!heldOutPath) throw new RangeError("usage: predictors MODEL.flash CALIBRATION HELD_OUT");
  const folder = mkdtempSync(join(values.folder ?? tmpdir(), "flashpipe-"));
  const bench: PredictorsBench = {
    modelPath,
    calibrationText: readFileSync(calibrationPath, "utf8"),
    heldOutText: readFileSync(heldOutPath, "utf8"),
    byteShares: numbersOf("--shares", values.shares).map((percent) => percent / 100),
    bits: numbersOf("--bits", values.bits),
    methods: methodsOf(values.methods),
    minutes: Number(values.minutes),
    tokensMax: Number(values.tokens),
    recall: parseShare(values.recall),
    ffnCache: values["ffn-cache"],
    folder,
  };
  try {
    await printTable(bench, values.json ?? false);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function numbersOf(option: string, list: string): number[] {
  const numbers = list.split(",").map(Number);
  if (numbers.every((number) => number > 0)) return numbers;
  throw new RangeError(`Cannot read ${option} ${list}: numbers with commas between them`);
}

function methodsOf(list: string): FitMethod[] {
  const methods = list.split(",") as FitMethod[];
  if (methods.every((method) => FIT_METHODS.includes(method))) return methods;
  throw new RangeError(`Cannot compare ${list}: methods are ${FIT_METHODS.join(", ")}`);
}

async function printTable(bench: PredictorsBench, isJson: boolean): Promise<void> {
  let dense: Evaluation | undefined;
  const { results } = await benchPredictors(bench, (result) => {
    if (isJson) return;
    if ("perplexity" in result) {
      dense = result;
      console.log(
        `${runtimeName()}; dense: perplexity ${
          result.perplexity.toFixed(3)
        } over ${result.tokensScored} tokens\n${HEAD}`,
      );
    } else print(result, dense!);
  });
  if (isJson) console.log(JSON.stringify(results));
  else console.log(`peak memory ${(resourceUse().peakBytes / (1 << 20)).toFixed(0)} MiB`);
}

const COLUMNS: [string, number][] = [
  ["predictors", -18],
  ["KiB", 7],
  ["us a look", 10],
  ["recall", 9],
  ["precision", 10],
  ["lost mass", 10],
  ["perplexity", 11],
  ["over dense", 11],
  ["computed", 9],
  ["reads", 7],
  ["KiB a token", 12],
  ["fitted in", 10],
];
const HEAD = rowOf(COLUMNS.map(([name]) => name));

function rowOf(cells: string[]): string {
  return cells.map((cell, index) => {
    const width = COLUMNS[index][1];
    return width < 0 ? cell.padEnd(-width) : cell.padStart(width);
  }).join("");
}

function print(
  { name, sizes, byteLength, lookMicroseconds, seconds, evaluation }: PredictorsResult,
  dense: Evaluation,
) {
  const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
  const { all, perplexity, readsPerToken, bytesPerToken } = evaluation;
  // The exact look finds what there is.
  const { recall = 1, precision = 1, lostMass = 0, listedShare } = all!;
  const isVaried = new Set(sizes).size > 1;
  console.log(
    rowOf([
      name,
      (byteLength / 1024).toFixed(0),
      lookMicroseconds.toFixed(1),
      percent(recall),
      percent(precision),
      percent(lostMass),
      perplexity.toFixed(3),
      percent(perplexity / dense.perplexity - 1),
      percent(listedShare),
      readsPerToken.toFixed(0),
      (bytesPerToken / 1024).toFixed(0),
      `${seconds.toFixed(0)} s`,
    ]) + (isVaried ? `  ranks ${sizes}` : ""),
  );
}

if (import.meta.main) await main(process.argv.slice(2));
