import { vectorByteLength } from "../format/layout.ts";
import { loadRows, storeRows } from "../format/quantize.ts";
import { loadKernelModule } from "../kernels.ts";
import type { KernelModule } from "../kernels.ts";
import { chooseRanks, defaultPredictorBytes, RANK_STEP } from "./choose_ranks.ts";
import { Judge } from "./judge.ts";
import type { Judgement } from "./judge.ts";
import { LowRankScorer } from "./low_rank_scorer.ts";
import type { LowRankStart } from "./low_rank_scorer.ts";
import { columnsOf, multiplyTransposed, rowsOf } from "./matrix_product.ts";
import {
  checkObservations,
  heldOutActive,
  type LayerObservations,
  meanOf,
} from "./observations.ts";
import { ArrayPositions } from "./positions.ts";
import { type RankCurves, rankCurves } from "./rank_curves.ts";
import { type ReducedRank, reduceRank, residualsByRank, rowNorms } from "./reduced_rank.ts";

/**
 * Low-rank predictors without training. Pre-activations are linear in the FFN input, z = W x + b, so the best
 * approximation of rank r in the mean square follows from the mean and the covariance of x alone (reduced-rank
 * regression; Izenman 1975): with covariance C C^T, it is the truncated singular value decomposition of W C.
 *
 *   score = B (A x) + bias      A: f32[rank][d]    B: f32[n][rank]     predicted where score > 0
 *
 * What the rank leaves out of z_i has the standard deviation sigma_i, known in closed form too. A neuron is predicted
 * unless its expected z lies more than tau sigma_i below zero; one tau a layer, measured on held-out positions, gives
 * the wanted recall with about the fewest neurons, since a margin in deviations is a bound on P(active | score). B and
 * bias are stored in units of sigma, so that tau is one number for all neurons.
 */
export interface ClosedFormOptions {
  /** Share of the active neurons that the late look finds, in each layer. */
  recallWanted?: number;
  /** What all predictors may take in the file; a tenth of the FFN in f16 unless told. */
  byteLimit?: number;
  /** Largest rank of a layer, a multiple of 32. */
  rankMax?: number;
  /** Cache sizes, as shares of all neurons, at which ranks are weighed. */
  cacheShares?: readonly number[];
  /** How many neurons found early are worth one read in vain. */
  earlyCost?: number;
}

/** The predictor of one layer; A and B are exactly what q8 stores. */
export interface LowRankLayer extends Judgement {
  rank: number;
  /** f32[rank][d] */
  a: Float32Array;
  /** f32[n][rank] */
  b: Float32Array;
}

export interface ClosedFormFit {
  layers: LowRankLayer[];
  /** Tokens held out. */
  heldOutCount: number;
}

const RECALL_WANTED = 0.985;
const EARLY_COST = 0.5;
/** Held-out positions that the choice of ranks looks at. */
const RANK_POSITIONS = 768;

/** Fits all layers: `prepareLayer` for each, ranks within the byte limit, `finishLayer` for each. */
export function fitClosedForm(
  layers: readonly LayerObservations[],
  options: ClosedFormOptions = {},
): ClosedFormFit {
  const bases = layers.map((layer) => prepareLayer(layer, options));
  const byteLimit = options.byteLimit ?? defaultPredictorBytes(layers);
  const ranks = chooseRanks(bases, { ...options, byteLimit });
  return {
    layers: layers.map((layer, index) => finishLayer(layer, bases[index], ranks[index], options)),
    heldOutCount: checkObservations(layers[0]).heldOutCount,
  };
}

/** A layer whose rank is not chosen yet, and what each rank would cost. */
export interface LayerBasis extends ReducedRank, RankCurves {}

/** Solves a layer for all ranks up to `rankMax` and tries them on held-out positions. */
export function prepareLayer(
  observations: LayerObservations,
  { rankMax, recallWanted = RECALL_WANTED }: ClosedFormOptions = {},
): LayerBasis {
  const { heldOutCount } = checkObservations(observations);
  const reduced = reduceRank(observations, rankMax);
  const active = heldOutActive(observations);
  const positionCount = Math.min(RANK_POSITIONS, heldOutCount);
  const curves = rankCurves(observations, reduced, { active, recallWanted, positionCount });
  return { ...reduced, ...curves };
}

/** The layer's predictor with `rank`, a multiple of 32 up to the basis' largest. */
export function finishLayer(
  observations: LayerObservations,
  basis: ReducedRank,
  rank: number,
  options: ClosedFormOptions = {},
  kernels: KernelModule = loadKernelModule(),
): LowRankLayer {
  const { inputs, earlyInputs = inputs, fitCount } = observations;
  const { hiddenSize: d, neuronCount: n } = basis;
  const active = heldOutActive(observations);
  const { recallWanted = RECALL_WANTED, earlyCost = EARLY_COST } = options;
  const start = storedClosedForm(basis, rank, meanOf(earlyInputs, fitCount, d));
  const from = fitCount * d;
  const heldOut = new ArrayPositions(
    { inputs: inputs.subarray(from), earlyInputs: earlyInputs.subarray(from), active },
    d,
  );
  const judge = new Judge(heldOut, { d, n });
  const { a, b } = start, scorer = new LowRankScorer(kernels, start);
  return { rank, a, b, ...judge.judge(scorer, { recallWanted, earlyCost }) };
}

