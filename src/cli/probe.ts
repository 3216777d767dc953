import { Command } from "commander";
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import process from "node:process";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";
import { WholeFile } from "./whole_file.ts";

const AFTER_HELP = `
Takes under 10 s. A model file is read as it is; in a folder a file of 256 MiB is made, read and taken away.
The result is kept beside it (.flashpipe-probe.json), or in the cache folder where that cannot be written:
\`run\` then chooses by it how to read, and \`plan\` says how long a token will take.

Examples:
  flashpipe probe opt-6.7b.flash
  flashpipe probe /mnt/models --json
  flashpipe probe opt-6.7b.flash --plot disk.svg`;

interface ProbeWishes {
  keep: boolean;
  json?: boolean;
  plot?: string;
}

export function probeCommand(): Command {
  return new Command("probe")
    .description("measure disk, memory and kernels, and keep the result for run and plan")
    .argument("[path]", "a .flash file, or a folder on the disk that is meant (default: here)", ".")
    .option("--no-keep", "do not keep the result")
    .option("--json", "as JSON, for machines")
    .option("--plot <file>", "draw reads a second over their size, as SVG")
    .addHelpText("after", AFTER_HELP)
    .action(probePath);
}

async function probePath(path: string, { keep, json, plot }: ProbeWishes): Promise<void> {
  if (!existsSync(path)) throw new RangeError(`Cannot probe ${path}: there is no such path`);
  using svg = plot === undefined ? undefined : new WholeFile(plot);
  // Loaded when needed only: it would slow the start of every other command.
  const { renderProbe } = await import("../probe/render_probe.ts");
  const { probe, kept, seconds } = await probeAndKeep(path, { keep });
  if (svg) {
    const { renderPlot } = await import("./plot.ts");
    const { probePlot } = await import("../probe/probe_plot.ts");
    svg.finish(await renderPlot(probePlot(probe)));
  }
  if (json) process.stdout.write(`${JSON.stringify({ ...probe, kept })}\n`);
  else process.stdout.write(renderProbe(probe, { kept, seconds, isKept: keep }));
}

/** Probes with progress on stderr and keeps the result; Ctrl-C ends it and leaves no file behind. */
export async function probeAndKeep(path: string, { keep = true } = {}) {
  const { probe: measure } = await import("../probe/probe.ts");
  const { keepProbe } = await import("../probe/kept_probe.ts");
  using interrupt = new Interrupt();
  using progress = new Progress();
  const began = performance.now();
  const probe = await measure(path, {
    signal: interrupt.signal,
    onProgress: ({ done, total, phase }) => progress.update("probing", { done, total }, phase),
  });
  progress.stop();
  const kept = keep ? keepProbe(probe, path) : null;
  if (keep && kept === null) {
    const folder = dirname(path);
    process.stderr.write(`The probe is not kept: neither ${folder} nor a cache folder is ours\n`);
  }
  return { probe, kept, seconds: (performance.now() - began) / 1000 };
}
