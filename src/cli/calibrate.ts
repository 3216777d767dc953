import { Command, Option } from "commander";
import { basename } from "node:path";
import process from "node:process";
import { FIT_METHODS } from "../fit/fit_plan.ts";
import type { CalibrateOptions } from "../fit/calibrate_options.ts";
import type { FitMethod } from "../fit/fit_plan.ts";
import { FlashFile } from "../format/flash_file.ts";
import { problemWithMagnitudes } from "../magnitude_cuts.ts";
import type { ReorderOptions, ReorderResult } from "../reorder.ts";
import { givenFile } from "./given_path.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { byteSize, realNumber, share, wholeNumber } from "./option_values.ts";
import { renderOrder } from "./reorder.ts";
import { Progress } from "./terminal/progress.ts";
import { readText } from "./text_file.ts";

const AFTER_HELP = `
The text is run through the model, layer by layer; then a predictor is trained for each layer, of the
rank that spares most reads within the bytes. Text like that of your use serves best; <|endoftext|>
ends a document. Of a long text as many places are sampled as the minutes allow: the embedded model
sees about 150 000 tokens in the two minutes of the default, a model of 1B parameters some thousand,
for which 30 minutes and more are well spent. Minutes are those of two cores; work is planned by them
and not by a clock, so that the same options give the same file.

Methods that train nothing keep the FFN's up rows in memory, in 1 bit a weight (sign-sketch) or 2 to
4 (low-bit), and need some thousand tokens for means and thresholds. Four bits take a quarter of what
the up rows take in f16, and name little more than what is active; one bit names several times that.

A model whose activation leaves hardly anything at zero (SiLU, GELU) gets no predictors: measured is how
large activations are, by which \`run --ffn magnitude --sparsity 50%\` leaves small ones out.

What is done is kept in FILE.calibration until the end, when the file is changed all at once. A run
that was stopped goes on there when it is started again with the same options.

Examples:
  flashpipe calibrate opt-6.7b.flash --text sample.txt --minutes 60
  flashpipe calibrate opt-6.7b.flash --text sample.txt --recall 98% --memory 4GiB
  flashpipe calibrate opt-6.7b.flash --text sample.txt --method low-bit --bits 3`;

interface CalibrateFlags {
  text: string;
  recall?: number;
  minutes?: number;
  memory?: number;
  bytesShare?: number;
  method?: FitMethod;
  bits?: number;
  fresh?: boolean;
  reorder?: boolean;
}

export function calibrateCommand(): Command {
  return new Command("calibrate")
    .description(
      "train the predictors of a .flash file on a text, or measure activations of SiLU and GELU",
    )
    .argument("<file>", "the .flash file")
    .requiredOption("--text <file>", "plain text to learn from")
    .option(
      "--recall <share>",
      "share of the active neurons to be found (default: 99%)",
      share,
    )
    .option(
      "--minutes <count>",
      "about how long it may take (default: 2)",
      realNumber({ min: 0, max: 1e5, isAbove: true }),
    )
    .option(
      "--memory <size>",
      "ceiling of the whole process, such as 512MiB (default: half of what is free, at most 2GiB)",
      byteSize,
    )
    .option(
      "--bytes-share <share>",
      "most bytes of low-rank predictors, as a share of the FFN's in f16 (default: 10%)",
      share,
    )
    .addOption(
      new Option(
        "--method <name>",
        "how predictors are made; all but trained take seconds, beside running the text (default: trained)",
      ).choices([...FIT_METHODS]),
    )
    .option(
      "--bits <count>",
      "bits that low-bit keeps of a weight, 2 to 4 (default: 4)",
      wholeNumber({ min: 2, max: 4 }),
    )
    .option(
      "--reorder",
      "then put neurons that are read together side by side (as \`reorder\` does; --memory does not bound it)",
    )
    .option("--fresh", "begin anew, whatever an unfinished run left")
    .addHelpText("after", AFTER_HELP)
    .action(calibrateFile);
}

