import { Command, InvalidArgumentError } from "commander";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import process from "node:process";
import { parseByteSize, parseShare } from "../byte_size.ts";
import { POLICY_NAMES } from "../cache/policies.ts";
import type { PolicyName } from "../cache/policies.ts";
import type { NeuronTrace } from "../simulate/neuron_trace.ts";
import type { LimitName, SimulatedRow, WindowPoint } from "../simulate/simulate.ts";
import { givenFile } from "./given_path.ts";
import { listOf } from "./option_values.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";
import { WholeFile } from "./whole_file.ts";

const CACHE_SHARES = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1];
const WINDOW_MAX = 1e6;

type Chosen = PolicyName | LimitName;
const CHOICES: readonly Chosen[] = [...POLICY_NAMES, "belady", "belady-divided"];
const DEFAULT_CHOICES = CHOICES.filter((name) => name !== "window");

const AFTER_HELP = `
Replays the trace by the engine's own cache, policies and read plan. belady is the limit: the policy
that knows what comes, with the engine's slots for each layer; belady-divided also divides them best.
A quarter of the trace (at most 512 tokens) only fills the cache.

With --window alone: what a window of so many tokens holds and reads if there is room for all.

Examples:
  flashpipe simulate opt.trace --cache 5%,10%,20% --plot policies.svg
  flashpipe simulate opt.trace --window 1..16 --plot window.svg
  flashpipe simulate opt.trace --cache 20% --policy frequency,window --window 4,8 --gap 0,8KiB`;

interface SimulateWishes {
  cache?: number[];
  policy?: Chosen[];
  window?: number[];
  gap?: number[];
  early?: boolean;
  json?: boolean;
  plot?: string;
}

export function simulateCommand(): Command {
  return new Command("simulate")
    .description("replay a trace against cache sizes, policies and read plans")
    .argument("<trace>", "a file that \`flashpipe trace\` wrote")
    .option("--cache <shares>", "shares of the FFN's neurons, such as 5%,20%", listOf(parseShare))
    .option(
      "--policy <names>",
      `some of ${CHOICES.join(", ")} (default: all but window)`,
      listOf(choice),
    )
    .option("--window <tokens>", "windows, such as 1..16 or 2,4,8", windows)
    .option("--gap <sizes>", "merge reads with at most this between them (default: 8KiB)", gaps)
    .option("--early", "the early look starts reads, as it does in the engine")
    .option("--json", "as JSON, for machines")
    .option("--plot <file>", "draw it as SVG")
    .addHelpText("after", AFTER_HELP)
    .action(simulateFile);
}

async function simulateFile(path: string, wishes: SimulateWishes): Promise<void> {
  givenFile(path);
  const { json = false, early = false } = wishes;
  using svg = wishes.plot === undefined ? undefined : new WholeFile(wishes.plot);
  using interrupt = new Interrupt();
  using progress = new Progress();
  // Loaded when needed only: it would slow the start of every other command.
  const { NeuronTrace } = await import("../simulate/neuron_trace.ts");
  const trace = NeuronTrace.parse(readFileSync(path), path);
  if (early && !trace.has("early")) {
    throw new RangeError(`Cannot look early as ${path} was recorded without predictors`);
  }
  const isCurve = wishes.window !== undefined && !wishes.policy && !wishes.cache;
  const run = isCurve ? runWindows : runPolicies;
  const { text, result, spec } = await run(trace, wishes, async (done, total) => {
    progress.update("replaying", { done, total });
    await new Promise((resolve) => setTimeout(resolve, 0));
    interrupt.signal.throwIfAborted();
  });
  progress.stop();
  if (svg) {
    const { renderPlot } = await import("./plot.ts");
    svg.finish(await renderPlot(spec()));
  }
  const facts = { trace: basename(path), tokens: trace.tokenCount, listed: trace.listed };
  process.stdout.write(json ? `${JSON.stringify({ ...facts, ...result })}\n` : text);
}

