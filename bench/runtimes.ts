/**
 * The same work under Deno, Bun and Node: how soon is the first token there, and what does each one after it cost? Fresh processes in
 * turn; medians. Prints a Markdown table, and puts it into a document.
 *
 *   deno run -A bench/runtimes.ts [MODEL.flash] [--tokens 256] [--rounds 5] [--update README.md] [--json]
 */
import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { DEMO_FFN_CACHE, prepareEmbeddedModel } from "../src/cli/embedded_model.ts";
import type { OpenOptions } from "../src/open.ts";
import { parseBenchArgs, wholeNumber } from "./bench_args.ts";
import { median } from "./median.ts";
import { figure, renderTable } from "./questions/table.ts";
import { findRuntime, runFresh } from "./runs/fresh_process.ts";
import type { FreshRun, Runtime, RuntimeName } from "./runs/fresh_process.ts";
import { promptIds } from "./runs/prompt_ids.ts";

export interface RuntimesBench {
  modelPath: string;
  open: OpenOptions;
  runtimes: Runtime[];
  tokens: number;
  /** Tokens of the prompt. */
  prompt: number;
  text?: string;
  rounds: number;
}

/** Medians of one runtime. Times in ms. */
export interface RuntimeResult {
  /** With its version. */
  runtime: string;
  backend: FreshRun["backend"];
  kernels: FreshRun["kernels"];
  /** From the start of the process until the engine's code is there ... */
  startMs: number;
  /** ... until the model is open: planned, loaded, its threads ready ... */
  openMs: number;
  /** ... until the first new token, the prompt's ... */
  firstTokenMs: number;
  /** ... and each one after it. */
  msPerToken: number;
  tokensPerSecond: number;
  /** Processor time of all threads. */
  cpuMsPerToken: number;
  peakBytes: number;
  checksum: number;
}

export async function benchRuntimes(
  { modelPath, open, runtimes, tokens, prompt, text, rounds }: RuntimesBench,
): Promise<RuntimeResult[]> {
  const runs: FreshRun[][] = runtimes.map(() => []);
  const request = { modelPath, open, tokens, prompt: promptIds(modelPath, prompt, text) };
  for (let round = 0; round < rounds; round++) {
    for (const [index, runtime] of runtimes.entries()) {
      runs[index].push(await runFresh(request, runtime));
    }
  }
  return runs.map(resultOf);
}

function resultOf(runs: FreshRun[]): RuntimeResult {
  const middle = (pick: (run: FreshRun) => number) => median(runs.map(pick));
  const [{ runtime, backend, kernels, checksum }] = runs;
  if (runs.some((run) => run.checksum !== checksum)) {
    throw new Error(`${runtime} generated other tokens in another run`);
  }
  return {
    runtime,
    backend,
    kernels,
    startMs: middle(({ at, spawnedAt }) => at.started - spawnedAt),
    openMs: middle(({ at }) => at.opened - at.started),
    firstTokenMs: middle(({ at }) => at.firstToken - at.opened),
    msPerToken: middle(({ decode }) => decode.msPerToken.total),
    tokensPerSecond: middle(({ decode }) => decode.tokensPerSecond),
    cpuMsPerToken: middle((run) => run.cpuMsPerToken),
    peakBytes: middle((run) => run.peakBytes),
    checksum,
  };
}

const HELP =
  `The same work under Deno, Bun and Node: start, first token, each token after it, memory?

  runtimes [MODEL.flash]
                     default: the embedded model, a fifth of its FFN cached
  --memory SIZE      ceiling of each process, for other files
  --tokens N         new tokens of each run (default 256)
  --prompt N         tokens of the prompt (default 32)
  --text FILE        begins the prompt, for files that synth did not make (default: the tales)
  --rounds N         of all runtimes in turn; medians (default 5)
  --options JSON     how to open the model, such as '{"backend":"pread"}'
  --update FILE      put the table into this document, between the lines
                     ${markers().join(" and ")}
  --json             print the results as JSON`;

const NAMES: readonly RuntimeName[] = ["deno", "bun", "node"];

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 1,
    options: {
      memory: { type: "string" },
      tokens: { type: "string", default: "256" },
      prompt: { type: "string", default: "32" },
      text: { type: "string" },
      rounds: { type: "string", default: "5" },
      options: { type: "string", default: "{}" },
      update: { type: "string" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [given] } = parsed;
  // Before minutes are spent on what has no place to go.
  if (values.update !== undefined) withTable(readFileSync(values.update, "utf8"), "");
  const modelPath = given ?? await prepareEmbeddedModel({
    note: (line) => void process.stderr.write(line),
    isSilent: true,
    signal: new AbortController().signal,
  });
  const { memory } = values;
  const budget = memory !== undefined ? { memory } : given ? {} : { ffnCache: DEMO_FFN_CACHE };
  const rounds = wholeNumber("rounds", values.rounds);
  const tokens = wholeNumber("tokens", values.tokens, 2);
  const prompt = wholeNumber("prompt", values.prompt);
  const results = await benchRuntimes({
    modelPath,
    open: { drafts: 0, ...budget, ...JSON.parse(values.options) },
    runtimes: await installed(),
    tokens,
    prompt,
    text: values.text === undefined ? undefined : readFileSync(values.text, "utf8"),
    rounds,
  });
  const table = renderRuntimes(results);
  if (values.update !== undefined) {
    writeFileSync(values.update, withTable(readFileSync(values.update, "utf8"), table));
  }
  if (values.json) return console.log(JSON.stringify(results));
  console.log(`Medians of ${rounds} fresh processes, ${tokens} tokens after a prompt of ${prompt}`);
  console.log(table);
}

/** The runtimes that are there; says which are not. */
async function installed(): Promise<Runtime[]> {
  const runtimes: Runtime[] = [];
  for (const name of NAMES) {
    const runtime = await findRuntime(name);
    if (runtime) runtimes.push(runtime);
    else console.error(`No ${name} here, and npx brings none: left out`);
  }
  return runtimes;
}

/** A Markdown table, a runtime a row. */
export function renderRuntimes(results: readonly RuntimeResult[]): string {
  const head = [
    "",
    "reads by",
    "start ms",
    "open ms",
    "first token ms",
    "ms/token",
    "tokens/s",
    "CPU ms/token",
    "peak MiB",
  ];
  const rows = results.map((result) => [
    result.runtime,
    result.backend,
    ...[
      result.startMs,
      result.openMs,
      result.firstTokenMs,
      result.msPerToken,
      result.tokensPerSecond,
      result.cpuMsPerToken,
      result.peakBytes / 2 ** 20,
    ].map(figure),
  ]);
  return renderTable({ title: "", head, rows }).trim();
}

function markers(): [string, string] {
  return ["<!-- bench runtimes: begin -->", "<!-- bench runtimes: end -->"];
}

/** A document with the table between its markers. Throws `RangeError` if it has none. */
export function withTable(document: string, table: string): string {
  const [begin, end] = markers();
  const from = document.indexOf(begin), to = document.indexOf(end);
  if (from < 0 || to < from) {
    throw new RangeError(`Cannot update a document without the lines ${begin} and ${end}`);
  }
  return `${document.slice(0, from + begin.length)}\n\n${table}\n\n${document.slice(to)}`;
}

if (import.meta.main) await main(process.argv.slice(2));