async function calibrateFile(path: string, flags: CalibrateFlags): Promise<void> {
  givenFile(path);
  givenFile(flags.text);
  const { recall, minutes, memory, bytesShare: byteShare, method, bits, fresh } = flags;
  if (isMeasured(path)) return await measureFile(path, flags);
  if (flags.reorder) await checkOrderable(path);
  using interrupt = new Interrupt();
  using progress = new Progress();
  // Loaded when needed only: it would slow the start of every other command.
  const { calibrate } = await import("../calibrate.ts");
  const source = { path, text: readText(flags.text), textName: basename(flags.text) };
  await calibrate({
    ...source,
    recall,
    minutes,
    memory,
    byteShare,
    method,
    bits,
    fresh,
    onProgress: progressOf(progress),
    signal: interrupt.signal,
  });
  progress.stop();
  process.stdout.write(renderPredictors(path));
  if (!flags.reorder) return;
  const order = await reorderBy(source, progress, interrupt.signal);
  progress.stop();
  process.stdout.write(renderOrder(order));
}

function progressOf(progress: Progress): NonNullable<CalibrateOptions["onProgress"]> {
  let doneBefore: number | undefined;
  return ({ phase, done, total }) => {
    // What another run had done says nothing about this one's speed.
    doneBefore ??= done;
    const rest = { done: done - doneBefore, total: total - doneBefore };
    progress.update("calibrating", rest, phase);
  };
}

/** Whether hardly any neuron is zero, so that there is nothing to predict. */
function isMeasured(path: string): boolean {
  using file = FlashFile.open(path);
  return problemWithMagnitudes(file.header.config) === null;
}

/** Flags that are about predictors. */
const OF_PREDICTORS = ["recall", "bytesShare", "method", "bits", "reorder"] as const;

async function measureFile(path: string, flags: CalibrateFlags): Promise<void> {
  const { text, minutes, memory, fresh } = flags;
  const vain = OF_PREDICTORS.find((name) => flags[name] !== undefined);
  if (vain !== undefined) {
    const option = `--${vain.replace(/[A-Z]/, (letter) => `-${letter.toLowerCase()}`)}`;
    throw new RangeError(
      `Cannot calibrate ${path} with ${option}: hardly any of its neurons is zero, so it gets no predictors`,
    );
  }
  using interrupt = new Interrupt();
  using progress = new Progress();
  const { calibrateMagnitudes } = await import("../calibrate_magnitudes.ts");
  const { sparsities, layers } = await calibrateMagnitudes({
    path,
    text: readText(text),
    textName: basename(text),
    minutes,
    memory,
    fresh,
    onProgress: progressOf(progress),
    signal: interrupt.signal,
  });
  progress.stop();
  const shown = [0.25, 0.5, 0.75].map((share) => sparsities.indexOf(share));
  const rows = layers.map(({ cuts }, layer) =>
    String(layer).padStart(5) + shown.map((k) => cuts[k].toPrecision(3).padStart(11)).join("")
  );
  const titles = shown.map((k) => `${(100 * sparsities[k]).toFixed(0)} % below`.padStart(11));
  process.stdout.write(`layer${titles.join("")}\n${rows.join("\n")}\n`);
}

/** What an order would be refused for, before hours are spent on predictors. */
async function checkOrderable(path: string): Promise<void> {
  const { checkWidth } = await import("../reorder.ts");
  using file = FlashFile.open(path);
  checkWidth(file.header.config.intermediateSize);
}

async function reorderBy(
  source: Pick<ReorderOptions, "path" | "text" | "textName">,
  progress: Progress,
  signal: AbortSignal,
): Promise<ReorderResult> {
  const { reorder } = await import("../reorder.ts");
  return await reorder({
    ...source,
    onProgress: ({ phase, ...state }) => progress.update(phase, state),
    signal,
  });
}

function renderPredictors(path: string): string {
  using file = FlashFile.open(path);
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`.padStart(8);
  const { kind, layers } = file.header.predictors!;
  const rows = layers.map((layer, index) => {
    const { recall, predictedShare, activeShare } = layer;
    const size = "rank" in layer ? layer.rank : layer.bits;
    return `${String(index).padStart(5)} ${String(size).padStart(5)} ${percent(recall)} ` +
      `${percent(predictedShare)} ${percent(activeShare)}\n`;
  });
  return `layer  ${kind === "low-rank" ? "rank" : "bits"}   recall predicted  active\n${
    rows.join("")
  }`;
}
