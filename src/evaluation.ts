import { divergence, indexOfLargest, logSumExp } from "./likelihood.ts";
import type { Model } from "./model.ts";
import type { Row } from "./pipeline/client.ts";
import type { FfnMode } from "./pipeline/options.ts";
import type { LayerRecall } from "./predict/recall_meter.ts";
import type { LayerCounts, Statistics } from "./statistics.ts";

/** What a layer did. What makes no sense in a mode is left out; `dense` has no layers. */
export interface LayerEvaluation {
  /** Share of the neurons whose activation is not zero (nor, in `magnitude`, taken as zero). */
  activeShare: number;
  /** Share of the neurons that were computed. */
  listedShare: number;
  /** Share of the computed neurons that were in a slot already. */
  hitRate: number;
  /** Share of the active neurons that were predicted. `predicted` only, as are the next two. */
  recall?: number;
  /** Share of the predicted neurons that were active. */
  precision?: number;
  /** Share of the sum of activations that was not predicted. */
  lostMass?: number;
}

/** How far a mode is from dense, at the scored positions. */
export interface DenseComparison {
  /** Of dense. */
  perplexity: number;
  nats: number;
  /** KL(dense || evaluated) in nats: its mean, and what 99 % of the positions stay within. */
  divergenceMean: number;
  divergenceP99: number;
  /** Share of the positions at which both find the same token likeliest. */
  top1Agreement: number;
}

/** What `evaluate` found. */
export interface Evaluation {
  model: string;
  ffn: FfnMode;
  /** Share of the neurons that `magnitude` was asked to leave out; null in other modes. */
  sparsity: number | null;
  /** False if it was interrupted. */
  isComplete: boolean;
  /** Tokens that went through the model, and those of them that were scored: all but the first of each chunk. */
  tokens: number;
  tokensScored: number;
  perplexity: number;
  /** Mean of -log p of the scored tokens: the logarithm of the perplexity. */
  nats: number;
  /** `null` without a reference. */
  dense: DenseComparison | null;
  /** Read from the disk by the evaluated model, covering blocks counted. */
  bytesPerToken: number;
  readsPerToken: number;
  /** Bytes of all neurons: what dense would read for a token if nothing were kept. */
  ffnBytes: number;
  /** Share of all neurons that have a slot. */
  cachedShare: number;
  /** As of a layer, over all of them. Misses whose read the early look had begun are the early rate. Not in `dense`. */
  all?: LayerEvaluation & { earlyRate: number };
  layers: LayerEvaluation[];
  setup: Pick<Statistics, "runtime" | "kernels" | "lanes" | "readers" | "backend">;
}

/** Sums over the scored positions. */
export class Scores {
  count = 0;
  #nats = 0;
  #denseNats = 0;
  #agreeing = 0;
  readonly #divergences: number[] = [];

  /** `id` is the token that follows. */
  add(id: number, { logits }: Row, dense?: Row): void {
    const logSum = logSumExp(logits);
    this.#nats += logSum - logits[id];
    this.count++;
    if (!dense) return;
    const logSums = { logits: logSum, reference: logSumExp(dense.logits) };
    this.#denseNats += logSums.reference - dense.logits[id];
    this.#divergences.push(divergence(dense.logits, logits, logSums));
    if (indexOfLargest(logits) === indexOfLargest(dense.logits)) this.#agreeing++;
  }

  summary(
    isCompared: boolean,
  ): Pick<Evaluation, "tokensScored" | "perplexity" | "nats" | "dense"> {
    const { count } = this, nats = this.#nats / count;
    const own = { tokensScored: count, perplexity: Math.exp(nats), nats };
    if (!isCompared) return { ...own, dense: null };
    const sorted = Float64Array.from(this.#divergences).sort();
    const denseNats = this.#denseNats / count;
    return {
      ...own,
      dense: {
        perplexity: Math.exp(denseNats),
        nats: denseNats,
        divergenceMean: sorted.reduce((sum, value) => sum + value, 0) / count,
        divergenceP99: sorted[Math.ceil(0.99 * count) - 1],
        top1Agreement: this.#agreeing / count,
      },
    };
  }
}

/** Sums over the requests: what was computed and read. */
export class Costs {
  tokens = 0;
  #bytes = 0;
  #reads = 0;
  #layers: LayerCounts[] = [];

  add({ prompt, layers }: Statistics): void {
    this.tokens += prompt.tokens;
    this.#bytes += prompt.bytesPerToken * prompt.tokens;
    this.#reads += prompt.readsPerToken * prompt.tokens;
    this.#layers = layers.map((counts, layer) => sumOf([counts, this.#layers[layer] ?? {}]));
  }

  summary(
    { plan }: Model,
    recalls?: LayerRecall[],
  ): Pick<Evaluation, "bytesPerToken" | "readsPerToken" | "cachedShare" | "layers" | "all"> {
    const { tokens } = this, { intermediateSize: n, numLayers } = plan.shape;
    const slotCount = plan.slotCounts.reduce((sum, count) => sum + count, 0);
    const flash = {
      bytesPerToken: this.#bytes / tokens,
      readsPerToken: this.#reads / tokens,
      cachedShare: slotCount / (n * numLayers),
    };
    if (plan.mode === "dense") return { ...flash, layers: [] };
    const all = sumOf(this.#layers), { earlyStarted, lateMisses } = all;
    const earlyRate = shareOf(earlyStarted, earlyStarted + lateMisses);
    const recall = recalls && sumOf(recalls);
    return {
      ...flash,
      all: { ...evaluationOf(all, n * numLayers * tokens, recall, n), earlyRate },
      layers: this.#layers.map((counts, layer) =>
        evaluationOf(counts, n * tokens, recalls?.[layer], n)
      ),
    };
  }
}

/** @param computable what would have been listed if every neuron were */
function evaluationOf(
  { listed, hits }: LayerCounts,
  computable: number,
  recall: LayerRecall | undefined,
  neuronCount: number,
): LayerEvaluation {
  const listedShare = shareOf(listed, computable), hitRate = shareOf(hits, listed);
  // `exact` and `magnitude` list the active ones.
  if (!recall) return { activeShare: listedShare, listedShare, hitRate };
  const { positions, active, predicted, found, mass, lostMass } = recall;
  return {
    activeShare: shareOf(active, positions * neuronCount),
    listedShare,
    hitRate,
    recall: active > 0 ? found / active : 1,
    precision: predicted > 0 ? found / predicted : 1,
    lostMass: shareOf(lostMass, mass),
  };
}

/** Adds records up, name by name. */
function sumOf<T extends { [name in keyof T]: number }>(records: (T | Partial<T>)[]): T {
  const sum: Record<string, number> = {};
  for (const record of records) {
    for (const [name, value] of Object.entries<number>(record as Record<string, number>)) {
      sum[name] = (sum[name] ?? 0) + value;
    }
  }
  return sum as T;
}

function shareOf(part: number, whole: number): number {
  return whole > 0 ? part / whole : 0;
}
