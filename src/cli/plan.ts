import { Command, Option } from "commander";
import { basename } from "node:path";
import process from "node:process";
import { parseByteSize, parseShare } from "../byte_size.ts";
import { POLICY_NAMES } from "../cache/policies.ts";
import { READER_BACKENDS } from "../flash/reader_options.ts";
import type { OpenOptions } from "../open_options.ts";
import type { Probe } from "../probe/probe_result.ts";
import { givenFile } from "./given_path.ts";
import { ffnOption, recallOption, sparsityOption } from "./model_options.ts";
import { listOf, wholeNumber } from "./option_values.ts";
import { WholeFile } from "./whole_file.ts";

const GIBIBYTE = 2 ** 30;
/** Where the user names no budget: so many from the smallest to the one for all. */
const BUDGETS = 5;
/** Points of the plot. */
const PLOT_BUDGETS = 24;
const POSITION = 128;

const AFTER_HELP = `
Says, before anything is loaded, what would lie where and what a token would cost: the engine's own plan,
the file's miss curves, and the kept probe (without one it probes now, which takes under 10 s).

Examples:
  flashpipe plan opt-6.7b.flash --memory 3.5GiB
  flashpipe plan opt-6.7b.flash --memory 3GiB,3.5GiB,4GiB --context 1024 --json
  flashpipe plan opt-6.7b.flash --plot memory.svg     from the smallest memory to all of the model`;

interface PlanOptions extends
  Pick<
    OpenOptions,
    | "ffn"
    | "policy"
    | "recall"
    | "sparsity"
    | "window"
    | "backend"
    | "readers"
    | "lanes"
    | "context"
    | "prefetch"
  > {
  memory?: number[];
  ffnCache?: number[];
  position: number;
  json?: boolean;
  plot?: string;
}

export function planCommand(): Command {
  return new Command("plan")
    .description("foresee what lies in memory, and what a token costs, for any budgets")
    .argument("<file>", "the .flash file")
    .option(
      "--memory <sizes>",
      "ceilings of the process, such as 3GiB,3.5GiB",
      listOf(parseByteSize),
    )
    .option("--ffn-cache <shares>", "shares of the FFN's neurons instead", listOf(parseShare))
    .addOption(ffnOption())
    .addOption(new Option("--policy <name>", "which neurons make room").choices([...POLICY_NAMES]))
    .addOption(recallOption())
    .addOption(sparsityOption())
    .option(
      "--window <tokens>",
      "for the policies window and pinned",
      wholeNumber({ min: 1, max: 1e6 }),
    )
    .addOption(
      new Option("--backend <name>", "how readers ask the kernel").choices([...READER_BACKENDS]),
    )
    .option("--readers <count>", "flash readers", wholeNumber({ min: 1, max: 64 }))
    .option("--lanes <count>", "compute threads", wholeNumber({ min: 1, max: 64 }))
    .option(
      "--context <tokens>",
      "room for prompt and answer",
      wholeNumber({ min: 1, max: 2 ** 20 }),
    )
    .option("--no-prefetch", "without an early look")
    .option(
      "--position <tokens>",
      "tokens before the one that is foreseen",
      wholeNumber({ min: 0, max: 2 ** 20 }),
      POSITION,
    )
    .option("--json", "as JSON, for machines")
    .option("--plot <file>", "draw tokens/s and reads over memory, as SVG")
    .addHelpText("after", AFTER_HELP)
    .action(planFile);
}

async function planFile(path: string, options: PlanOptions): Promise<void> {
  givenFile(path);
  const { memory, ffnCache, position, json, plot, ...run } = options;
  if (memory && ffnCache) throw new RangeError("Cannot plan for memory and for shares at once");
  // Loaded when needed only: it would slow the start of every other command.
  const { Planner } = await import("../forecast/planner.ts");
  using svg = plot === undefined ? undefined : new WholeFile(plot);
  const planner = new Planner(path, run, { position });
  // Refusals first: a probe takes seconds.
  for (const budget of memory ?? []) planner.prepare({ memory: budget });
  const { probe, kept, isNew } = await probeFor(path, planner);
  planner.use(probe);
  const budgets = memory?.map((size) => ({ memory: size })) ??
    ffnCache?.map((share) => ({ ffnCache: share })) ?? planner.budgets(BUDGETS);
  const rows = budgets.map((budget) => ({
    now: planner.forecast(budget),
    next: "memory" in budget ? planner.forecast({ memory: budget.memory + GIBIBYTE }) : null,
  }));
  if (svg) {
    const { renderPlot } = await import("./plot.ts");
    const { planPlot } = await import("../forecast/plan_plot.ts");
    const points = planner.budgets(PLOT_BUDGETS).map((budget) => planner.forecast(budget));
    svg.finish(await renderPlot(planPlot(points, basename(path))));
  }
  const smallestMemoryBytes = planner.smallestBytes;
  if (json) {
    const result = { model: path, smallestMemoryBytes, probe: { kept, isNew }, budgets: rows };
    process.stdout.write(`${JSON.stringify(result)}\n`);
    return;
  }
  const { renderForecasts } = await import("../forecast/render_forecasts.ts");
  process.stdout.write(renderForecasts(planner.describe(rows[0].now), rows, smallestMemoryBytes));
}

/** The kept probe, or one that is made now: told, as it takes a while. */
async function probeFor(
  path: string,
  planner: { covers(probe: Probe): boolean },
): Promise<{ probe: Probe; kept: string | null; isNew: boolean }> {
  const { findProbe } = await import("../probe/kept_probe.ts");
  const found = findProbe(path);
  if (found.probe && planner.covers(found.probe)) {
    return { probe: found.probe, kept: found.path, isNew: false };
  }
  const why = found.reason || (found.probe ? "it has not what is asked for" : "there is none");
  process.stderr.write(`Probing this machine (a kept probe is not used: ${why})\n`);
  const { probeAndKeep } = await import("./probe.ts");
  const { probe, kept } = await probeAndKeep(path);
  return { probe, kept, isNew: true };
}
