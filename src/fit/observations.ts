import { cholesky } from "./cholesky.ts";
import { allScores, masksOf } from "./low_rank_scores.ts";
import { columnsOf, multiplyTransposed } from "./matrix_product.ts";

/**
 * What one layer showed while a text ran through the dense model: the first `fitCount` positions are learned from, the
 * rest are held out for thresholds and measures. Positions are in order, document after document.
 */
export interface LayerObservations {
  /** d, a multiple of 32. */
  hiddenSize: number;
  /** n */
  neuronCount: number;
  /** Up rows, f32[n][d], and their bias, f32[n]: z = W x + b, and a neuron is active where z > 0. */
  up: Float32Array;
  upBias: Float32Array;
  /** FFN inputs x after the norm, f32[positions][d]. */
  inputs: Float32Array;
  /** What the early look sees: the layer's own input after the FFN's norm, f32[positions][d]. */
  earlyInputs?: Float32Array;
  fitCount: number;
  /**
   * Which neurons were active at the held-out positions, u32[positions - fitCount][ceil(n / 32)]; computed from `up`
   * where it is missing, which takes a third of the whole fit.
   */
  heldOutActive?: Uint32Array;
}

/** Throws a RangeError that names what does not fit together. */
export function checkObservations(observations: LayerObservations): { heldOutCount: number } {
  const { hiddenSize: d, neuronCount: n, up, upBias, inputs, earlyInputs, fitCount } = observations;
  if (d % 32 !== 0) {
    throw new RangeError(
      `Cannot fit a predictor as hiddenSize must be a multiple of 32: received ${d}`,
    );
  }
  checkLength("up", up, n * d);
  checkLength("upBias", upBias, n);
  const positionCount = inputs.length / d;
  if (!(fitCount >= 2 && fitCount < positionCount)) {
    throw new RangeError(
      `Cannot fit a predictor with ${fitCount} of ${positionCount} positions: ` +
        `at least 2 to learn from and 1 held out are needed`,
    );
  }
  if (earlyInputs !== undefined) checkLength("earlyInputs", earlyInputs, inputs.length);
  if (observations.heldOutActive !== undefined) {
    const words = (positionCount - fitCount) * Math.ceil(n / 32);
    checkLength("heldOutActive", observations.heldOutActive, words);
  }
  return { heldOutCount: positionCount - fitCount };
}

function checkLength(name: string, values: ArrayLike<number>, length: number): void {
  if (values.length !== length) {
    throw new RangeError(
      `Cannot fit a predictor as ${name} must have ${length} numbers: received ${values.length}`,
    );
  }
}

/** Bits of the active neurons at the held-out positions, u32[positions - fitCount][ceil(n / 32)]. */
export function heldOutActive(observations: LayerObservations): Uint32Array {
  const { hiddenSize: d, neuronCount: n, up, upBias, inputs, fitCount } = observations;
  const { heldOutCount } = checkObservations(observations);
  if (observations.heldOutActive !== undefined) return observations.heldOutActive;
  const hidden = inputs.subarray(fitCount * d);
  const everything = { hidden, positionCount: heldOutCount, weights: up, neuronCount: n, rank: d };
  return masksOf(allScores(everything), upBias);
}

/** Mean f64[d], and the lower triangle C, f64[d][d], with C C^T = covariance, of the first `count` rows. */
export interface Moments {
  mean: Float64Array;
  factor: Float64Array;
}

/**
 * Moments of f32[count][d]. A small share of the mean variance is added to each direction: with few positions it keeps
 * directions that were never seen from looking free of noise.
 */
export function momentsOf(inputs: Float32Array, count: number, d: number): Moments {
  const mean = meanOf(inputs, count, d);
  const covariance = new Float64Array(d * d);
  const columns = columnsOf(inputs, d);
  multiplyTransposed(columns, columns, covariance, { depth: count, upperOnly: true });
  let trace = 0;
  for (let i = 0; i < d; i++) {
    for (let j = i; j < d; j++) {
      const value = covariance[i * d + j] / count - mean[i] * mean[j];
      covariance[i * d + j] = covariance[j * d + i] = value;
      if (i === j) trace += value;
    }
  }
  if (!Number.isFinite(trace)) {
    throw new RangeError("Cannot fit a predictor as an FFN input is not finite");
  }
  const ridge = Math.max(1e-30, (1e-4 * trace) / d);
  for (let i = 0; i < d; i++) covariance[i * d + i] += ridge;
  return { mean, factor: cholesky(covariance, d) };
}

/** Mean of the first `count` rows of f32[..][d]. */
export function meanOf(inputs: Float32Array, count: number, d: number): Float64Array {
  const mean = new Float64Array(d);
  for (let t = 0, from = 0; t < count; t++, from += d) {
    for (let k = 0; k < d; k++) mean[k] += inputs[from + k];
  }
  return mean.map((value) => value / count);
}
