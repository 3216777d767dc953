/**
 * What does each technique buy? A table like the paper's, all rows measured by the one engine: with less of what makes it fast at the
 * top, with all at the bottom. Each row runs in a fresh process; rounds take all rows in turn; medians.
 *
 *   deno run -A bench/ladder.ts MODEL.flash [MORE.flash ...] [--ordered FILE] [--memory SIZE] [--tokens 64] [--prompt 64]
 *     [--rounds 3] [--json] [--plot FILE]
 */
import { readFileSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import process from "node:process";
import { renderPlot } from "../src/cli/plot.ts";
import { examineDisk } from "../src/flash/bypass.ts";
import type { OpenOptions } from "../src/open.ts";
import { settle } from "../src/open_options.ts";
import { makePlan } from "../src/plan.ts";
import { runtimeName } from "../src/runtime.ts";
import type { Cost } from "../src/statistics.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { ladderPlot } from "./ladder/plot.ts";
import { headerOf, kindOf, ladderRows } from "./ladder/rows.ts";
import type { Budget, LadderRow } from "./ladder/rows.ts";
import { median } from "./median.ts";
import { figure, renderTable } from "./questions/table.ts";
import { runFresh } from "./runs/fresh_process.ts";
import type { RunRequest, RunResult } from "./runs/one_run.ts";
import { promptIds } from "./runs/prompt_ids.ts";

export interface LadderBench {
  /** The first is what all rungs run on; each other adds one. */
  files: string[];
  /** The first file with its neurons in another order. */
  ordered?: string;
  /** Default: memory for half of the model. */
  budget?: Budget;
  /** New tokens of each run, and of those that compute all neurons. */
  tokens: number;
  denseTokens: number;
  /** Tokens of the prompt. */
  prompt: number;
  text?: string;
  rounds: number;
  /** For all rows. */
  open?: OpenOptions;
}

/** A rung: medians of its rounds. Bytes, and ms a token. */
export interface LadderResult extends LadderRow {
  /** What stays in memory from token to token: weights, predictors, slots, KV cache. */
  keptBytes: number;
  peakBytes: number;
  /** Slots over neurons. */
  slotShare: number;
  bytesPerToken: number;
  /** While at least one read is in flight. */
  bytesPerSecond: number;
  readsPerToken: number;
  /** Time with a read in flight, whatever else goes on meanwhile. */
  ioMs: number;
  /** Looking slots up, choosing who leaves, planning reads, copying to slots: of predictor and readers. */
  managementMs: number;
  totalMs: number;
  tokensPerSecond: number;
  /** The wall clock of lane 0, in parts that add up to the total. */
  split: Omit<Cost["msPerToken"], "total">;
  hitRate: number;
  backend: RunResult["backend"];
  checksum: number;
}

/**
 * Runs all rows in turn, round after round. Throws if rows generate other ids than others of their group: they would not have done
 * the same work.
 *
 * @param onRun hears what is about to run
 * @param run where it runs; tests do without fresh processes
 */
export async function benchLadder(
  bench: LadderBench,
  onRun?: (row: LadderRow, round: number) => void,
  run: (request: RunRequest) => Promise<RunResult> = runFresh,
): Promise<LadderResult[]> {
  const rows = ladderRows(bench), runs: RunResult[][] = rows.map(() => []);
  for (const row of rows) checkPlan(row, bench);
  for (let round = 0; round < bench.rounds; round++) {
    for (const [index, row] of rows.entries()) {
      onRun?.(row, round);
      runs[index].push(await run(requestOf(row, bench)));
    }
  }
  const results = rows.map((row, index) => resultOf(row, runs[index]));
  const all = rows.flatMap((row, index) => runs[index].map((run) => ({ row, run })));
  for (const { row, run } of all) {
    const first = all.find((other) => other.row.group === row.group)!;
    if (run.checksum === first.run.checksum) continue;
    throw new Error(`"${row.name}" generated other tokens than "${first.row.name}"`);
  }
  return results;
}

/** A row that cannot be opened is refused before others have taken minutes. */
function checkPlan(row: LadderRow, bench: LadderBench): void {
  const { modelPath } = row, header = headerOf(modelPath);
  makePlan(header, examineDisk(modelPath), settle(header, modelPath, openOf(row, bench)).wishes);
}

function openOf({ open }: LadderRow, bench: LadderBench): OpenOptions {
  // Room for what is run and no more, so that baselines need not keep pages that stay empty. Drafts are another technique.
  const context = bench.prompt + Math.max(bench.tokens, bench.denseTokens);
  return { context, drafts: 0, ...bench.open, ...open };
}

function requestOf(row: LadderRow, bench: LadderBench): RunRequest {
  const { modelPath, group } = row;
  const tokens = group === "dense" ? bench.denseTokens : bench.tokens;
  const prompt = promptIds(modelPath, bench.prompt, bench.text);
  return { modelPath, prompt, tokens, open: openOf(row, bench) };
}

function resultOf(row: LadderRow, runs: RunResult[]): LadderResult {
  const middle = (pick: (run: RunResult) => number) => median(runs.map(pick));
  const cost = (pick: (cost: Cost) => number) => middle(({ decode }) => pick(decode));
  const part = (name: keyof LadderResult["split"]) => cost(({ msPerToken }) => msPerToken[name]);
  return {
    ...row,
    keptBytes: keptBytes(row, runs[0]),
    peakBytes: middle((run) => run.peakBytes),
    slotShare: runs[0].slotShare,
    bytesPerToken: cost((cost) => cost.bytesPerToken),
    bytesPerSecond: cost(({ bytesPerToken, flashMsPerToken }) =>
      flashMsPerToken > 0 ? 1000 * bytesPerToken / flashMsPerToken : 0
    ),
    readsPerToken: cost((cost) => cost.readsPerToken),
    ioMs: cost((cost) => cost.flashMsPerToken),
    managementMs: cost(({ workMsPerToken, copyMsPerToken }) =>
      workMsPerToken.management + copyMsPerToken
    ),
    totalMs: cost(({ msPerToken }) => msPerToken.total),
    tokensPerSecond: cost((cost) => cost.tokensPerSecond),
    split: {
      compute: part("compute"),
      flash: part("flash"),
      predictor: part("predictor"),
      other: part("other"),
    },
    hitRate: cost((cost) => cost.hitRate),
    backend: runs[0].backend,
    checksum: runs[0].checksum,
  };
}

/** What is naive keeps no weights, though they lie in memory for lanes to compute from. */
function keptBytes({ open }: LadderRow, { planned }: RunResult): number {
  const { weights, predictors, residentUp, keyValueCache, slots } = planned;
  return open.naive ? keyValueCache : weights + predictors + residentUp + keyValueCache + slots;
}

const HELP = `What does each technique buy? A table like the paper's, every row measured.

  ladder MODEL.flash [MORE.flash ...]
                     all rungs run on the first file; each other (another quantization) adds one
  --ordered FILE     the first file after \`flashpipe reorder\`; without it that rung is left out
  --memory SIZE      ceiling of each process (default: half of the first file's weights, and 256 MiB)
  --ffn-cache SHARE  cache this share of the FFN instead: for small models
  --tokens N         new tokens of each run (default 64)
  --dense-tokens N   of the runs that compute all neurons (default 8: each token costs the same)
  --prompt N         tokens of the prompt (default 64)
  --text FILE        begins the prompt, for files that synth did not make (default: the tales)
  --rounds N         of all rows in turn; medians (default 3)
  --options JSON     how to open the models, for all rows, such as '{"backend":"pread"}'
  --json             print the results as JSON
  --plot FILE        draw them as SVG`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 16,
    options: {
      ordered: { type: "string" },
      memory: { type: "string" },
      "ffn-cache": { type: "string" },
      tokens: { type: "string", default: "64" },
      "dense-tokens": { type: "string", default: "8" },
      prompt: { type: "string", default: "64" },
      text: { type: "string" },
      rounds: { type: "string", default: "3" },
      options: { type: "string", default: "{}" },
      json: { type: "boolean" },
      plot: { type: "string" },
    },
  });
  if (!parsed) return;
  const { values, positionals: files } = parsed;
  if (files.length === 0) throw new RangeError("usage: ladder MODEL.flash [MORE.flash ...]");
  const { memory, "ffn-cache": ffnCache } = values;
  if (memory !== undefined && ffnCache !== undefined) {
    throw new RangeError("Cannot keep to --memory and --ffn-cache both");
  }
  const tokens = wholeNumber("tokens", values.tokens, 2);
  const rounds = wholeNumber("rounds", values.rounds);
  const bench: LadderBench = {
    files,
    ordered: values.ordered,
    budget: ffnCache !== undefined ? { ffnCache } : memory !== undefined ? { memory } : undefined,
    tokens,
    denseTokens: Math.min(tokens, wholeNumber("dense-tokens", values["dense-tokens"], 2)),
    prompt: wholeNumber("prompt", values.prompt),
    text: values.text === undefined ? undefined : readFileSync(values.text, "utf8"),
    rounds,
    open: JSON.parse(values.options),
  };
  const results = await benchLadder(bench, ({ name }, round) => {
    console.error(`round ${round + 1} of ${rounds}: ${name}`);
  });
  const title = `${basename(files[0])}, ${kindOf(headerOf(files[0]))}, ${runtimeName()}`;
  if (values.plot !== undefined) {
    writeFileSync(values.plot, await renderPlot(ladderPlot(results, title)));
  }
  if (values.json) return console.log(JSON.stringify(results));
  console.log(renderLadder(results, title));
  console.log(notesOn(bench, results));
}

