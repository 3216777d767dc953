/**
 * What do all techniques together buy each kind of model? For each file three rows as in the paper's Table 3, measured by the one
 * engine, with the paper's figures beside. Each row runs in a fresh process; rounds take a model's rows in turn; medians.
 *
 *   deno run -A bench/models.ts MODEL.flash [MORE.flash ...] [--memory SIZE] [--tokens 64] [--prompt 64] [--repeat 3]
 *   deno run -A bench/models.ts falcon-7b phi-2 --folder DIR [--quant q4] [--remove]
 */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import process from "node:process";
import { formatBytes } from "../src/byte_size.ts";
import { QUANTIZATIONS } from "../src/format/layout.ts";
import type { Quantization } from "../src/format/layout.ts";
import { runtimeName } from "../src/runtime.ts";
import { SHAPES } from "../src/synth/shapes.ts";
import { synthesize } from "../src/synth/synthesize.ts";
import { parseBenchArgs, wholeNumber } from "./bench_args.ts";
import { measureRows } from "./ladder/measure.ts";
import type { LadderResult, MeasureOptions } from "./ladder/measure.ts";
import { headerOf, kindOf, modelByteLength } from "./ladder/rows.ts";
import type { Budget, LadderRow } from "./ladder/rows.ts";
import { paperModel } from "./models/paper.ts";
import type { PaperModel } from "./models/paper.ts";
import { modelRows } from "./models/rows.ts";
import { figure, percent, renderTable } from "./questions/table.ts";
import type { RunRequest, RunResult } from "./runs/one_run.ts";

export interface ModelsBench extends MeasureOptions {
  modelPath: string;
  /** Of the rows that keep something. Default: half of the model, or what is needed. */
  budget?: Budget;
}

/** Rows of one model. */
export interface ModelResult {
  modelPath: string;
  /** "falcon-7b.flash, q4, 3.62 GiB within 2.06 GiB" */
  title: string;
  modelBytes: number;
  rows: LadderResult[];
  paper: PaperModel | null;
}

/**
 * Runs the rows of one model in turn, round after round.
 *
 * @param onRun hears what is about to run
 * @param run where it runs; tests do without fresh processes
 */
export async function benchModel(
  bench: ModelsBench,
  onRun?: (row: LadderRow, round: number) => void,
  run?: (request: RunRequest) => Promise<RunResult>,
): Promise<ModelResult> {
  const { modelPath, budget } = bench, header = headerOf(modelPath);
  const rows = modelRows(modelPath, { budget, measure: bench });
  const modelBytes = modelByteLength(header), within = withinOf(rows[1]);
  return {
    modelPath,
    title: `${basename(modelPath)}, ${kindOf(header)}, ${formatBytes(modelBytes)} within ${within}`,
    modelBytes,
    rows: await measureRows(rows, bench, onRun, run),
    paper: paperModel(header),
  };
}

function withinOf({ open: { memory, ffnCache } }: LadderRow): string {
  if (memory !== undefined) return typeof memory === "number" ? formatBytes(memory) : memory;
  return typeof ffnCache === "number"
    ? `${percent(ffnCache)} of the FFN`
    : `${ffnCache} of the FFN`;
}

const HEAD = [
  "",
  "in DRAM",
  "read a token",
  "I/O ms",
  "wait ms",
  "memory ms",
  "compute ms",
  "total ms",
  "tokens/s",
  "times",
  "paper: I/O + memory + compute",
  "times",
] as const;

/** The table of a model, in Markdown. */
export function renderModel({ title, modelBytes, rows, paper }: ModelResult): string {
  return renderTable({
    title,
    head: HEAD,
    rows: rows.map((row, index) => [
      row.name,
      percent(row.keptBytes / modelBytes),
      percent(row.bytesPerToken / modelBytes),
      figure(row.ioMs),
      figure(row.split.flash + row.split.predictor),
      figure(row.managementMs),
      figure(row.split.compute),
      figure(row.totalMs),
      figure(row.tokensPerSecond),
      figure(row.tokensPerSecond / rows[0].tokensPerSecond),
      ...paperCells(paper, index),
    ]),
  });
}

/** The paper has the first row and the last. */
function paperCells(paper: PaperModel | null, row: number): [string, string] {
  if (!paper || row === 1) return ["-", "-"];
  const { naive, io, memory, compute } = paper, total = io + memory + compute;
  if (row === 0) return [`${naive}`, "1.00"];
  return [`${io} + ${memory} + ${compute} = ${total}`, figure(naive / total)];
}

