/**
 * How many tokens a second, and where does a token's time go? Generates in one way, or in two in turn (A B A B ..., each in a
 * pipeline of its own), that differ in options or in the file, and prints medians.
 *
 *   deno run -A bench/tokens.ts MODEL.flash [--options '{"readers":8}'] [--vs '{"readers":16}'] [--vs-model OTHER.flash]
 *     [--tokens 256] [--repeat 5] [--json]
 */
import { basename } from "node:path";
import process from "node:process";
import type { OpenOptions } from "../src/mod.ts";
import { open } from "../src/mod.ts";
import type { Cost } from "../src/statistics.ts";
import { resourceUse, runtimeName } from "../src/runtime.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { median } from "./median.ts";

/** What is compared: a file, and how it is opened. */
export interface TokensWay {
  modelPath: string;
  options: OpenOptions;
}

export interface TokensBench {
  ways: TokensWay[];
  tokens: number;
  repeat: number;
  prompt: string;
  temperature: number;
  topP: number;
}

export interface TokensResult extends TokensWay {
  /** Of each run: the steady part, without prompt. */
  runs: Cost[];
  /** A number made of all ids: the same for the same model, seeds and mode. */
  checksum: number;
}

/** Runs every way in turn, `repeat` times, each with its own seed. */
export async function benchTokens(bench: TokensBench): Promise<TokensResult[]> {
  const results: TokensResult[] = bench.ways.map((way) => ({ ...way, runs: [], checksum: 0 }));
  const { temperature, topP, tokens: maxTokens } = bench;
  for (let seed = 0; seed < bench.repeat; seed++) {
    for (const result of results) {
      await using model = await open(result.modelPath, result.options);
      const sampling = { maxTokens, ignoreEos: true, temperature, topP, seed };
      // A first run compiles the code and fills the cache.
      for await (const _ of model.generate(bench.prompt, { ...sampling, maxTokens: 64 }));
      for await (const { id } of model.generate(bench.prompt, sampling)) {
        result.checksum = (Math.imul(result.checksum, 31) + id) >>> 0;
      }
      result.runs.push(model.stats().decode);
    }
  }
  return results;
}

const HELP = `How many tokens a second, and where does a token's time go? Medians.

  tokens MODEL.flash
  --options JSON     how to open the model (default '{"ffnCache":"20%"}')
  --vs JSON          a second way, run in turn with the first
  --vs-model FILE    a second file, run in turn with the first
  --tokens N         of each run (default 256)
  --repeat N         runs of each way (default 5)
  --prompt TEXT      default "Once upon a time"
  --temperature N    default 0.7
  --top-p N          default 0.9
  --json             print the results as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 1,
    options: {
      options: { type: "string", default: "{}" },
      vs: { type: "string" },
      "vs-model": { type: "string" },
      tokens: { type: "string", default: "256" },
      repeat: { type: "string", default: "5" },
      prompt: { type: "string", default: "Once upon a time" },
      temperature: { type: "string", default: "0.7" },
      "top-p": { type: "string", default: "0.9" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [modelPath] } = parsed;
  if (!modelPath) throw new RangeError("usage: tokens MODEL.flash [--options JSON] [--vs JSON]");
  const { vs, "vs-model": vsModel } = values;
  const ways = [{ modelPath, options: optionsOf(values.options) }];
  if (vs !== undefined || vsModel !== undefined) {
    ways.push({ modelPath: vsModel ?? modelPath, options: optionsOf(vs ?? values.options) });
  }
  const results = await benchTokens({
    ways,
    tokens: Number(values.tokens),
    repeat: Number(values.repeat),
    prompt: values.prompt,
    temperature: Number(values.temperature),
    topP: Number(values["top-p"]),
  });
  if (values.json) return console.log(JSON.stringify(results));
  console.log(`${runtimeName()}, medians of ${values.repeat} runs of ${values.tokens} tokens`);
  for (const result of results) print(result);
  console.log(`peak memory ${(resourceUse().peakBytes / (1 << 20)).toFixed(0)} MiB`);
}

function optionsOf(json: string): OpenOptions {
  return { ffnCache: "20%", ...JSON.parse(json) };
}

function print({ modelPath, options, runs, checksum }: TokensResult): void {
  const middle = (pick: (cost: Cost) => number) => median(runs.map(pick));
  const time = (name: keyof Cost["msPerToken"]) =>
    middle((cost) => cost.msPerToken[name]).toFixed(2);
  const rates = runs.map((cost) => cost.tokensPerSecond);
  console.log(
    `${basename(modelPath)} ${JSON.stringify(options)}\n` +
      `  ${middle((cost) => cost.tokensPerSecond).toFixed(0)} tokens/s ` +
      `(${Math.min(...rates).toFixed(0)} to ${Math.max(...rates).toFixed(0)}); ms/token ${
        time("total")
      }: ` +
      `compute ${time("compute")}, flash ${time("flash")}, predictor ${time("predictor")}, other ${
        time("other")
      }\n` +
      `  ${middle((cost) => cost.readsPerToken).toFixed(1)} reads and ` +
      `${(middle((cost) => cost.bytesPerToken) / 1024).toFixed(1)} KiB a token; ` +
      `${middle((cost) => cost.neuronsPerToken).toFixed(0)} neurons, ` +
      `hits ${(100 * middle((cost) => cost.hitRate)).toFixed(0)} %, early ${
        (100 * middle((cost) => cost.earlyRate)).toFixed(0)
      } %, ` +
      `hidden ${(100 * middle((cost) => cost.hidden)).toFixed(0)} %; predictor worker ` +
      `${middle((cost) => cost.predictorMsPerToken.early).toFixed(2)} + ${
        middle((cost) => cost.predictorMsPerToken.late).toFixed(2)
      } ms; checksum ${checksum}`,
  );
}

if (import.meta.main) await main(process.argv.slice(2));
