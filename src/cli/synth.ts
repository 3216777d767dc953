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
Each has its family's sizes and forward pass. falcon-7b and phi-2 have ReLU, as they were relufied;
llama-7b has ProSparse's FATReLU, mistral-7b Bamboo's two ReLUs, persimmon-8b its own squared one;
mixtral-8x7b has experts, whose router names two of eight, and no predictors.

The weights are random, but for what makes a run show the statistics that "LLM in a flash" tells of
OPT 6.7B: how many neurons are active (of Falcon 5 %, of Llama, Mistral and Phi-2 10 %), how many a
predictor names, how many of them the last tokens named, too (\`flashpipe bench statistics OUT\`
measures them). The text that it generates has no meaning: it walks along a chain of made-up words.
Equal seeds give equal bytes.

Examples:
  flashpipe synth --shape opt-6.7b --quant q8 opt-6.7b.flash
  flashpipe synth --shape mixtral-8x7b --quant q4 mixtral.flash`;

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
