import { Command } from "commander";
import process from "node:process";
import { MemoryBudgetError } from "../errors.ts";
import { inspect, renderInspection } from "../format/inspect.ts";
import { open } from "../open.ts";
import { FFN_CHOICES } from "../pipeline/options.ts";
import type { FfnChoice } from "../pipeline/options.ts";
import { givenFile } from "./given_path.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";

const AFTER_HELP = `
Example:
  flashpipe inspect opt-6.7b.flash --verify

With --verify the exit code is 1 if a checksum is wrong.`;

export function inspectCommand(): Command {
  return new Command("inspect")
    .description("explain a .flash file: sizes, layers, predictors, smallest memory")
    .argument("<file>", "the .flash file")
    .option("--verify", "read all of it and compare the checksums")
    .option("--json", "as JSON, for machines")
    .addHelpText("after", AFTER_HELP)
    .action(inspectFile);
}

async function inspectFile(
  path: string,
  { verify = false, json = false }: { verify?: boolean; json?: boolean },
): Promise<void> {
  givenFile(path);
  using interrupt = new Interrupt();
  using progress = new Progress();
  const inspection = await inspect(path, {
    verify,
    signal: interrupt.signal,
    onProgress: ({ doneBytes: done, totalBytes: total }) =>
      progress.update("checking", { done, total }),
  });
  progress.stop();
  if (json) {
    const smallestMemoryBytes = Object.fromEntries(
      await Promise.all(FFN_CHOICES.map(async (ffn) => [ffn, await smallestMemoryOf(path, ffn)])),
    );
    process.stdout.write(`${JSON.stringify({ ...inspection, smallestMemoryBytes })}\n`);
  } else {
    const smallestMemoryBytes = await smallestMemoryOf(path) ?? undefined;
    process.stdout.write(renderInspection(inspection, { smallestMemoryBytes }));
  }
  if (inspection.checksums?.ok === false) process.exitCode = 1;
}

/**
 * The smallest memory that `run` would accept here with its defaults, in bytes: asked of `open` itself, which plans (and
 * refuses) before it loads anything. `null`: the file does not run in this mode.
 */
async function smallestMemoryOf(path: string, ffn?: FfnChoice): Promise<number | null> {
  try {
    // What is left out changes no memory.
    const sparsity = ffn === "magnitude" ? 0.5 : undefined;
    await using _model = await open(path, { memory: 1, ffn, sparsity });
    return null;
  } catch (error) {
    if (error instanceof MemoryBudgetError) return error.requiredBytes;
    if (error instanceof RangeError) return null;
    throw error;
  }
}
