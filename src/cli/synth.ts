import { Command, Option } from "commander";
import process from "node:process";
import { formatBytes } from "../byte_size.ts";
import { QUANTIZATIONS } from "../format/layout.ts";
import type { Quantization } from "../format/layout.ts";
import { SHAPE_NAMES } from "../synth/shapes.ts";
import { givenTarget } from "./given_path.ts";
import { wholeNumber } from "./option_values.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";

const AFTER_HELP = `
Shapes: ${SHAPE_NAMES.join(", ")}.
All are computed as OPT. llama-7b and mistral-7b are OPT-like models of that width, depth and
vocabulary: their FFN has two matrices with the bytes of the real three; falcon-7b has OPT's
attention. \`tiny\` is for tests.

The weights are random, but for what makes a run show the statistics of "LLM in a flash" for OPT 6.7B:
how many neurons are active, how many a predictor names, how many of them the last tokens named, too
(\`flashpipe bench statistics OUT\` measures them). The text that it generates has no meaning: it walks along
a chain of made-up words. Equal seeds give equal bytes.

Example:
  flashpipe synth --shape opt-6.7b --quant q8 opt-6.7b.flash`;

interface SynthOptions {
  shape: string;
  quant: Quantization;
  ffnQuant?: Quantization;
  seed: number;
  force?: boolean;
}

export function synthCommand(): Command {
  return new Command("synth")
    .description("make a .flash file of random weights in a model's exact shape, for measuring")
    .argument("<out>", "the .flash file to make")
    .requiredOption("--shape <name>", "the shape (see below)")
    .addOption(
      new Option("--quant <kind>", "how weights are stored").choices([...QUANTIZATIONS])
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--ffn-quant <kind>", "how the FFN's bundles are stored, if otherwise")
        .choices([...QUANTIZATIONS]),
    )
    .option(
      "--seed <number>",
      "of all random numbers",
      wholeNumber({ min: 0, max: 2 ** 31 - 1 }),
      1,
    )
    .option("--force", "replace OUT if it exists")
    .addHelpText("after", AFTER_HELP)
    .action(synthFile);
}

async function synthFile(
  target: string,
  { shape, quant, ffnQuant = quant, seed, force = false }: SynthOptions,
): Promise<void> {
  givenTarget(target, { mayExist: force });
  using interrupt = new Interrupt();
  using progress = new Progress();
  // Loaded when needed only: it would slow the start of every other command.
  const { synthesize } = await import("../synth/synthesize.ts");
  const { byteLength } = await synthesize({
    shape,
    target,
    quant,
    ffnQuant,
    seed,
    signal: interrupt.signal,
    onProgress: ({ doneBytes: done, totalBytes: total }) =>
      progress.update("making", { done, total }),
  });
  progress.stop();
  const form = ffnQuant === quant ? quant : `${quant}, bundles as ${ffnQuant}`;
  process.stderr.write(
    `${target}: ${
      formatBytes(byteLength)
    } of random weights in the shape of ${shape} as ${form}: ` +
      `for measuring, not for text\n`,
  );
}
