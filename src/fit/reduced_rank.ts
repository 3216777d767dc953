import { RANK_STEP } from "./choose_ranks.ts";
import { solveRowsLower } from "./cholesky.ts";
import { columnsOf, multiplyTransposed, rowsOf } from "./matrix_product.ts";
import {
  checkObservations,
  type LayerObservations,
  type Moments,
  momentsOf,
} from "./observations.ts";
import { topEigenvectors } from "./symmetric_eigen.ts";

/**
 * The reduced-rank regression of a layer's pre-activations z = W x + b on x, for all ranks at once: with centred inputs
 * of covariance C C^T, the singular vectors of W C.
 *
 *   z - mean z  ~  B A (x - mean x)       the first r rows of A and columns of B are the solution of rank r
 */
export interface ReducedRank {
  hiddenSize: number;
  neuronCount: number;
  rankMax: number;
  moments: Moments;
  /** V^T, f64[rankMax][d]: the right singular vectors, orthonormal rows. */
  vectors: Float64Array;
  /** A = V^T C^-1, f32[rankMax][d]: A (x - mean x) has unit covariance, which suits its later rounding. */
  a: Float32Array;
  /** B = W C V, f32[n][rankMax] */
  b: Float32Array;
  /** Mean and deviation of each z, f64[n]. */
  means: Float64Array;
  deviations: Float64Array;
}

/** Finds the singular vectors up to `rankMax`, a multiple of 32; half of d, but no more than 512, unless told. */
export function reduceRank(
  observations: LayerObservations,
  rankMax: number = defaultRankMax(observations.hiddenSize),
): ReducedRank {
  checkObservations(observations);
  const { hiddenSize: d, neuronCount: n } = observations;
  if (!(rankMax >= RANK_STEP && rankMax <= d && rankMax % RANK_STEP === 0)) {
    throw new RangeError(
      `Cannot fit a predictor as rankMax must be a multiple of 32 up to ${d}: received ${rankMax}`,
    );
  }
  const moments = momentsOf(observations.inputs, observations.fitCount, d);
  const whitened = whiten(observations, moments);
  const means = meanScores(observations, moments.mean);
  const deviations = rowNorms(whitened, n, d);
  const gram = weightedGram(whitened, means, deviations, d);
  const vectors = topEigenvectors(gram, { size: d, count: rankMax });
  const b = new Float32Array(n * rankMax);
  multiplyTransposed(rowsOf(whitened, n, d), rowsOf(vectors, rankMax, d), b, { depth: d });
  const unwhitened = vectors.slice();
  solveRowsLower(moments.factor, unwhitened, { count: rankMax, size: d });
  const a = new Float32Array(unwhitened);
  return {
    hiddenSize: d,
    neuronCount: n,
    rankMax,
    moments,
    vectors,
    a,
    b,
    means,
    deviations,
  };
}

/** Half of d, and no more than 512: beyond, a rank costs more bytes than it spares reads. */
function defaultRankMax(d: number): number {
  return Math.min(512, d, Math.ceil(d / 2 / RANK_STEP) * RANK_STEP);
}

/** W C, f32[n][d]: what the up rows make of inputs with unit covariance. */
function whiten(
  { up, neuronCount: n, hiddenSize: d }: LayerObservations,
  { factor }: Moments,
) {
  const whitened = new Float32Array(n * d);
  multiplyTransposed(rowsOf(up, n, d), columnsOf(factor, d), whitened, { depth: d });
  return whitened;
}

/** Mean pre-activations, W mean + b. */
function meanScores(observations: LayerObservations, mean: Float64Array): Float64Array {
  const { up, upBias, neuronCount: n, hiddenSize: d } = observations;
  const means = new Float64Array(n);
  multiplyTransposed(rowsOf(up, n, d), rowsOf(mean, 1, d), means, { depth: d });
  return means.map((value, neuron) => value + upBias[neuron]);
}

export function rowNorms(rows: Float32Array, count: number, width: number): Float64Array {
  const norms = new Float64Array(count);
  for (let row = 0; row < count; row++) {
    let sum = 0;
    for (let k = row * width; k < (row + 1) * width; k++) sum += rows[k] * rows[k];
    norms[row] = Math.sqrt(sum);
  }
  return norms;
}

/**
 * The Gram matrix, f64[d][d], of the whitened rows. Errors matter where z is near zero, so a neuron weighs as much as a
 * normal distribution of its mean and deviation has density there, and its z is measured in its own deviations.
 */
function weightedGram(
  whitened: Float32Array,
  means: Float64Array,
  deviations: Float64Array,
  d: number,
): Float64Array {
  const n = means.length;
  const weights = means.map((mean, i) =>
    deviations[i] > 0 ? Math.exp(-0.5 * (mean / deviations[i]) ** 2) / deviations[i] ** 2 : 0
  );
  const floor = (1e-3 * weights.reduce((sum, weight) => sum + weight, 0)) / n;
  const rows = new Float32Array(n * d);
  for (let i = 0; i < n; i++) {
    const root = Math.sqrt(Math.max(weights[i], floor));
    for (let k = i * d; k < (i + 1) * d; k++) rows[k] = root * whitened[k];
  }
  const gram = new Float64Array(d * d);
  multiplyTransposed(columnsOf(rows, d), columnsOf(rows, d), gram, { depth: n, upperOnly: true });
  for (let i = 0; i < d; i++) for (let j = 0; j < i; j++) gram[i * d + j] = gram[j * d + i];
  return gram;
}

/**
 * Deviations, f64[n], of what rank 32, 64, ... up to `rankMax` leaves out of z: one array for each rank. Rounding keeps
 * even a full rank's from vanishing.
 */
export function residualsByRank({ b, deviations, rankMax }: ReducedRank): Float64Array[] {
  const left = deviations.map((deviation) => deviation ** 2);
  const residuals: Float64Array[] = [];
  for (let rank = 0; rank < rankMax; rank += RANK_STEP) {
    for (let i = 0; i < left.length; i++) {
      const from = i * rankMax + rank;
      for (let k = from; k < from + RANK_STEP; k++) left[i] -= b[k] ** 2;
    }
    residuals.push(
      left.map((variance, i) => Math.sqrt(Math.max(variance, 1e-6 * deviations[i] ** 2, 1e-20))),
    );
  }
  return residuals;
}
