/**
 * Who is faster? Runs several commands in turn, each in a fresh process that prints what it took as JSON, and compares medians.
 * Ours is `bench generate`; any other engine is a command. Which ones is told by a file: see bench/README.md.
 *
 *   deno run -A bench/versus.ts [bench/versus_sides.json] --set q8=MODEL.flash --set ... [--rounds 5]
 */
import { spawn } from "node:child_process";
import fs from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseBenchArgs } from "./bench_args.ts";
import { median } from "./median.ts";

/** One of those who are compared. `{name}` within an argument stands for a value that was set. */
export interface Side {
  name: string;
  /** Arguments of `bench generate`: one of ours ... */
  generate?: string[];
  /** Any other command, which prints JSON on a line of its own; and which of its fields are ours. */
  command?: string[];
  fields?: Partial<Record<keyof Took, string>>;
  /** Run before each time, not timed: to drop a file from the system's cache. */
  before?: string[];
  /** What runs the command, such as a limit of its memory: put in front of it. */
  within?: string[];
  folder?: string;
}

/** What a run took. */
export interface Took {
  openSeconds: number;
  firstTokenSeconds: number;
  msPerToken: number;
}

export interface VersusBench {
  sides: Side[];
  /** Values of `{name}`s; `prompt` and `tokens` are among them. */
  values: Record<string, string>;
  /** What runs ours, such as `bun`; default: the runtime of this process. */
  runtime?: string;
  rounds: number;
  minutesMax: number;
  onRun?: (side: string, round: number, outcome: Took | Error) => void;
}

export interface SideResult {
  name: string;
  runs: (Took & { peakBytes: number | null; printed: Record<string, unknown> })[];
  failures: string[];
}

/** How a command within which others run tells their peak, on standard error. */
const PEAK = /peak (\d+) MiB/;
/** Options of `open`; and tokens of those who take seconds for one. */
const DEFAULTS = { options: "{}", few: "8" };
const GENERATE = fileURLToPath(new URL("generate.ts", import.meta.url));

/** Runs everybody once a round, each round beginning with another. A side that fails is not run again. */
export async function benchVersus(bench: VersusBench): Promise<SideResult[]> {
  const { sides, rounds, onRun } = bench;
  const results: SideResult[] = sides.map(({ name }) => ({ name, runs: [], failures: [] }));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < sides.length; turn++) {
      const at = (round + turn) % sides.length, { name, runs, failures } = results[at];
      if (failures.length > 0) continue;
      try {
        const run = await runOnce(sides[at], bench);
        runs.push(run);
        onRun?.(name, round, run);
      } catch (error) {
        failures.push((error as Error).message);
        onRun?.(name, round, error as Error);
      }
    }
  }
  return results;
}

/** `{name}`s in a side's arguments that have no value. */
export function missingValues(side: Side, values: Record<string, string>): string[] {
  const { generate = [], command = [], before = [], within = [], folder = "" } = side;
  const all = [...generate, ...command, ...before, ...within, folder].join(" ");
  return [...all.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).filter((name) =>
    !(name in values)
  );
}

async function runOnce(side: Side, { values, minutesMax, runtime }: VersusBench) {
  const fill = (text: string) => text.replaceAll(/\{(\w+)\}/g, (_, name) => values[name]);
  const cwd = side.folder && fill(side.folder);
  if (side.before) await execute(side.before.map(fill), { cwd, minutesMax });
  const command = [...side.within ?? [], ...commandOf(side, runtime)].map(fill);
  const { stdout, stderr } = await execute(command, { cwd, minutesMax });
  const printed = lastJson(stdout);
  const fieldOf = (name: keyof Took) => Number(printed[side.fields?.[name] ?? name]);
  const took = {
    openSeconds: fieldOf("openSeconds"),
    firstTokenSeconds: fieldOf("firstTokenSeconds"),
    msPerToken: fieldOf("msPerToken"),
  };
  if (!(took.msPerToken > 0)) throw new Error(`it printed no ms/token: ${stdout.slice(-300)}`);
  const peak = PEAK.exec(stderr)?.[1], own = printed.peakBytes;
  const peakBytes = peak ? Number(peak) * 2 ** 20 : typeof own === "number" ? own : null;
  return { ...took, peakBytes, printed };
}

function commandOf({ name, generate, command }: Side, runtime?: string): string[] {
  if (command) return command;
  if (!generate) throw new RangeError(`Cannot run "${name}": it has neither generate nor command`);
  const sizes = ["--prompt", "{prompt}", "--tokens", "{tokens}", "--json"];
  return [...runtimeCommand(runtime), GENERATE, ...generate, ...sizes];
}

/** `deno` and `bun` are themselves; anything longer is taken as it is. */
function runtimeCommand(runtime?: string): string[] {
  if (runtime === undefined) {
    return "deno" in process.versions ? [process.execPath, "run", "-A"] : [process.execPath];
  }
  return runtime === "deno" ? ["deno", "run", "-A"] : runtime.split(" ");
}

function execute(
  [file, ...args]: string[],
  { cwd, minutesMax }: { cwd?: string; minutesMax: number },
): Promise<{ stdout: string; stderr: string }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ stdout: string; stderr: string }>();
  const child = spawn(file, args, {
    cwd,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: minutesMax * 60_000,
    killSignal: "SIGKILL",
  });
  let stdout = "", stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text);
  child.on("error", reject);
  child.on("close", (code, signal) => {
    if (code === 0) return resolve({ stdout, stderr });
    reject(new Error(`${file} ended with ${signal ?? code}: ${(stderr || stdout).slice(-500)}`));
  });
  return promise;
}

