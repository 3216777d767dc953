import { Command } from "commander";
import { basename } from "node:path";
import process from "node:process";
import type { EvaluateProgress } from "../eval.ts";
import type { Evaluation } from "../evaluation.ts";
import type { FfnChoice } from "../pipeline/options.ts";
import { renderEvaluation } from "./evaluation_report.ts";
import { evaluationPlot } from "./evaluation_plot.ts";
import { givenFile } from "./given_path.ts";
import { ffnCacheOption, ffnOption, recallOption, sparsityOption } from "./model_options.ts";
import { byteSize, wholeNumber } from "./option_values.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";
import { readText } from "./text_file.ts";
import { WholeFile } from "./whole_file.ts";

interface EvalOptions {
  text: string;
  tokens?: number;
  ffn?: FfnChoice;
  recall?: number;
  sparsity?: number;
  ffnCache?: number;
  memory?: number;
  reference: boolean;
  json?: boolean;
  plot?: string;
}

const AFTER_HELP = `
Documents of the text end with <|endoftext|>; they are cut into chunks of the context's length, each run
with an empty KV cache, and the tokens of a chunk from the second on are scored. Use other text than that
of the calibration.

Dense runs beside it, as the reference. It takes memory of its own, and streams all neurons for every
token where they do not fit: right, but slow (--no-reference does without). Ctrl-C ends the evaluation
with what was measured until then.

Per layer: active (its activation is not zero), predicted (named by the predictor, so computed), recall
(active ones that were predicted), precision (predicted ones that are active), lost mass (share of the
sum of activations that was not predicted), hit rate (computed ones that were in memory already).

Examples:
  flashpipe eval opt-6.7b.flash --text other.txt --memory 4GiB --tokens 5000
  flashpipe eval tales.flash --text tales.txt --ffn-cache 20% --plot layers.svg
  flashpipe eval llama.flash --text other.txt --ffn magnitude --sparsity 50%`;

export function evalCommand(): Command {
  return new Command("eval")
    .description(
      "measure a .flash file on a text: perplexity, divergence from dense, recall, reads",
    )
    .argument("<file>", "the .flash file")
    .requiredOption("--text <file>", "plain text to measure on")
    .option(
      "--tokens <count>",
      "stop after so many tokens (default: the whole text)",
      wholeNumber({ min: 2, max: 2 ** 31 - 1 }),
    )
    .addOption(ffnOption())
    .addOption(recallOption())
    .addOption(sparsityOption())
    .addOption(ffnCacheOption())
    .option(
      "--memory <size>",
      "ceiling as for run; the reference comes on top of it, and up to 1 GiB to measure recall",
      byteSize,
    )
    .option("--no-reference", "do not compare with dense")
    .option("--json", "as JSON, for machines")
    .option("--plot <file>", "draw the layers into an SVG file")
    .addHelpText("after", AFTER_HELP)
    .action(evalFile);
}

async function evalFile(path: string, options: EvalOptions): Promise<void> {
  const { tokens: tokensMax, ffn, recall, sparsity, ffnCache, memory } = options;
  const { json = false, plot } = options;
  if (plot !== undefined && ffn === "dense") {
    throw new RangeError("Cannot plot the layers of dense: it predicts nothing and keeps no cache");
  }
  givenFile(path);
  const text = readText(givenFile(options.text));
  using svg = plot === undefined ? undefined : new WholeFile(plot);
  using interrupt = new Interrupt();
  using progress = new Progress();
  // Loaded when needed only: it would slow the start of every other command.
  const { evaluate } = await import("../eval.ts");
  const evaluation = await evaluate({
    path,
    text,
    tokensMax,
    ffn,
    recall,
    sparsity,
    ffnCache,
    memory,
    reference: options.reference ? undefined : false,
    onProgress: ({ done, total, ...phase }) => progress.update(labelOf(phase), { done, total }),
    signal: interrupt.signal,
  });
  progress.stop();
  process.stdout.write(
    json ? `${JSON.stringify(evaluation)}\n` : renderEvaluation(evaluation),
  );
  if (svg) {
    const { renderPlot } = await import("./plot.ts");
    svg.finish(await renderPlot(evaluationPlot(evaluation, titleOf(evaluation))));
  }
  if (interrupt.signal.aborted) process.exitCode = interrupt.signal.reason.exitCode;
}

function labelOf(
  { phase, streamsReference }: Pick<EvaluateProgress, "phase" | "streamsReference">,
): string {
  if (phase === "evaluating" && streamsReference) {
    return "evaluating (slow: dense does not fit in memory and is streamed; --no-reference leaves it out)";
  }
  return phase;
}

function titleOf({ model, ffn, tokens }: Evaluation): string {
  return `${basename(model)}, ${ffn}, ${tokens} tokens`;
}
