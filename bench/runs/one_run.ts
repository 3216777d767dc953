/**
 * One generation in a process of its own: opens a model, runs a prompt, generates, and prints what it cost as a line of JSON. For
 * benches that compare runs of fresh processes; not meant to be called by hand.
 *
 *   deno run -A bench/runs/one_run.ts REQUEST-AS-JSON
 */
import process from "node:process";
import { open } from "../../src/open.ts";
import type { OpenOptions } from "../../src/open.ts";
import type { Plan } from "../../src/plan.ts";
import type { Cost, Statistics } from "../../src/statistics.ts";

/** What is to be run. */
export interface RunRequest {
  modelPath: string;
  open: OpenOptions;
  /** Ids of the prompt. */
  prompt: number[];
  /** New tokens. */
  tokens: number;
  /** How they are drawn. Default: the likeliest ones. */
  sampling?: { temperature: number; seed: number };
}

/** What it cost. Times are in ms; those of `at` since 1970, so that processes can compare them. */
export interface RunResult extends Pick<Statistics, "runtime" | "kernels" | "lanes" | "readers"> {
  backend: Statistics["backend"];
  /** When the engine's modules were there, the model was open, the first new token came, and the last. */
  at: { started: number; opened: number; firstToken: number; ended: number };
  prompt: Cost;
  decode: Cost;
  /** Processor time of all threads, of each new token after the first. */
  cpuMsPerToken: number;
  /** Most memory that the process has had. */
  peakBytes: number;
  planned: Plan["bytes"];
  /** Slots over neurons. */
  slotShare: number;
  /** A number made of all new ids. */
  checksum: number;
}

/** Runs a request in this very process. */
export async function runHere(request: RunRequest): Promise<RunResult> {
  const now = () => performance.timeOrigin + performance.now();
  const started = now();
  await using model = await open(request.modelPath, request.open);
  const opened = now();
  let firstToken = 0, checksum = 0, cpuBefore = process.cpuUsage();
  const { prompt: ids, tokens: maxTokens, sampling } = request;
  for await (const { id } of model.generate(ids, { maxTokens, ignoreEos: true, ...sampling })) {
    if (firstToken === 0) {
      firstToken = now();
      cpuBefore = process.cpuUsage();
    }
    checksum = (Math.imul(checksum, 31) + id + 1) >>> 0;
  }
  const { user, system } = process.cpuUsage(cpuBefore);
  const ended = now(), { plan } = model;
  const { runtime, kernels, lanes, readers, backend, prompt, decode, peakBytes } = model.stats();
  const slots = plan.slotCounts.reduce((sum, count) => sum + count, 0);
  return {
    runtime,
    kernels,
    lanes,
    readers,
    backend,
    at: { started, opened, firstToken, ended },
    prompt,
    decode,
    cpuMsPerToken: (user + system) / 1000 / Math.max(1, maxTokens - 1),
    peakBytes,
    planned: plan.bytes,
    slotShare: slots / (plan.slotCounts.length * plan.shape.intermediateSize),
    checksum,
  };
}

if (import.meta.main) {
  try {
    console.log(JSON.stringify(await runHere(JSON.parse(process.argv[2]))));
  } catch (error) {
    console.error(error instanceof Error ? `${error.name}: ${error.message}` : error);
    process.exitCode = 1;
  }
}
