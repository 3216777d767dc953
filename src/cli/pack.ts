import { Command, Option } from "commander";
import { existsSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { isSparse } from "../activation.ts";
import { formatBytes } from "../byte_size.ts";
import { printable } from "../errors.ts";
import type { FlashHeader } from "../format/header.ts";
import type { Quantization } from "../format/layout.ts";
import { QUANTIZATIONS } from "../format/layout.ts";
import { givenFile, givenFolder, givenTarget } from "./given_path.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";

const AFTER_HELP = `
SOURCE is a folder or a GGUF file, of this machine or of a hub: hf:OWNER/NAME, hf:OWNER/NAME@REVISION,
hf:OWNER/NAME/FILE.gguf (HF_TOKEN opens models that are not open to all; HF_ENDPOINT names another hub). A folder holds config.json, *.safetensors or pytorch_model*.bin (f32, f16
or bf16, sharded or not) and tokenizer.json, or vocab.json and merges.txt. Pickles are parsed, never executed.
A GGUF file does not say which activation its model has: where it is not the family's usual one, such as
the ReLU that makes a Llama sparse, give --config.
SOURCE is read piece by piece: memory does not grow with the model. OUT appears when it is whole. From a
hub nothing else is kept; a process that was stopped leaves OUT.partial, where the same command goes on.

Example:
  flashpipe pack ./opt-6.7b opt-6.7b.flash --quant q8 --ffn-quant q4
  flashpipe pack hf:facebook/opt-1.3b opt-1.3b.flash --quant q8`;

export function packCommand(): Command {
  return new Command("pack")
    .description(
      "make a .flash file from a Hugging Face folder, a GGUF file, or a model on the hub",
    )
    .argument("<source>", "folder of the model, or GGUF file")
    .argument("<out>", "the .flash file to make")
    .addOption(
      new Option("--quant <kind>", "how weights are stored").choices([...QUANTIZATIONS])
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--ffn-quant <kind>", "how the FFN's bundles are stored, if otherwise")
        .choices([...QUANTIZATIONS]),
    )
    .option(
      "--keep-zeros",
      "keep the zeros of a pruned model's FFN: faster in memory, more to read",
    )
    .option("--config <file>", "a config.json in place of the source's own")
    .option("--force", "replace OUT if it exists")
    .addHelpText("after", AFTER_HELP)
    .action(packModel);
}

interface PackFlags {
  quant: Quantization;
  ffnQuant?: Quantization;
  keepZeros?: boolean;
  config?: string;
  force?: boolean;
}

async function packModel(
  source: string,
  target: string,
  { quant, ffnQuant = quant, keepZeros, config, force = false }: PackFlags,
): Promise<void> {
  // Loaded here, as readers of every format are large, and other commands start faster without them.
  const { isGguf } = await import("../checkpoint/model_source.ts");
  const { isHubAddress, parseHubAddress } = await import("../hub/hub_repo.ts");
  const { pack } = await import("../format/pack.ts");
  if (isHubAddress(source)) parseHubAddress(source);
  else if (isGguf(source)) givenFile(source);
  else {
    givenFolder(source);
    if (config === undefined && !existsSync(join(source, "config.json"))) {
      throw new RangeError(`Cannot pack ${source}: it has no config.json, so it holds no model`);
    }
  }
  if (config !== undefined) givenFile(config);
  givenTarget(target, { mayExist: force });
  using interrupt = new Interrupt();
  using progress = new Progress();
  const { byteLength, header, ignoredTensors } = await pack({
    source,
    target,
    quant,
    ffnQuant,
    keepZeros,
    configPath: config,
    hub: isHubAddress(source)
      ? { endpoint: process.env.HF_ENDPOINT, token: process.env.HF_TOKEN }
      : undefined,
    signal: interrupt.signal,
    // From a hub it is the way here that takes time.
    onProgress: ({ fetched, part, ...written }) => {
      const { doneBytes: done, totalBytes: total } = fetched ?? written;
      progress.update(part.endsWith(".zeros") ? "counting zeros" : "packing", { done, total });
    },
  });
  progress.stop();
  const ignored = ignoredTensors.length > 0
    ? `Tensors without use: ${printable(ignoredTensors.join(", "))}\n`
    : "";
  const kind = ffnQuant === quant ? quant : `${quant}, bundles as ${ffnQuant}`;
  const form = header.ffnCapacities ? `${kind}, bundles without their zeros` : kind;
  process.stderr.write(
    `${target}: ${formatBytes(byteLength)}, ${header.config.numLayers} layers as ${form}\n` +
      `${ignored}${nextOf(target, header)}\n`,
  );
}

/** What to do with a new file. */
function nextOf(target: string, { config }: FlashHeader): string {
  if (config.experts) return "It runs as its router says: flashpipe run --model " + target;
  const next = `Next: flashpipe calibrate ${target} --text FILE`;
  return isSparse(config)
    ? `${next} fits its predictors; until then it runs with --ffn exact or dense.`
    : `It runs with --ffn dense, as ${config.ffn.activation} leaves hardly anything at zero. ${next} ` +
      "measures what --ffn magnitude may leave out, which is approximate.";
}
