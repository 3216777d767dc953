/**
 * What do a predictor's bytes buy? Calibrates copies of a model with several shares of bytes, by each method, and scores a
 * text with each: perplexity against dense, recall, precision and what is read. The held-out text should not be the one
 * that is calibrated with.
 *
 *   deno run -A bench/predictors.ts MODEL.flash CALIBRATION.txt HELD_OUT.txt [--shares 5,7,10,15] [--methods trained,closed-form]
 *     [--minutes 2] [--tokens 8192] [--recall 99%] [--ffn-cache 20%] [--folder DIR] [--json]
 */
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseShare } from "../src/byte_size.ts";
import { calibrate } from "../src/calibrate.ts";
import { evaluate } from "../src/eval.ts";
import type { Evaluation } from "../src/evaluation.ts";
import type { FitMethod } from "../src/fit/fit_plan.ts";
import type { Predictors } from "../src/format/header.ts";
import { resourceUse, runtimeName } from "../src/runtime.ts";
import { parseBenchArgs } from "./bench_args.ts";

export interface PredictorsBench {
  modelPath: string;
  calibrationText: string;
  heldOutText: string;
  /** Shares of the FFN's bytes in f16. */
  byteShares: number[];
  methods: FitMethod[];
  minutes: number;
  tokensMax: number;
  recall: number;
  ffnCache: string;
  /** Where copies of the model go. */
  folder: string;
}

export interface PredictorsResult {
  method: FitMethod;
  byteShare: number;
  ranks: number[];
  /** Bytes of all predictors. */
  byteLength: number;
  seconds: number;
  evaluation: Evaluation;
}

/** In closed form more positions teach nothing, and all are held in memory. */
const CLOSED_FORM_TOKENS = 12_000;

/** Calls `each` with the dense model's evaluation, then with each predictor's. */
export async function benchPredictors(
  bench: PredictorsBench,
  each: (result: PredictorsResult | Evaluation) => void = () => {},
): Promise<{ dense: Evaluation; results: PredictorsResult[] }> {
  const { modelPath, heldOutText: text, tokensMax, ffnCache } = bench;
  const scoring = { text, tokensMax, reference: false };
  const dense = await evaluate({ ...scoring, path: modelPath, ffn: "dense" });
  each(dense);
  const results: PredictorsResult[] = [];
  for (const byteShare of bench.byteShares) {
    for (const method of bench.methods) {
      const path = join(bench.folder, `${method}-${byteShare}.flash`);
      copyFileSync(modelPath, path);
      const began = performance.now();
      const predictors = await calibrate({
        path,
        text: bench.calibrationText,
        textName: "calibration",
        byteShare,
        method,
        minutes: bench.minutes,
        recall: bench.recall,
        cacheShares: [parseShare(ffnCache)],
        ...(method === "closed-form" ? { tokensMax: CLOSED_FORM_TOKENS } : {}),
      });
      const seconds = (performance.now() - began) / 1000;
      const result = {
        method,
        byteShare,
        ranks: predictors.layers.map(({ rank }) => rank),
        byteLength: bytesOf(predictors),
        seconds,
        evaluation: await evaluate({ ...scoring, path, ffn: "predicted", ffnCache }),
      };
      rmSync(path);
      each(result);
      results.push(result);
    }
  }
  return { dense, results };
}

function bytesOf({ layers }: Predictors): number {
  return layers.flatMap(({ a, b, bias, earlyBias }) => [a, b, bias, earlyBias])
    .reduce((sum, { byteLength }) => sum + byteLength, 0);
}

const HELP = `What do a predictor's bytes buy in recall, reads and perplexity?

  predictors MODEL.flash CALIBRATION_TEXT HELD_OUT_TEXT
  --shares LIST      bytes of all predictors, in percent of the FFN's in f16 (default 5,7,10,15)
  --methods LIST     trained, closed-form (default both)
  --minutes N        of training (default 2)
  --tokens N         of the held-out text (default 8192)
  --recall SHARE     wanted (default 99%)
  --ffn-cache SHARE  default 20%
  --folder FOLDER    keep the calibrated files there
  --json             print the results as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 3,
    options: {
      shares: { type: "string", default: "5,7,10,15" },
      methods: { type: "string", default: "trained,closed-form" },
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
  const folder = values.folder ?? mkdtempSync(join(tmpdir(), "flashpipe-"));
  let dense: Evaluation | undefined;
  const { results } = await benchPredictors({
    modelPath,
    calibrationText: readFileSync(calibrationPath, "utf8"),
    heldOutText: readFileSync(heldOutPath, "utf8"),
    byteShares: values.shares.split(",").map((percent) => Number(percent) / 100),
    methods: values.methods.split(",") as FitMethod[],
    minutes: Number(values.minutes),
    tokensMax: Number(values.tokens),
    recall: parseShare(values.recall),
    ffnCache: values["ffn-cache"],
    folder,
  }, (result) => {
    if (values.json) return;
    if ("perplexity" in result) {
      dense = result;
      console.log(
        `${runtimeName()}; dense: perplexity ${
          result.perplexity.toFixed(3)
        } over ${result.tokensScored} tokens`,
      );
    } else print(result, dense!);
  });
  if (values.json) console.log(JSON.stringify(results));
  else console.log(`peak memory ${(resourceUse().peakBytes / (1 << 20)).toFixed(0)} MiB`);
  if (!values.folder) rmSync(folder, { recursive: true });
}

function print(
  { method, byteShare, ranks, byteLength, seconds, evaluation }: PredictorsResult,
  dense: Evaluation,
) {
  const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
  const { layers, perplexity, readsPerToken, bytesPerToken } = evaluation;
  const rest = layers.slice(1);
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  console.log(
    `${percent(byteShare)} (${byteLength} bytes) ${method}, ${
      seconds.toFixed(0)
    } s: ranks ${ranks}; ` +
      `perplexity ${perplexity.toFixed(3)} (${percent(perplexity / dense.perplexity - 1)}); ` +
      `layers but the first: recall ${percent(mean(rest.map((l) => l.recall ?? NaN)))}, ` +
      `precision ${percent(mean(rest.map((l) => l.precision ?? NaN)))}; predicted ` +
      layers.map((l) => percent(l.listedShare)).join(" ") +
      `; ${readsPerToken.toFixed(0)} reads, ${(bytesPerToken / 1024).toFixed(0)} KiB a token`,
  );
}

if (import.meta.main) await main(process.argv.slice(2));
