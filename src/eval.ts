import { parseShare } from "./byte_size.ts";
import { chunksOf, documentsOf } from "./documents.ts";
import { Costs, Scores } from "./evaluation.ts";
import type { Evaluation } from "./evaluation.ts";
import { FlashFile } from "./format/flash_file.ts";
import type { LoadProgress } from "./load.ts";
import { inLockStep } from "./lock_step.ts";
import type { Model } from "./model.ts";
import { open } from "./open.ts";
import type { OpenOptions } from "./open.ts";
import { defaultMode } from "./open_options.ts";
import type { Row } from "./pipeline/client.ts";
import type { FfnMode } from "./pipeline/options.ts";
import { ffnByteLength } from "./plan.ts";
import { RecallMeter } from "./predict/recall_meter.ts";
import { freeBytes } from "./runtime.ts";

/** What to evaluate, and how: the options of `open` are those of the evaluated model. */
export interface EvaluateOptions
  extends Omit<OpenOptions, "observations" | "audit" | "trace" | "onProgress" | "signal"> {
  path: string;
  /** Documents are split at `<|endoftext|>`, and cut into chunks of the context's length. */
  text: string;
  /** Stop after so many tokens. Default: the whole text. */
  tokensMax?: number;
  /**
   * Run `dense` beside it and compare. The reference takes memory of its own, besides `memory` (as does measuring recall: up
   * rows, at most 1 GiB and a quarter of what is free); where all neurons do not
   * fit it streams them for every token, which is right but slow. Default true, unless `ffn` is `dense`.
   */
  reference?: boolean;
  onProgress?: (progress: EvaluateProgress) => void;
  /** Ends it early: what was measured until then is returned, if there is something. */
  signal?: AbortSignal;
}

/** How far an evaluation is: bytes while loading, tokens while evaluating. */
export interface EvaluateProgress {
  phase: "loading" | "loading dense" | "evaluating";
  done: number;
  total: number;
  /** The reference does not fit in memory: it reads all of the FFN for every token. */
  streamsReference: boolean;
}

/** Two pipelines share the cores: nobody may poll for long. */
const SHARED_CORES = { spins: 2000, flashSpins: 100 };

/** Up projections are held to measure recall if they take no more than this, and than a quarter of what is free. */
const HELD_BYTES_MAX = 1 << 30;

const PROGRESS_EVERY = 16;

/**
 * Measures on a text what a mode costs in quality and what it reads: perplexity; KL divergence from dense and agreement
 * with it, both models running in lock-step so that no logits are kept; recall, precision and lost activation mass of
 * the predictors; cache hits; bytes and reads.
 *
 * Each chunk is run with an empty KV cache, and its tokens from the second on are scored. The cache of neurons stays warm.
 *
 * @throws {RangeError} the text has no two tokens to score, or an option makes no sense (see `open`)
 */
export async function evaluate(options: EvaluateOptions): Promise<Evaluation> {
  const { path, text, tokensMax = Infinity } = options;
  if (!(tokensMax >= 2 && (tokensMax === Infinity || Number.isInteger(tokensMax)))) {
    throw new RangeError(`Cannot evaluate ${tokensMax} tokens: a whole number, at least 2`);
  }
  const documents = documentsOf(text);
  if (documents.length === 0) throw new RangeError("Cannot evaluate an empty text");
  using file = FlashFile.open(path);
  const ffn = options.ffn ?? defaultMode(file.header);
  const isCompared = options.reference ?? (ffn !== "dense" && !file.header.config.experts);
  await using model = await openEvaluated(options, ffn, isCompared);
  const chunks = takeChunks(documents, model, tokensMax);
  await using dense = isCompared ? await openReference(options) : undefined;
  const recall = options.recall === undefined ? undefined : parseShare(options.recall);
  const heldBytesMax = Math.min(HELD_BYTES_MAX, freeBytes() / 4);
  const meter = ffn === "predicted"
    ? new RecallMeter(file, { build: model.build, recall, heldBytesMax })
    : undefined;
  const measurement = new Measurement({ model, dense, meter }, options);
  const isComplete = await measurement.run(chunks);
  return {
    model: path,
    ffn,
    sparsity: model.plan.sparsity,
    isComplete,
    ...measurement.summary(),
    ffnBytes: ffnByteLength(file.header),
    setup: setupOf(model),
  };
}

