import { Command } from "commander";
import { basename } from "node:path";
import process from "node:process";
import { formatBytes } from "../byte_size.ts";
import type { FfnChoice } from "../pipeline/options.ts";
import { givenFile } from "./given_path.ts";
import { ffnOption, sparsityOption } from "./model_options.ts";
import { wholeNumber } from "./option_values.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";
import { readText } from "./text_file.ts";
import { WholeFile } from "./whole_file.ts";

const AFTER_HELP = `
Records which neurons each layer of each token used: those that were active, and if the file has
predictors those that the late look and the early look named. Of experts they are those of the router's choice;
of experts with ReLU --ffn exact records the neurons that \`exact\` reads, and --ffn magnitude --sparsity SHARE
those that it computes. docs/trace_format.md tells the bytes.

Example:
  flashpipe trace opt-6.7b.flash --text sample.txt --tokens 2000
  flashpipe simulate opt-6.7b.trace`;

export function traceCommand(): Command {
  return new Command("trace")
    .description("record which neurons a text uses, for \`simulate\`")
    .argument("<file>", "the .flash file")
    .argument("[out]", "the trace (default: the file's name with .trace)")
    .requiredOption("--text <file>", "plain text to run through the model")
    .option("-n, --tokens <count>", "stop after so many", wholeNumber({ min: 1, max: 1e9 }), 4000)
    .addOption(ffnOption())
    .addOption(sparsityOption())
    .addHelpText("after", AFTER_HELP)
    .action(traceFile);
}

async function traceFile(
  path: string,
  out: string | undefined,
  { text, tokens, ffn, sparsity }: {
    text: string;
    tokens: number;
    ffn?: FfnChoice;
    sparsity?: number;
  },
): Promise<void> {
  givenFile(path);
  givenFile(text);
  const target = out ?? `${path.replace(/\.flash$/, "")}.trace`;
  using file = new WholeFile(target);
  using interrupt = new Interrupt();
  using progress = new Progress();
  // Loaded when needed only: it would slow the start of every other command.
  const { recordTrace } = await import("../simulate/record_trace.ts");
  let byteLength = 0;
  const tokenCount = await recordTrace({
    path,
    text: readText(text),
    textName: basename(text),
    tokensMax: tokens,
    open: { ...(ffn && { ffn }), ...(sparsity !== undefined && { sparsity }) },
    write: (bytes) => {
      byteLength += bytes.byteLength;
      file.append(bytes);
    },
    onProgress: (state) => progress.update("recording", state),
    signal: interrupt.signal,
  });
  file.finish();
  progress.stop();
  process.stdout.write(`${target}: ${tokenCount} tokens, ${formatBytes(byteLength)}\n`);
}
