/**
 * Does the plan foresee what a run costs? Runs the engine at each budget, in turns, and prints the forecast beside what was measured.
 *
 *   deno run -A bench/plan.ts MODEL.flash [--budgets 1GiB,2GiB | --ffn-caches 5%,20%] [--tokens 128] [--repeat 3] [--json]
 */
import process from "node:process";
import { parseByteSize, parseShare } from "../src/byte_size.ts";
import { forecast } from "../src/forecast/forecast.ts";
import type { Forecast } from "../src/forecast/forecast.ts";
import { Planner } from "../src/forecast/planner.ts";
import type { Budget } from "../src/forecast/planner.ts";
import type { OpenOptions } from "../src/mod.ts";
import { findProbe } from "../src/probe/kept_probe.ts";
import { probe as runProbe } from "../src/probe/probe.ts";
import type { ProbeSizes } from "../src/probe/probe.ts";
import { runtimeName } from "../src/runtime.ts";
import type { Cost } from "../src/statistics.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { median } from "./median.ts";
import { runFresh } from "./runs/fresh_process.ts";
import { promptIds } from "./runs/prompt_ids.ts";

export interface PlanBench {
  modelPath: string;
  /** Each way to set the cache: a budget, or a share. */
  budgets: Budget[];
  options: OpenOptions;
  /** Ids, which fill the cache. */
  prompt: number[];
  /** New tokens of each run. */
  tokens: number;
  repeat: number;
  /** Measure the machine before each round, as its neighbours come and go; else take the kept probe. */
  probes: boolean;
  probeSizes?: ProbeSizes;
  temperature: number;
}

/** What was foreseen, and what was measured: medians of the rounds. */
export interface PlanRow {
  budget: Budget;
  foreseen: Pick<Forecast, "bytesPerToken" | "readsPerToken" | "missesPerToken" | "hitRate"> & {
    ms: number;
  };
  /** `msLeast`: of the fastest round, in which others disturbed least. */
  measured: PlanRow["foreseen"] & { msLeast: number; cost: Cost };
  forecast: Forecast;
}

/** Runs every budget in turn, `repeat` times, each in a process of its own: what was open before leaves memory behind. */
export async function benchPlan(bench: PlanBench): Promise<PlanRow[]> {
  const { modelPath, budgets, prompt, tokens, temperature, repeat } = bench;
  // Guesses that several positions verify together are not foreseen.
  const options: OpenOptions = { drafts: 0, ...bench.options, probe: !bench.probes };
  const position = prompt.length + tokens / 2;
  const planner = new Planner(modelPath, options, { position });
  const forecasts: Forecast[][] = budgets.map(() => []), costs: Cost[][] = budgets.map(() => []);
  for (let seed = 0; seed < repeat; seed++) {
    const probe = bench.probes
      ? await runProbe(modelPath, { sizes: bench.probeSizes })
      : findProbe(modelPath).probe;
    if (!probe) {
      throw new RangeError(`Cannot foresee as ${modelPath} has no probe: flashpipe probe`);
    }
    for (const [index, budget] of budgets.entries()) {
      // A run chooses its readers by the probe that is kept, or by none.
      const prepared = planner.prepare(budget);
      forecasts[index].push(forecast(prepared, probe, { position }));
      const open = { ...options, ...budget }, sampling = { temperature, seed };
      const run = await runFresh({ modelPath, open, prompt, tokens, sampling });
      costs[index].push(run.decode);
    }
  }
  return budgets.map((budget, index) => rowOf(budget, forecasts[index], costs[index]));
}

function rowOf(budget: PlanRow["budget"], forecasts: Forecast[], costs: Cost[]): PlanRow {
  const foreseen = (pick: (one: Forecast) => number) => median(forecasts.map(pick));
  const measured = (pick: (cost: Cost) => number) => median(costs.map(pick));
  // Its parts are of the fastest round.
  const byTime = [...costs].sort((a, b) => a.msPerToken.total - b.msPerToken.total);
  return {
    budget,
    foreseen: {
      ms: foreseen(({ msPerToken }) => msPerToken.total),
      bytesPerToken: foreseen((one) => one.bytesPerToken),
      readsPerToken: foreseen((one) => one.readsPerToken),
      missesPerToken: foreseen((one) => one.missesPerToken),
      hitRate: foreseen((one) => one.hitRate),
    },
    measured: {
      ms: measured(({ msPerToken }) => msPerToken.total),
      msLeast: Math.min(...costs.map(({ msPerToken }) => msPerToken.total)),
      bytesPerToken: measured((cost) => cost.bytesPerToken),
      readsPerToken: measured((cost) => cost.readsPerToken),
      missesPerToken: measured((cost) => cost.missesPerToken),
      hitRate: measured((cost) => 1 - cost.missesPerToken / cost.neuronsPerToken),
      cost: byTime[0],
    },
    forecast: [...forecasts].sort((a, b) => a.msPerToken.total - b.msPerToken.total)[
      forecasts.length >> 1
    ],
  };
}

