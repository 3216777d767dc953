import { Command, Option } from "commander";
import { existsSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { formatBytes } from "../byte_size.ts";
import { printable } from "../errors.ts";
import type { Quantization } from "../format/layout.ts";
import { QUANTIZATIONS } from "../format/layout.ts";
import { pack } from "../format/pack.ts";
import { givenFolder, givenTarget } from "./given_path.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";

const AFTER_HELP = `
SOURCE holds config.json, *.safetensors (f32, f16 or bf16, sharded or not) and tokenizer.json.
It is read piece by piece: memory does not grow with the model. OUT appears when it is whole.

Example:
  flashpipe pack ./opt-6.7b opt-6.7b.flash --quant q8`;

export function packCommand(): Command {
  return new Command("pack")
    .description("make a .flash file from a Hugging Face folder")
    .argument("<source>", "folder of the model")
    .argument("<out>", "the .flash file to make")
    .addOption(
      new Option("--quant <kind>", "how weights are stored").choices([...QUANTIZATIONS])
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--ffn-quant <kind>", "how the FFN's bundles are stored, if otherwise")
        .choices([...QUANTIZATIONS]),
    )
    .option("--force", "replace OUT if it exists")
    .addHelpText("after", AFTER_HELP)
    .action(packFolder);
}

interface PackFlags {
  quant: Quantization;
  ffnQuant?: Quantization;
  force?: boolean;
}

async function packFolder(
  source: string,
  target: string,
  { quant, ffnQuant = quant, force = false }: PackFlags,
): Promise<void> {
  givenFolder(source);
  if (!existsSync(join(source, "config.json"))) {
    throw new RangeError(`Cannot pack ${source}: it has no config.json, so it holds no model`);
  }
  givenTarget(target, { mayExist: force });
  using interrupt = new Interrupt();
  using progress = new Progress();
  const { byteLength, header, ignoredTensors } = await pack({
    source,
    target,
    quant,
    ffnQuant,
    signal: interrupt.signal,
    onProgress: ({ doneBytes: done, totalBytes: total }) =>
      progress.update("packing", { done, total }),
  });
  progress.stop();
  const ignored = ignoredTensors.length > 0
    ? `Tensors without use: ${printable(ignoredTensors.join(", "))}\n`
    : "";
  const form = ffnQuant === quant ? quant : `${quant}, bundles as ${ffnQuant}`;
  process.stderr.write(
    `${target}: ${formatBytes(byteLength)}, ${header.config.numLayers} layers as ${form}\n` +
      `${ignored}Next: flashpipe calibrate ${target} --text FILE fits its predictors; ` +
      `until then it runs with --ffn exact or dense.\n`,
  );
}
