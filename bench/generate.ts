/**
 * What does one cold generation cost, from opening to the last token? Runs once, in a process of its own, and prints JSON: what
 * `versus` runs in turn with other engines.
 *
 *   deno run -A bench/generate.ts MODEL.flash --memory 3.5GiB --prompt 64 --tokens 64 --json
 *   bun bench/generate.ts ...
 */
import process from "node:process";
import { FlashFile } from "../src/format/flash_file.ts";
import type { OpenOptions } from "../src/mod.ts";
import type { Cost } from "../src/statistics.ts";
import { TokenChain } from "../src/synth/token_chain.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { runHere } from "./runs/one_run.ts";

/**
 * Which way a prompt of a synthetic model goes: on along its chain; a stretch that the model will repeat; the same with every
 * fourth token another one, so that drafts from it fail; or from place to place.
 */
export const PROMPT_KINDS = ["chain", "repetitive", "misleading", "jumping"] as const;
export type PromptKind = (typeof PROMPT_KINDS)[number];

export interface GenerateBench {
  modelPath: string;
  /** Tokens of the prompt, and new ones. */
  prompt: number;
  tokens: number;
  text: PromptKind;
  /** Where in the chain the prompt begins. */
  start: number;
  options: OpenOptions;
}

export interface GenerateResult {
  runtime: string;
  backend: string;
  /** From `open` to a model that can be asked. */
  openSeconds: number;
  /** From the question to the first token: the prompt. */
  firstTokenSeconds: number;
  /** Of the tokens after it. */
  msPerToken: number;
  /** The tokens after the first; see `Cost`. */
  decode: Cost;
  promptBytes: number;
  /** CPU time of the whole process while those tokens were made. */
  cpuMsPerToken: number;
  /** Planned for the process, and the largest that it had, in bytes. */
  plannedBytes: number;
  peakBytes: number;
  /** Made of all ids: the same for the same model, prompt and mode. */
  checksum: number;
}

/** Opens, generates once, closes. */
export async function benchGenerate(bench: GenerateBench): Promise<GenerateResult> {
  const { modelPath, options: open, tokens } = bench;
  const prompt = promptOf(modelPath, bench);
  const run = await runHere({ modelPath, open, prompt, tokens });
  const { runtime, backend, at, prompt: ofPrompt, decode, planned } = run;
  const { cpuMsPerToken, peakBytes, checksum } = run;
  return {
    runtime,
    backend,
    openSeconds: (at.opened - at.started) / 1000,
    firstTokenSeconds: (at.firstToken - at.opened) / 1000,
    msPerToken: (at.ended - at.firstToken) / Math.max(1, tokens - 1),
    decode,
    promptBytes: ofPrompt.bytesPerToken * ofPrompt.tokens,
    cpuMsPerToken,
    plannedBytes: planned.total,
    peakBytes,
    checksum,
  };
}

/** Tokens along a synthetic model's chain; of other models, ids that lie apart. */
export function promptOf(
  modelPath: string,
  { prompt: count, text, start }: Pick<GenerateBench, "prompt" | "text" | "start">,
): number[] {
  using file = FlashFile.open(modelPath);
  const { provenance, config: { vocabSize } } = file.header;
  if (!provenance.synthetic) {
    return Array.from({ length: count }, (_, i) => (start + 300 + i * 37) % vocabSize);
  }
  const chain = TokenChain.of(file.header);
  if (text === "repetitive") return chain.repetitive({ start, count });
  if (text === "misleading") return chain.repetitive({ start, count, errorEvery: 4 });
  return text === "jumping"
    ? chain.jumping({ count, every: 16, seed: start })
    : chain.stretch({ start, count });
}

const HELP = `What does one cold generation cost, from opening to the last token?

  generate MODEL.flash
  --prompt N       tokens of the prompt (default 64), along the chain of a synthetic model
  --tokens N       new tokens (default 64)
  --text KIND      chain, repetitive, misleading or jumping (default chain)
  --start N        place in the chain (default 0)
  --memory SIZE    ceiling of the process
  --lanes N        compute lanes
  --options JSON   more options of \`open\`, such as '{"drafts":0,"backend":"pread"}'
  --json           print the result as JSON, on one line`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 1,
    options: {
      prompt: { type: "string", default: "64" },
      tokens: { type: "string", default: "64" },
      text: { type: "string", default: "chain" },
      start: { type: "string", default: "0" },
      memory: { type: "string" },
      lanes: { type: "string" },
      options: { type: "string", default: "{}" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [modelPath] } = parsed;
  if (!modelPath) throw new RangeError("usage: generate MODEL.flash [--memory SIZE]");
  const { memory, lanes } = values, text = values.text as PromptKind;
  if (!PROMPT_KINDS.includes(text)) {
    throw new RangeError(`Cannot make a prompt of "${text}": one of ${PROMPT_KINDS.join(", ")}`);
  }
  const options: OpenOptions = { ...JSON.parse(values.options) };
  if (memory !== undefined) options.memory = memory;
  if (lanes !== undefined) options.lanes = Number(lanes);
  const [prompt, tokens, start] = [values.prompt, values.tokens, values.start].map(Number);
  const result = await benchGenerate({ modelPath, prompt, tokens, text, start, options });
  if (values.json) console.log(JSON.stringify(result));
  else print(result);
}

function print(result: GenerateResult): void {
  const { decode } = result, mebibytes = (bytes: number) => (bytes / 2 ** 20).toFixed(0);
  const { compute, flash, predictor, other } = decode.msPerToken;
  const { lanes, look, management, submit } = decode.workMsPerToken;
  console.log(
    `${result.runtime}, ${result.backend}: open ${result.openSeconds.toFixed(2)} s, first token ${
      result.firstTokenSeconds.toFixed(2)
    } s, ${result.msPerToken.toFixed(1)} ms/token\n` +
      `  lane 0: compute ${compute.toFixed(1)}, flash ${flash.toFixed(1)}, predictor ${
        predictor.toFixed(1)
      }, other ${other.toFixed(1)} ms; hits ${(100 * decode.hitRate).toFixed(0)} %\n` +
      `  work: lanes ${lanes.toFixed(1)}, early look ${look.toFixed(1)}, management ${
        management.toFixed(1)
      }, handing reads over ${submit.toFixed(1)} ms; CPU ${result.cpuMsPerToken.toFixed(0)} ms\n` +
      `  ${decode.readsPerToken.toFixed(0)} reads and ${
        (decode.bytesPerToken / 1e6).toFixed(1)
      } MB a token; memory ${mebibytes(result.peakBytes)} of ${
        mebibytes(result.plannedBytes)
      } MiB planned; checksum ${result.checksum}`,
  );
}

if (import.meta.main) await main(process.argv.slice(2));