/** The last line that is an object of JSON. */
function lastJson(text: string): Record<string, unknown> {
  const line = text.split("\n").findLast((line) =>
    line.startsWith("{") && line.trimEnd().endsWith("}")
  );
  if (line === undefined) throw new Error(`it printed no JSON: ${text.slice(-300)}`);
  return JSON.parse(line);
}

const HELP = `Who is faster? Runs commands in turn, each in a fresh process, and compares medians.

  versus [SIDES.json]   who runs (default bench/versus_sides.json; see bench/README.md)
  --set NAME=VALUE      what {NAME} stands for in that file; sides of which a value is missing are left out
  --only TEXT           sides whose name has TEXT in it; may be told several times
  --runtime COMMAND     what runs ours, such as bun or "deno run -A" (default: this runtime)
  --rounds N            default 5
  --prompt N            tokens of the prompt (default 64)
  --tokens N            new tokens (default 64)
  --minutes N           a run that takes longer has failed (default 30)
  --json                print the results as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 1,
    options: {
      set: { type: "string", multiple: true, default: [] },
      only: { type: "string", multiple: true, default: [""] },
      runtime: { type: "string" },
      rounds: { type: "string", default: "5" },
      prompt: { type: "string", default: "64" },
      tokens: { type: "string", default: "64" },
      minutes: { type: "string", default: "30" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { prompt, tokens, rounds, only, set, minutes, json, runtime } = parsed.values;
  const [file = new URL("versus_sides.json", import.meta.url)] = parsed.positionals;
  const values: Record<string, string> = { ...DEFAULTS, ...valuesOf(set), prompt, tokens };
  const all: Side[] = JSON.parse(fs.readFileSync(file, "utf8"));
  const named = all.filter(({ name }) => only.some((text) => name.includes(text)));
  const sides = named.filter((side) => {
    const missing = missingValues(side, values);
    if (missing.length > 0) console.error(`left out: ${side.name} (--set ${missing[0]}=...)`);
    return missing.length === 0;
  });
  if (sides.length === 0) throw new RangeError(`Cannot compare: no side of ${file} is left`);
  const results = await benchVersus({
    sides,
    values,
    runtime,
    rounds: Number(rounds),
    minutesMax: Number(minutes),
    onRun: (name, round, outcome) => {
      const said = outcome instanceof Error
        ? outcome.message
        : `${outcome.msPerToken.toFixed(1)} ms`;
      console.error(`round ${round + 1}, ${name}: ${said}`);
    },
  });
  if (json) return console.log(JSON.stringify(results));
  console.log(`prompt of ${prompt}, ${tokens} tokens, medians of ${rounds}\n\n${render(results)}`);
}

function valuesOf(set: string[]): Record<string, string> {
  return Object.fromEntries(set.map((text) => {
    const at = text.indexOf("=");
    if (at < 1) throw new RangeError(`Cannot set "${text}": NAME=VALUE`);
    return [text.slice(0, at), text.slice(at + 1)];
  }));
}

/** What each took, and how many times as fast as each other it is. */
function render(results: SideResult[]): string {
  const width = Math.max(...results.map(({ name }) => name.length)) + 4;
  const ran = results.filter(({ runs }) => runs.length > 0);
  const middle = ({ runs }: SideResult, pick: (run: SideResult["runs"][number]) => number) =>
    median(runs.map(pick));
  const label = (result: SideResult) => `${results.indexOf(result) + 1}  ${result.name}`;
  const lines = ["".padEnd(width) + "   open s  first token s  ms/token (least to most)  peak MiB"];
  for (const result of results) {
    const { runs, failures } = result;
    if (runs.length === 0) {
      lines.push(`${label(result).padEnd(width)} failed: ${failures[0]}`);
      continue;
    }
    const times = runs.map(({ msPerToken }) => msPerToken);
    const peak = Math.max(...runs.map(({ peakBytes }) => peakBytes ?? NaN)) / 2 ** 20;
    lines.push(
      [
        label(result).padEnd(width),
        middle(result, (run) => run.openSeconds).toFixed(2).padStart(8),
        middle(result, (run) => run.firstTokenSeconds).toFixed(2).padStart(14),
        `${median(times).toFixed(1)} (${Math.min(...times).toFixed(1)} to ${
          Math.max(...times).toFixed(1)
        })`.padStart(26),
        (Number.isNaN(peak) ? "?" : peak.toFixed(0)).padStart(8),
      ].join(" ") + (failures.length > 0 ? `  then failed: ${failures[0]}` : ""),
    );
  }
  const table = (title: string, pick: (run: Took) => number) => [
    "",
    title.padEnd(width) + ran.map((r) => String(results.indexOf(r) + 1).padStart(8)).join(""),
    ...ran.map((row) =>
      label(row).padEnd(width) +
      ran.map((other) => (middle(other, pick) / middle(row, pick)).toFixed(2).padStart(8)).join("")
    ),
  ];
  lines.push(...table("ms/token: times as fast as", (run) => run.msPerToken));
  lines.push(...table("first token: times as fast as", (run) => run.firstTokenSeconds));
  return lines.join("\n");
}

if (import.meta.main) await main(process.argv.slice(2));