function openEvaluated(
  options: EvaluateOptions,
  ffn: FfnMode,
  isCompared: boolean,
): Promise<Model> {
  const { path, text: _text, tokensMax: _most, reference: _reference, ...rest } = options;
  return open(path, {
    ...(isCompared && SHARED_CORES),
    ...rest,
    ffn: ffn === "routed" ? undefined : ffn,
    // What a position costs is what it would cost while generating.
    promptChunk: 1,
    observations: ffn === "predicted",
    onProgress: loadProgress("loading", options),
  });
}

/** The same model in `dense`, with what memory is left. */
function openReference(options: EvaluateOptions): Promise<Model> {
  const { path, lanes, readers, backend, context, kernels, waitMsMax, signal } = options;
  const onProgress = loadProgress("loading dense", options);
  const same = { lanes, readers, backend, context, kernels, waitMsMax, signal };
  return open(path, { ...same, ...SHARED_CORES, ffn: "dense", onProgress });
}

function loadProgress(
  phase: "loading" | "loading dense",
  { onProgress }: EvaluateOptions,
): LoadProgress {
  return ({ doneBytes: done, totalBytes: total }) =>
    onProgress?.({ phase, done, total, streamsReference: false });
}

/** What runs, and what is counted meanwhile. */
class Measurement {
  readonly #parts: { model: Model; dense?: Model; meter?: RecallMeter };
  readonly #options: EvaluateOptions;
  readonly #streamsReference: boolean;
  readonly #scores = new Scores();
  readonly #costs = new Costs();
  #done = 0;

  constructor(
    parts: { model: Model; dense?: Model; meter?: RecallMeter },
    options: EvaluateOptions,
  ) {
    this.#parts = parts;
    this.#options = options;
    this.#streamsReference = parts.dense !== undefined && !parts.dense.plan.isResident;
  }

  /** False if it was interrupted, after something was measured. */
  async run(chunks: number[][]): Promise<boolean> {
    const { signal } = this.#options;
    const total = chunks.reduce((sum, ids) => sum + ids.length, 0);
    try {
      for (const ids of chunks) await this.#runChunk(ids, total);
      await this.#parts.meter?.measure(signal);
      return true;
    } catch (error) {
      if (!signal?.aborted || error !== signal.reason || this.#scores.count === 0) throw error;
      return false;
    }
  }

  async #runChunk(ids: number[], total: number): Promise<void> {
    const { model, dense } = this.#parts;
    const starts = (dense ? [model, dense] : [model])
      .map((each) => (signal: AbortSignal) => each.rows(ids, signal));
    try {
      for await (const rows of inLockStep(starts, this.#options.signal)) {
        await this.#take(ids, rows, total);
      }
    } finally {
      this.#costs.add(model.stats());
    }
  }

  async #take(ids: number[], [row, dense]: Row[], total: number): Promise<void> {
    const { signal, onProgress } = this.#options;
    if (row.position + 1 < ids.length) this.#scores.add(ids[row.position + 1], row, dense);
    await this.#parts.meter?.add(row.layers.map(({ ffnInput }) => ffnInput), signal);
    const done = ++this.#done, streamsReference = this.#streamsReference;
    if (done % PROGRESS_EVERY === 0 || done === total) {
      onProgress?.({ phase: "evaluating", done, total, streamsReference });
    }
  }

  summary() {
    const { model, dense, meter } = this.#parts;
    return {
      tokens: this.#costs.tokens,
      ...this.#scores.summary(dense !== undefined),
      ...this.#costs.summary(model, meter?.layers),
    };
  }
}

/** Ids of the text, chunk by chunk, up to so many tokens. */
function takeChunks(documents: string[], model: Model, tokensMax: number): number[][] {
  const chunks: number[][] = [];
  let tokens = 0, longest = 0;
  for (const ids of chunksOf(documents, (text) => model.encode(text), model.contextLength)) {
    if (tokens + ids.length > tokensMax) ids.length = tokensMax - tokens;
    if (ids.length === 0) break;
    chunks.push(ids);
    tokens += ids.length;
    longest = Math.max(longest, ids.length);
  }
  if (longest < 2) {
    throw new RangeError(
      `Cannot evaluate a text whose longest document has ${longest} token: at least 2`,
    );
  }
  return chunks;
}

function setupOf(model: Model): Evaluation["setup"] {
  const { runtime, kernels, lanes, readers, backend } = model.stats();
  return { runtime, kernels, lanes, readers, backend };
}
