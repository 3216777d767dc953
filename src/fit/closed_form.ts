import { type MissCurve, missCurve } from "../cache/miss_curve.ts";
import { vectorByteLength } from "../format/layout.ts";
import { loadRows, storeRows } from "../format/quantize.ts";
import { chooseRanks, defaultPredictorBytes, RANK_STEP } from "./choose_ranks.ts";
import { allScores, countBits, masksOf, project } from "./low_rank_scores.ts";
import { MarginHistogram } from "./margin_histogram.ts";
import { columnsOf, multiplyTransposed, rowsOf } from "./matrix_product.ts";
import {
  checkObservations,
  heldOutActive,
  type LayerObservations,
  meanOf,
} from "./observations.ts";
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
 * the wanted recall with about the fewest neurons, since a margin in deviations is a bound on P(active | score).
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
export interface LowRankLayer {
  rank: number;
  /** f32[rank][d] */
  a: Float32Array;
  /** f32[n][rank] */
  b: Float32Array;
  /** f32[n]: predicted where (B A x)_i + bias_i > 0. */
  bias: Float32Array;
  /** f32[n]: the same for the early look; equals `bias` where nothing was observed. */
  earlyBias: Float32Array;
  measured: LowRankMeasures;
  /** Reads per token by cache slots, from the held-out positions in order. */
  missCurve: MissCurve;
}

/** Measured on the held-out positions, with the matrices as stored. */
export interface LowRankMeasures {
  /** Active neurons that were predicted / active ones. */
  recall: number;
  /** Predicted ones that were active / predicted ones. */
  precision: number;
  predictedShare: number;
  activeShare: number;
  /** Active neurons that the early look found / active ones. */
  earlyRecall: number;
  /** Neurons that both looks predicted / late-predicted ones. */
  earlyFound: number;
  earlyPredictedShare: number;
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
export interface LayerBasis extends ReducedRank, RankCurves {
  /** Active neurons at the held-out positions, u32[positions - fitCount][ceil(n / 32)]. */
  active: Uint32Array;
}

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
  return { ...reduced, ...curves, active };
}

/** The layer's predictor with `rank`, a multiple of 32 up to the basis' largest. */
export function finishLayer(
  observations: LayerObservations,
  basis: LayerBasis,
  rank: number,
  options: ClosedFormOptions = {},
): LowRankLayer {
  const { heldOutCount: positionCount } = checkObservations(observations);
  const { inputs, earlyInputs, fitCount } = observations;
  const { hiddenSize: d, neuronCount, rankMax, moments, active } = basis;
  const { recallWanted = RECALL_WANTED, earlyCost = EARLY_COST } = options;
  const exactB = firstColumns(basis.b, neuronCount, rankMax, rank);
  const a = storedAsQ8(basis.a.subarray(0, rank * d), rank, d);
  const b = storedAsQ8(exactB, neuronCount, rank);
  const sigma = storedResiduals(basis, { a, b, exactB, rank });
  const look = (seen: Float32Array, seenMean: Float64Array): Look => {
    const hidden = project(seen, { firstRow: fitCount, count: positionCount }, a, { rank, d });
    const scores = allScores({ hidden, positionCount, weights: b, neuronCount, rank });
    return { scores, offset: offsetsFor(basis.means, seenMean, a, b), sigma };
  };

  const late = look(inputs, moments.mean);
  const bias = biasWith(late, marginsOf(late, active).marginForRecall(recallWanted));
  const predicted = masksOf(late.scores, bias);
  let earlyBias = bias, earlyPredicted = predicted;
  if (earlyInputs !== undefined) {
    // Seen early, an input has another mean; that its deviations differ too matters little.
    const early = look(earlyInputs, meanOf(earlyInputs, fitCount, d));
    earlyBias = biasWith(early, marginsOf(early, predicted).marginForBenefit(earlyCost));
    earlyPredicted = masksOf(early.scores, earlyBias);
  }
  const pairCount = positionCount * neuronCount;
  const measured = measure({ active, predicted, earlyPredicted, pairCount });
  const curve = missCurve({ masks: predicted, tokenCount: positionCount, neuronCount });
  return { rank, a, b, bias, earlyBias, measured, missCurve: curve };
}

/** Scores f32[positions][n], and what turns them into margins: f64[n] each. */
interface Look {
  scores: Float32Array;
  offset: Float64Array;
  sigma: Float64Array;
}

function marginsOf({ scores, offset, sigma }: Look, wanted: Uint32Array): MarginHistogram {
  const histogram = new MarginHistogram();
  const neuronCount = offset.length;
  const wordCount = Math.ceil(neuronCount / 32);
  for (let pair = 0, t = 0; pair < scores.length; t++) {
    for (let neuron = 0; neuron < neuronCount; neuron++, pair++) {
      const isWanted = (wanted[t * wordCount + (neuron >>> 5)] >>> (neuron & 31)) & 1;
      histogram.add(-(scores[pair] + offset[neuron]) / sigma[neuron], isWanted === 1);
    }
  }
  return histogram;
}

function biasWith({ offset, sigma }: Look, margin: number): Float32Array {
  return Float32Array.from(offset, (value, neuron) => value + margin * sigma[neuron]);
}

/** `means` - B A seenMean, f64[n]: with it added, a score is the z to expect. */
function offsetsFor(
  means: Float64Array,
  seenMean: Float64Array,
  a: Float32Array,
  b: Float32Array,
): Float64Array {
  const d = seenMean.length, n = means.length, rank = a.length / d;
  const hidden = new Float64Array(rank);
  multiplyTransposed(rowsOf(a, rank, d), rowsOf(seenMean, 1, d), hidden, { depth: d });
  const scores = new Float64Array(n);
  multiplyTransposed(rowsOf(b, n, rank), rowsOf(hidden, 1, rank), scores, { depth: rank });
  return means.map((mean, neuron) => mean - scores[neuron]);
}

/**
 * Deviations, f64[n], of what the matrices as stored leave out: the residual of the rank, and what rounding did, the
 * row norms of B A C as stored less B V^T. The two are nearly orthogonal.
 */
function storedResiduals(
  basis: LayerBasis,
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
function storedAsQ8(values: Float32Array, rows: number, cols: number): Float32Array {
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

function measure(
  { active, predicted, earlyPredicted, pairCount }: {
    active: Uint32Array;
    predicted: Uint32Array;
    earlyPredicted: Uint32Array;
    pairCount: number;
  },
): LowRankMeasures {
  const late = countBits(active, predicted);
  const early = countBits(active, earlyPredicted);
  const both = countBits(predicted, earlyPredicted).inBoth;
  const share = (part: number, whole: number) => whole === 0 ? 1 : part / whole;
  return {
    recall: share(late.inBoth, late.inA),
    precision: share(late.inBoth, late.inB),
    predictedShare: late.inB / pairCount,
    activeShare: late.inA / pairCount,
    earlyRecall: share(early.inBoth, early.inA),
    earlyFound: share(both, late.inB),
    earlyPredictedShare: early.inB / pairCount,
  };
}