function wholeNumber(name: string, text: string, least = 1): number {
  const number = Number(text);
  if (Number.isInteger(number) && number >= least) return number;
  throw new RangeError(`Cannot run with --${name} ${text}: a whole number, at least ${least}`);
}

const HEAD = [
  "",
  "DRAM GiB",
  "peak GiB",
  "MB/token",
  "reads",
  "GB/s",
  "I/O ms",
  "memory ms",
  "compute ms",
  "wait ms",
  "total ms",
  "tokens/s",
  "times",
] as const;

/** The table, in Markdown. */
export function renderLadder(results: readonly LadderResult[], title: string): string {
  const rows = results.map((row) =>
    [
      row.keptBytes / 2 ** 30,
      row.peakBytes / 2 ** 30,
      row.bytesPerToken / 1e6,
      row.readsPerToken,
      row.bytesPerSecond / 1e9,
      row.ioMs,
      row.managementMs,
      row.split.compute,
      row.split.flash + row.split.predictor,
      row.totalMs,
      row.tokensPerSecond,
      row.tokensPerSecond / results[0].tokensPerSecond,
    ].map(figure)
  );
  return renderTable({
    title,
    head: HEAD,
    rows: rows.map((cells, index) => [results[index].name, ...cells]),
  });
}

function notesOn(
  { ordered, tokens, denseTokens, prompt, rounds }: LadderBench,
  results: LadderResult[],
) {
  const backends = [...new Set(results.map(({ backend }) => backend))].join(", ");
  const lines = [
    `Medians of ${rounds} rounds; fresh processes, ${tokens} new tokens (naive and hybrid: ${denseTokens}) after a prompt of ` +
    `${prompt}; reads by ${backends}.`,
    "DRAM: what is kept from token to token. Of naive that is the KV cache: its weights lie in memory, for lanes to compute from, but",
    "are read anew for each token. Peak: of the process. I/O: time with a read in flight. Memory: looking slots up, choosing who leaves,",
    "planning reads, copying to slots. Compute, wait: lane 0 computing, and waiting for reads or for the list of what to compute. They",
    "overlap: the total is the wall clock, of which the rest is sampling and handing over.",
    "Up to windowing up row and down column are reads of their own, and none is merged with another.",
  ];
  if (ordered === undefined) {
    lines.push(
      "No rung for the order of neurons: give a copy that `reorder` made as --ordered FILE.",
    );
  }
  return `\n${lines.join("\n")}`;
}

if (import.meta.main) await main(process.argv.slice(2));
