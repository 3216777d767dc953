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
import { runtimeName } from "../src/runtime.ts";
import { parseBenchArgs, wholeNumber } from "./bench_args.ts";
import { measureRows } from "./ladder/measure.ts";
import type { LadderResult, MeasureOptions } from "./ladder/measure.ts";
import { ladderPlot } from "./ladder/plot.ts";
import { headerOf, kindOf, ladderRows } from "./ladder/rows.ts";
import type { Budget, LadderRow } from "./ladder/rows.ts";
import { figure, renderTable } from "./questions/table.ts";
import type { RunRequest, RunResult } from "./runs/one_run.ts";

export interface LadderBench extends MeasureOptions {
  /** The first is what all rungs run on; each other adds one. */
  files: string[];
  /** The first file with its neurons in another order. */
  ordered?: string;
  /** Default: memory for half of the model. */
  budget?: Budget;
}

/**
 * Runs all rows of a ladder: see `measureRows`.
 *
 * @param onRun hears what is about to run
 * @param run where it runs; tests do without fresh processes
 */
export async function benchLadder(
  bench: LadderBench,
  onRun?: (row: LadderRow, round: number) => void,
  run?: (request: RunRequest) => Promise<RunResult>,
): Promise<LadderResult[]> {
  return await measureRows(ladderRows(bench), bench, onRun, run);
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