/** The predictor of a rank as q8 stores it, with scores in units of what it leaves out. */
function storedClosedForm(basis: ReducedRank, rank: number, earlyMean: Float64Array): LowRankStart {
  const { hiddenSize: d, neuronCount: n, rankMax, moments, means } = basis;
  const exactB = firstColumns(basis.b, n, rankMax, rank);
  const a = storedAsQ8(basis.a.subarray(0, rank * d), rank, d);
  const sigma = storedResiduals(basis, { a, b: storedAsQ8(exactB, n, rank), exactB, rank });
  const b = storedAsQ8(exactB.map((value, k) => value / sigma[Math.floor(k / rank)]), n, rank);
  const scaledMeans = means.map((mean, neuron) => mean / sigma[neuron]);
  return {
    rank,
    a,
    b,
    offset: offsetsFor(scaledMeans, moments.mean, a, b),
    earlyOffset: offsetsFor(scaledMeans, earlyMean, a, b),
  };
}

/** Scores in deviations are about 1 / 1.7 of the logits of their probabilities. */
const LOGITS_PER_DEVIATION = 1.7;

/** The predictor of a rank, not rounded, with scores like logits: where training begins. */
export function closedFormStart(
  basis: ReducedRank,
  rank: number,
): { a: Float32Array; b: Float32Array; bias: Float32Array } {
  const { hiddenSize: d, neuronCount: n, rankMax, moments, means } = basis;
  const scale = residualsByRank(basis)[rank / RANK_STEP - 1]
    .map((residual) => LOGITS_PER_DEVIATION / residual);
  const a = basis.a.slice(0, rank * d);
  const b = firstColumns(basis.b, n, rankMax, rank)
    .map((value, k) => value * scale[Math.floor(k / rank)]);
  const scaledMeans = means.map((mean, neuron) => mean * scale[neuron]);
  return { a, b, bias: offsetsFor(scaledMeans, moments.mean, a, b) };
}

/** `means` - B A seenMean, f32[n]: with it added, a score is the one to expect. */
export function offsetsFor(
  means: ArrayLike<number>,
  seenMean: Float64Array,
  a: Float32Array,
  b: Float32Array,
): Float32Array {
  const d = seenMean.length, n = means.length, rank = a.length / d;
  const hidden = new Float64Array(rank);
  multiplyTransposed(rowsOf(a, rank, d), rowsOf(seenMean, 1, d), hidden, { depth: d });
  const scores = new Float64Array(n);
  multiplyTransposed(rowsOf(b, n, rank), rowsOf(hidden, 1, rank), scores, { depth: rank });
  return Float32Array.from(means, (mean, neuron) => mean - scores[neuron]);
}

/**
 * Deviations, f64[n], of what the matrices as stored leave out: the residual of the rank, and what rounding did, the
 * row norms of B A C as stored less B V^T. The two are nearly orthogonal.
 */
function storedResiduals(
  basis: ReducedRank,
  { a, b, exactB, rank }: { a: Float32Array; b: Float32Array; exactB: Float32Array; rank: number },
): Float64Array {
  const { hiddenSize: d, neuronCount: n, moments, vectors } = basis;
  const whitenedA = new Float64Array(rank * d);
  multiplyTransposed(rowsOf(a, rank, d), columnsOf(moments.factor, d), whitenedA, { depth: d });
  const rounding = new Float32Array(n * d);
  multiplyTransposed(rowsOf(b, n, rank), columnsOf(whitenedA, d), rounding, { depth: rank });
  const minusA = vectors.slice(0, rank * d).map((value) => -value);
  multiplyTransposed(rowsOf(exactB, n, rank), columnsOf(minusA, d), rounding, {
    depth: rank,
    accumulate: true,
  });
  const residuals = residualsByRank(basis)[rank / RANK_STEP - 1];
  return rowNorms(rounding, n, d).map((norm, i) => Math.hypot(norm, residuals[i]));
}

/** f32[rows][cols] after rounding to blocks of 32 signed bytes with an f16 scale. */
export function storedAsQ8(values: Float32Array, rows: number, cols: number): Float32Array {
  const bytes = new Uint8Array(rows * vectorByteLength("q8", cols));
  storeRows("q8", values, { rows, cols }, bytes);
  const rounded = new Float32Array(rows * cols);
  loadRows("q8", bytes, { rows, cols }, rounded);
  return rounded;
}

function firstColumns(matrix: Float32Array, rows: number, stride: number, cols: number) {
  const first = new Float32Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    first.set(matrix.subarray(row * stride, row * stride + cols), row * cols);
  }
  return first;
}
