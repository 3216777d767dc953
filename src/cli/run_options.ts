import { POLICY_NAMES } from "../cache/policies.ts";
import type { PolicyName } from "../cache/policies.ts";
import { READER_BACKENDS } from "../flash/reader_options.ts";
import type { ReaderBackend } from "../flash/reader_options.ts";
import { InvalidArgumentError, Option } from "commander";
import type { Command } from "commander";
import type { KernelBuild } from "../kernels.ts";
import { KV_QUANTIZATIONS } from "../kv_page.ts";
import type { KvQuantization } from "../kv_page.ts";
import type { FfnChoice } from "../pipeline/options.ts";
import { ffnCacheOption, ffnOption, recallOption, sparsityOption } from "./model_options.ts";
import { byteSize, realNumber, wholeNumber } from "./option_values.ts";

/** What the user asked `flashpipe run` for. */
export interface RunOptions {
  model?: string;
  memory?: number;
  ffnCache?: number;
  ffn?: FfnChoice;
  policy?: PolicyName;
  recall?: number;
  sparsity?: number;
  window?: number;
  backend?: ReaderBackend;
  readers?: number;
  lanes?: number;
  context?: number;
  kv?: KvQuantization;
  promptChunk?: number;
  drafts?: number;
  prefetch: boolean;
  kernels?: KernelBuild;
  audit?: boolean;
  maxTokens: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  logitBias: [number, number][];
  stop: string[];
  jsonSchema?: string;
  seed?: number;
  chat?: boolean;
  system?: string;
  json?: boolean;
  trace?: string;
  quiet?: boolean;
}

const SEED_MAX = 2 ** 32 - 1;

const AFTER_HELP = `
Without --model the embedded model is used: it is packed and calibrated into the cache folder
($XDG_CACHE_HOME or ~/.cache) at the first run. The text goes to stdout, all else to stderr.

Examples:
  flashpipe run "Once upon a time"
  flashpipe run --model opt.flash --memory 3.5GiB --temperature 0 "The sea"
  echo "The old king" | flashpipe run --max-tokens 50 --json
  flashpipe run                                       a chat, at a terminal`;

/** "50256:-100" behind those that were given before. */
function biasOf(text: string, before: [number, number][]): [number, number][] {
  const [, id, value] = /^(\d+):(-?(?:\d+(?:\.\d+)?|inf))$/.exec(text.trim()) ?? [];
  if (id === undefined) throw new InvalidArgumentError("It takes ID:NUMBER, such as 50256:-100.");
  return [...before, [Number(id), value === "-inf" ? -Infinity : Number(value)]];
}

/** Declares arguments and options of `flashpipe run`; values that make no sense are refused while parsing. */
export function addRunOptions(command: Command): Command {
  return command
    .description("continue a prompt; without one, chat at a terminal, or read it from a pipe")
    .argument("[prompt]", "text to go on from (quote it if it has several words)")
    .option("-m, --model <file>", "the .flash file to run (default: the embedded model)")
    .option("--memory <size>", "ceiling of the whole process, such as 3.5GiB", byteSize)
    .addOption(ffnCacheOption())
    .addOption(ffnOption())
    .addOption(
      new Option(
        "--policy <name>",
        "which neurons make room for others (default: frequency; changes no result)",
      )
        .choices([...POLICY_NAMES]),
    )
    .addOption(recallOption())
    .addOption(sparsityOption())
    .option(
      "--window <tokens>",
      "tokens whose neurons stay in the cache (means --policy window)",
      wholeNumber({ min: 0, max: 1e6 }),
    )
    .addOption(
      new Option("--backend <name>", "how readers ask the kernel (default: io_uring where allowed)")
        .choices([...READER_BACKENDS]),
    )
    .option(
      "--readers <count>",
      "flash readers (default: 8 with pread, 1 with io_uring)",
      wholeNumber({ min: 1, max: 64 }),
    )
    .option(
      "--lanes <count>",
      "compute threads (default: cores - 1; of large models at least 2)",
      wholeNumber({ min: 1, max: 64 }),
    )
    .option(
      "--context <tokens>",
      "room for prompt and answer",
      wholeNumber({ min: 1, max: 2 ** 20 }),
    )
    .addOption(
      new Option(
        "--kv <type>",
        "how keys and values of the context are stored (default: as the model's weights, q8 at most)",
      ).choices([...KV_QUANTIZATIONS]),
    )
    .option(
      "--prompt-chunk <tokens>",
      "positions of a prompt that go through the model together (default: 64; changes no result)",
      wholeNumber({ min: 1, max: 1024 }),
    )
    .option(
      "--drafts <tokens>",
      "tokens guessed from the text so far and verified together, 0: none (default: 7; changes no result)",
      wholeNumber({ min: 0, max: 7 }),
    )
    .option("--no-prefetch", "do not start reads by an early look (changes no result)")
    .option("--audit", "look at neurons that were not predicted too, and tell what is missed")
    .addOption(new Option("--kernels <build>", "kernels to use").choices(["relaxed", "plain"]))
    .option(
      "-n, --max-tokens <count>",
      "most new tokens",
      wholeNumber({ min: 1, max: 2 ** 31 - 1 }),
      200,
    )
    .option(
      "--temperature <number>",
      "0: always the likeliest token",
      realNumber({ min: 0, max: 100 }),
      0.7,
    )
    .option(
      "--top-k <count>",
      "sample from so many of the likeliest, 0: all",
      wholeNumber({ min: 0, max: 2 ** 31 - 1 }),
      0,
    )
    .option(
      "--top-p <share>",
      "sample from the likeliest that reach this sum",
      realNumber({ min: 0, max: 1, isAbove: true }),
      0.9,
    )
    .option(
      "--min-p <share>",
      "sample from those at least so likely as this share of the likeliest",
      realNumber({ min: 0, max: 1 }),
      0,
    )
    .option(
      "--repetition-penalty <number>",
      "above 1: make tokens less likely that the text has already",
      realNumber({ min: 0.01, max: 100 }),
      1,
    )
    .option(
      "--logit-bias <id:number>",
      "add to a token's logit; may be given several times",
      biasOf,
      [],
    )
    .option(
      "--stop <text>",
      "end the text before this; may be given several times",
      (text: string, before: string[]) => [...before, text],
      [],
    )
    .option("--json-schema <file>", "the text will be JSON of the schema in this file")
    .option(
      "--seed <number>",
      "repeats a text (default: random)",
      wholeNumber({ min: 0, max: SEED_MAX }),
    )
    .option("--chat", "the prompt is a message to a chat model, not the beginning of a text")
    .option("--system <text>", "what a chat model is told before all else")
    .option("--json", "one JSON object on stdout at the end: text and statistics")
    .option("--trace <file>", "write where the time went, for ui.perfetto.dev")
    .option("-q, --quiet", "nothing on stderr but errors")
    .addHelpText("after", AFTER_HELP);
}