type Tick = (done: number, total: number) => Promise<void>;

async function runPolicies(trace: NeuronTrace, wishes: SimulateWishes, tick: Tick) {
  const { rowCountOf, simulate } = await import("../simulate/simulate.ts");
  const { policyPlot } = await import("../simulate/plots.ts");
  const policies = wishes.policy ?? (wishes.window ? [...CHOICES] : DEFAULT_CHOICES);
  if (policies.includes("window") && !wishes.window) {
    throw new RangeError("Cannot replay the policy window without its tokens: give --window too");
  }
  const options = {
    cacheShares: wishes.cache ?? CACHE_SHARES,
    policies,
    windows: wishes.window,
    gaps: wishes.gap,
    earlyLook: wishes.early,
  };
  const rows: SimulatedRow[] = [];
  for (const row of simulate(trace, options)) {
    rows.push(row);
    await tick(rows.length, rowCountOf(options));
  }
  return { text: renderRows(rows), result: { rows }, spec: () => policyPlot(rows, titleOf(trace)) };
}

async function runWindows(trace: NeuronTrace, { window = [] }: SimulateWishes, tick: Tick) {
  const { windowCurve } = await import("../simulate/simulate.ts");
  const { windowPlot } = await import("../simulate/plots.ts");
  const points: WindowPoint[] = [];
  for (const point of windowCurve(trace, window)) {
    points.push(point);
    await tick(points.length, window.length);
  }
  const text = points.map(({ window, residentShare, readShare }) =>
    `${String(window).padStart(6)} ${percent(residentShare)} ${percent(readShare)}\n`
  );
  return {
    text: `window  in memory read a token\n${text.join("")}`,
    result: { windows: points },
    spec: () => windowPlot(points, titleOf(trace)),
  };
}

function titleOf({ header, tokenCount, listed }: NeuronTrace): string {
  return `${header.modelName}, ${listed} neurons of ${tokenCount} tokens of ${header.textName}`;
}

function renderRows(rows: readonly SimulatedRow[]): string {
  const number = (value: number) => value.toFixed(1).padStart(8);
  const lines = rows.map((row) => {
    const limit = rows.find(({ policy, cacheShare, gapBytes }) =>
      policy === "belady" && cacheShare === row.cacheShare && gapBytes === row.gapBytes
    );
    const ratio = limit && limit.bytesPerToken > 0 ? row.bytesPerToken / limit.bytesPerToken : NaN;
    return `${percent(row.cacheShare)}  ${row.policy.padEnd(14)} ${percent(row.hitRate)} ` +
      `${number(row.missesPerToken)} ${number(row.readsPerToken)} ` +
      `${number(row.bytesPerToken / 1024)} ${percent(row.residentShare)} ${
        String(row.gapBytes).padStart(6)
      } ${Number.isNaN(ratio) ? "" : `${ratio.toFixed(2)}x`.padStart(8)}`.trimEnd() + "\n";
  });
  return "   cache  policy             hits   misses    reads      KiB resident    gap" +
    `  of belady\n${lines.join("")}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`.padStart(8);
}

function choice(text: string): Chosen {
  const found = CHOICES.find((name) => name === text);
  if (!found) throw new InvalidArgumentError(`"${text}" is none of ${CHOICES.join(", ")}.`);
  return found;
}

/** "1..4" and "2,4" into whole numbers. */
function windows(text: string): number[] {
  return listOf((part) => {
    const [first, last = first] = part.split("..").map((end) => /^\d+$/.test(end) ? +end : NaN);
    if (!(first >= 1 && last >= first && last <= WINDOW_MAX && last - first < 1000)) {
      throw new InvalidArgumentError(`It takes windows such as 1..16 or 2,4,8.`);
    }
    return Array.from({ length: last - first + 1 }, (_, k) => first + k);
  })(text).flat();
}

const gaps = listOf((part) => part === "0" ? 0 : parseByteSize(part));
