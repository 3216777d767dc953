/**
 * Do drafts pay? A prompt after which a synthetic model repeats itself, one that misleads drafts, one that jumps: tokens a second with drafts
 * and without, two models open at once and asked in turn. Their ids must be equal.
 *
 *   deno run -A bench/speculation.ts MODEL.flash --memory 3.5GiB [--rounds 5]
 */
import process from "node:process";
import { parseByteSize } from "../src/byte_size.ts";
import { open } from "../src/mod.ts";
import { prepare } from "../src/open.ts";
import type { Prepared } from "../src/open.ts";
import type { Plan } from "../src/plan.ts";
import type { Model, OpenOptions } from "../src/mod.ts";
import { residentBytes, runtimeName } from "../src/runtime.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { promptOf } from "./generate.ts";
import type { PromptKind } from "./generate.ts";
import { median } from "./median.ts";

export interface SpeculationBench {
  modelPath: string;
  /** Of each of the two models, which are open at once. */
  options: OpenOptions;
  /** Tokens of the prompt, and new ones. */
  prompt: number;
  tokens: number;
  rounds: number;
  /** Default: all. */
  texts?: readonly PromptKind[];
}

const TEXTS: readonly PromptKind[] = ["repetitive", "misleading", "jumping"];

export interface SpeculationResult {
  text: PromptKind;
  /** Tokens a second with drafts over those without: median of the rounds' ratios. */
  ratio: number;
  /** Medians. */
  withDrafts: number;
  without: number;
  /** Drafted tokens, and those of them that were right, of all rounds. */
  drafted: number;
  accepted: number;
}

/** Throws `Error` if drafts change an id. */
export async function benchSpeculation(bench: SpeculationBench): Promise<SpeculationResult[]> {
  const { modelPath, options: { memory, ...options } } = bench, beforeBytes = residentBytes();
  let slots = 0;
  const onPlan = ({ plan }: Prepared) => void (slots = slotsOf(plan));
  await using drafting = await open(modelPath, { ...options, memory, onPlan });
  // A ceiling is the process's: the second model gets as much as the first, which is part of the process now.
  const ceiling = memory === undefined
    ? undefined
    : parseByteSize(memory) + residentBytes() - beforeBytes;
  const without = { ...options, drafts: 0 };
  await using plain = await open(modelPath, {
    ...without,
    memory: ceiling && evened(modelPath, { ...without, memory: ceiling }, slots),
  });
  const results: SpeculationResult[] = [];
  for (const text of bench.texts ?? TEXTS) {
    results.push(await compare({ drafting, plain }, text, bench));
  }
  return results;
}

/** The ceiling with which a model has no more slots than so many: a larger cache would pass for slower drafts. */
function evened(
  modelPath: string,
  options: OpenOptions & { memory: number },
  slots: number,
): number {
  const { plan } = prepare(modelPath, options), more = slotsOf(plan) - slots;
  return options.memory - Math.max(0, more) * plan.shape.slotByteLength;
}

function slotsOf({ slotCounts }: Plan): number {
  return slotCounts.reduce((sum, count) => sum + count, 0);
}

async function compare(
  { drafting, plain }: { drafting: Model; plain: Model },
  text: PromptKind,
  { modelPath, prompt, tokens, rounds }: SpeculationBench,
): Promise<SpeculationResult> {
  const speeds: { withDrafts: number; without: number }[] = [];
  let drafted = 0, accepted = 0;
  for (let round = 0; round < rounds; round++) {
    const ids = promptOf(modelPath, { prompt, text, start: 1000 * round });
    const one = () => generate(drafting, ids, tokens), other = () => generate(plain, ids, tokens);
    // Who comes first changes, as what a shared machine gives comes and goes.
    const [a, b] = round % 2 === 0
      ? [await one(), await other()]
      : await other().then(async (found) => [await one(), found]);
    if (a.ids.join() !== b.ids.join()) {
      throw new Error(`Drafts changed the text: ${a.ids.join()} instead of ${b.ids.join()}`);
    }
    speeds.push({ withDrafts: a.tokensPerSecond, without: b.tokensPerSecond });
    drafted += a.drafted;
    accepted += a.accepted;
  }
  return {
    text,
    ratio: median(speeds.map(({ withDrafts, without }) => withDrafts / without)),
    withDrafts: median(speeds.map(({ withDrafts }) => withDrafts)),
    without: median(speeds.map(({ without }) => without)),
    drafted,
    accepted,
  };
}

async function generate(model: Model, prompt: number[], maxTokens: number) {
  const ids: number[] = [];
  for await (const { id } of model.generate(prompt, { maxTokens, ignoreEos: true })) ids.push(id);
  const { tokensPerSecond, drafted, accepted } = model.stats().decode;
  return { ids, tokensPerSecond, drafted, accepted };
}

const HELP =
  `Do drafts pay? Tokens a second with drafts over those without, asked in turn; ids must be equal.

  speculation MODEL.flash   a file that synth made
  --memory SIZE    of each of two models, which are open at once
  --options JSON   more options of \`open\`
  --prompt N       tokens of the prompt (default 96)
  --tokens N       new tokens (default 64)
  --rounds N       default 5
  --text KIND      only repetitive, misleading or jumping (default all)
  --json           print the results as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 1,
    options: {
      memory: { type: "string" },
      options: { type: "string", default: "{}" },
      prompt: { type: "string", default: "96" },
      tokens: { type: "string", default: "64" },
      rounds: { type: "string", default: "5" },
      text: { type: "string" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [modelPath] } = parsed;
  if (!modelPath) throw new RangeError("usage: speculation MODEL.flash [--memory SIZE]");
  const options: OpenOptions = { ...JSON.parse(values.options), memory: values.memory };
  const [prompt, tokens, rounds] = [values.prompt, values.tokens, values.rounds].map(Number);
  const texts = TEXTS.filter((text) => values.text === undefined || text === values.text);
  if (texts.length === 0) {
    throw new RangeError(`There is no text "${values.text}": ${TEXTS.join(", ")}`);
  }
  const results = await benchSpeculation({ modelPath, options, prompt, tokens, rounds, texts });
  if (values.json) return console.log(JSON.stringify(results));
  console.log(`${runtimeName()}, medians of ${rounds}, prompt of ${prompt}, ${tokens} tokens`);
  for (const { text, ratio, withDrafts, without, drafted, accepted } of results) {
    console.log(
      `${text.padEnd(10)} ${ratio.toFixed(2)}x: ${withDrafts.toFixed(2)} tokens/s with drafts, ${
        without.toFixed(2)
      } without; ${accepted} of ${drafted} drafted tokens were right; ids equal`,
    );
  }
}

if (import.meta.main) await main(process.argv.slice(2));