const HELP =
  `Does the plan foresee what a run costs? Each budget in turn, medians; the machine is probed in each round.

  plan MODEL.flash
  --budgets LIST     ceilings of the process, such as 2.5GiB,3GiB,3.5GiB
  --ffn-caches LIST  shares of the FFN instead (default 5%,10%,20%,40%,60%)
  --options JSON     how to open the model, such as '{"lanes":2}'
  --tokens N         new ones of each run (default 128)
  --warmup N         tokens of the prompt, which fill the cache (default 64)
  --repeat N         rounds (default 3)
  --temperature N    default 0.7
  --kept             take the probe that is kept, instead of one in each round
  --json             print the result as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 1,
    options: {
      budgets: { type: "string" },
      "ffn-caches": { type: "string", default: "5%,10%,20%,40%,60%" },
      options: { type: "string", default: "{}" },
      tokens: { type: "string", default: "128" },
      warmup: { type: "string", default: "64" },
      repeat: { type: "string", default: "3" },
      temperature: { type: "string", default: "0.7" },
      kept: { type: "boolean" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [modelPath] } = parsed;
  if (!modelPath) throw new RangeError("usage: plan MODEL.flash [--budgets LIST]");
  const budgets = values.budgets !== undefined
    ? values.budgets.split(",").map((size) => ({ memory: parseByteSize(size) }))
    : values["ffn-caches"].split(",").map((share) => ({ ffnCache: parseShare(share) }));
  const rows = await benchPlan({
    modelPath,
    budgets,
    options: JSON.parse(values.options),
    prompt: promptIds(modelPath, Number(values.warmup)),
    tokens: Number(values.tokens),
    repeat: Number(values.repeat),
    probes: !values.kept,
    temperature: Number(values.temperature),
  });
  if (values.json) return console.log(JSON.stringify(rows));
  console.log(`${runtimeName()}, medians of ${values.repeat} runs of ${values.tokens} tokens`);
  console.log("           foreseen / measured = ratio");
  for (const row of rows) print(row);
}

function print({ budget, foreseen, measured, forecast }: PlanRow): void {
  const name = "memory" in budget
    ? `${(budget.memory / 2 ** 30).toFixed(2)} GiB`
    : `${(100 * budget.ffnCache).toFixed(0)} %`;
  const pair = (what: string, one: number, other: number) =>
    `${what} ${shown(one)} / ${shown(other)}${other > 0 ? ` = ${(one / other).toFixed(2)}` : ""}`;
  const kibibytes = [foreseen.bytesPerToken, measured.bytesPerToken].map((bytes) => bytes / 1024);
  console.log([
    name.padStart(9),
    `${pair("ms", foreseen.ms, measured.ms)} (least ${shown(measured.msLeast)})`,
    pair("KiB", kibibytes[0], kibibytes[1]),
    pair("reads", foreseen.readsPerToken, measured.readsPerToken),
    pair("misses", foreseen.missesPerToken, measured.missesPerToken),
  ].join("; "));
  const { msPerToken: ms } = forecast, { msPerToken: had } = measured.cost;
  const computing = ms.attention + ms.look + ms.ffn + ms.logits;
  const waited = had.flash + had.predictor;
  const parts = [
    pair("compute", computing, had.compute),
    // The engine counts reads that hold a list up as waiting for the predictor.
    pair("waiting", ms.waitingFlash + ms.waitingPredictor + ms.memoryManagement, waited),
    pair("other", ms.other + ms.contention, had.other),
  ];
  console.log(`           ${parts.join("; ")}`);
}

function shown(value: number): string {
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

if (import.meta.main) await main(process.argv.slice(2));