const HELP = `What do all techniques together buy each kind of model? The paper's Table 3, measured.

  models MODEL.flash ...   files; or names of shapes (see \`flashpipe synth --help\`), which are made into --folder
  --folder DIR       where shapes are made; what is there already is used
  --quant KIND       how they are made: ${QUANTIZATIONS.join(", ")} (default q4)
  --remove           remove each that was made when its rows are there
  --memory SIZE      ceiling of each process (default: half of the model and 256 MiB, or the least that works)
  --ffn-cache SHARE  cache this share of the FFN instead: for small models
  --tokens N         new tokens of each run (default 64)
  --dense-tokens N   of the runs that compute all neurons (default 8: each token costs the same)
  --prompt N         tokens of the prompt (default 64)
  --text FILE        begins the prompt, for files that synth did not make (default: the tales)
  --repeat N         rounds of a model's rows in turn; medians (default 3)
  --options JSON     how to open the models, for all rows, such as '{"backend":"pread"}'
  --json             print the results as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 64,
    options: {
      folder: { type: "string" },
      quant: { type: "string", default: "q4" },
      remove: { type: "boolean", default: false },
      memory: { type: "string" },
      "ffn-cache": { type: "string" },
      tokens: { type: "string", default: "64" },
      "dense-tokens": { type: "string", default: "8" },
      prompt: { type: "string", default: "64" },
      text: { type: "string" },
      repeat: { type: "string", default: "3" },
      options: { type: "string", default: "{}" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals } = parsed;
  if (positionals.length === 0) throw new RangeError("usage: models MODEL.flash|SHAPE ...");
  const { memory, "ffn-cache": ffnCache, folder, quant, remove } = values;
  if (memory !== undefined && ffnCache !== undefined) {
    throw new RangeError("Cannot keep to --memory and --ffn-cache both");
  }
  const tokens = wholeNumber("tokens", values.tokens, 2);
  const measure: MeasureOptions = {
    tokens,
    denseTokens: Math.min(tokens, wholeNumber("dense-tokens", values["dense-tokens"], 2)),
    prompt: wholeNumber("prompt", values.prompt),
    text: values.text === undefined ? undefined : readFileSync(values.text, "utf8"),
    rounds: wholeNumber("repeat", values.repeat),
    open: JSON.parse(values.options),
  };
  const budget = ffnCache !== undefined
    ? { ffnCache }
    : memory !== undefined
    ? { memory }
    : undefined;
  const files = positionals.map((name) => fileOf(name, { folder, quant }));
  const results: ModelResult[] = [];
  for (const file of files) {
    const isMade = await makeFile(file);
    try {
      const bench = { ...measure, modelPath: file.path, budget };
      const result = await benchModel(bench, ({ name }, round) => {
        console.error(`${basename(file.path)}, round ${round + 1} of ${measure.rounds}: ${name}`);
      });
      results.push(result);
      if (!values.json) console.log(`${renderModel(result)}\n`);
    } finally {
      if (isMade && remove) rmSync(file.path);
    }
  }
  if (values.json) return console.log(JSON.stringify(results));
  console.log(notesOn(measure, results));
}

/** A file that is there, or will be made in a shape. */
interface ModelFile {
  path: string;
  made?: { shape: string; quant: Quantization };
}

/** What an argument stands for. Throws `RangeError` for what is neither a file nor a shape that can be made. */
export function fileOf(
  name: string,
  { folder, quant }: { folder?: string; quant: string },
): ModelFile {
  if (existsSync(name)) return { path: name };
  if (!Object.hasOwn(SHAPES, name)) {
    throw new RangeError(`Cannot measure ${name}: there is no such file, and no such shape`);
  }
  if (folder === undefined) {
    throw new RangeError(`Cannot make ${name}: say where to with --folder DIR`);
  }
  const kind = QUANTIZATIONS.find((kind) => kind === quant);
  if (!kind) throw new RangeError(`Cannot make ${name} as ${quant}: ${QUANTIZATIONS.join(", ")}`);
  return { path: join(folder, `${name}-${kind}.flash`), made: { shape: name, quant: kind } };
}

/** Makes a shape that is not there yet. Returns whether it did. */
async function makeFile({ path, made }: ModelFile): Promise<boolean> {
  if (!made || existsSync(path)) return false;
  console.error(`making ${path}`);
  await synthesize({ ...made, target: path });
  return true;
}

function notesOn({ tokens, denseTokens, prompt, rounds }: MeasureOptions, results: ModelResult[]) {
  const backends = [...new Set(results.flatMap(({ rows }) => rows.map((row) => row.backend)))];
  return [
    `${runtimeName()}; medians of ${rounds} rounds; fresh processes, ${tokens} new tokens (those that compute all neurons: ` +
    `${denseTokens}) after a prompt of ${prompt}; reads by ${backends.join(", ")}.`,
    "In DRAM: what is kept from token to token, against the model. I/O: time with a read in flight. Wait: lane 0 waiting for reads or",
    "for the list of what to compute. Memory: looking slots up, choosing who leaves, planning reads, copying to slots. I/O and memory",
    "overlap with compute: the total is the wall clock.",
    "Of models with experts no row computes all: naive reads a token's experts anew, half resident keeps those that were used last.",
    "The paper's: processor of an M1 Max, half of the memory (Phi-2: 65 %), its parts one after the other.",
  ].join("\n");
}

if (import.meta.main) await main(process.argv.slice(2));
