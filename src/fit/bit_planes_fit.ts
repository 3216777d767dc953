import { storePlanes } from "../format/bit_planes.ts";
import { PLANE_BITS_MAX } from "../format/header.ts";
import { preparedByteLength } from "../kernels.ts";
import type { KernelModule } from "../kernels.ts";
import { FitMemory } from "./fit_memory.ts";
import type { Block } from "./fit_memory.ts";
import { BLOCK_POSITIONS, Judge } from "./judge.ts";
import type { Judgement, JudgeOptions, Scorer } from "./judge.ts";
import { Matmul } from "./matmul.ts";
import type { LayerObservations } from "./observations.ts";
import { meanOf } from "./observations.ts";
import type { Positions } from "./positions.ts";
import { quantizeRows } from "./quantize_rows.ts";

/**
 * Training-free predictors: the up rows in a few bits a weight, by which pre-activations are guessed. One bit is a sign
 * sketch (Charikar 2002: signs of projections estimate angles), 2 to 4 are a low-bit copy.
 *
 *   score = rowScale * (planes (x - mean)) + bias       predicted where score > 0
 *
 * The mean input is subtracted before x is rounded, and its product with the row is exact, in the bias: inputs have a large
 * mean, whose rounding would be most of the error. Text serves for means, for each row's scale (a regression: the signs
 * of a row say how it correlates with the rest of it), and for the deviation sigma of what the bits leave out.
 * Scores are in units of sigma, as in closed_form.ts, so that one margin serves all neurons of a layer.
 */
export interface BitPlanesLayer extends Judgement {
  bits: number;
  /** u1[n][bits][d], as stored. */
  planes: Uint8Array;
  /** f32[n] */
  rowScales: Float32Array;
  /** f32[d] each: mean inputs of the FFN, and of what the early look sees. */
  mean: Float32Array;
  earlyMean: Float32Array;
}

/** Quantizes a layer's up rows, fits scales to the first positions of `observations`, and thresholds to `heldOut`. */
export function fitBitPlanes(
  observations: Omit<LayerObservations, "heldOutActive">,
  heldOut: Positions,
  { bits, ...options }: JudgeOptions & { bits: number },
  kernels: KernelModule,
): BitPlanesLayer {
  const { hiddenSize: d, neuronCount: n, up, inputs, fitCount } = observations;
  const { earlyInputs = inputs } = observations;
  const mean = Float32Array.from(meanOf(inputs, fitCount, d));
  const earlyMean = Float32Array.from(meanOf(earlyInputs, fitCount, d));
  const planes = storePlanes(quantizeRows(up, { rows: n, cols: d, bits }).levels, {
    rows: n,
    cols: d,
    bits,
  });
  const start = { bits, planes, mean, earlyMean };
  const scorer = new BitPlanesScorer(kernels, { ...start, n });
  fitScales(scorer, observations, kernels);
  const judgement = new Judge(heldOut, { d, n }).judge(scorer, options);
  return { ...start, rowScales: scorer.rowScales.slice(), ...judgement };
}

/** Bytes that `fitBitPlanes` takes at most, beside what it is given and what the judge takes. */
export function bitPlanesFitByteLength({ d, n }: { d: number; n: number }): number {
  const bits = PLANE_BITS_MAX, planes = n * bits * d / 8, sums = 6 * 8 * n;
  // Up rows come as f32, and lie beside the kernels once more; levels are bytes.
  return 4 * n * d + n * d + planes + byteLengthOf({ d, n, bits }) +
    ExactScores.byteLength({ d, n }) + sums;
}

/** Scores by the engine's own kernel, position by position. */
class BitPlanesScorer implements Scorer {
  readonly offset: Float32Array;
  readonly earlyOffset: Float32Array;
  /** f32[n], ones at first: what the kernel reads. */
  readonly rowScales: Float32Array;
  readonly #memory: FitMemory;
  readonly #bits: number;
  readonly #blocks: Record<"input" | "tables" | "mean" | "earlyMean" | "rowScales", Block>;
  readonly #planes: number;
  readonly #scores: Block;

  constructor(
    kernels: KernelModule,
    { bits, planes, mean, earlyMean, n }:
      & Pick<BitPlanesLayer, "bits" | "planes" | "mean" | "earlyMean">
      & { n: number },
  ) {
    const d = mean.length;
    const memory = new FitMemory(kernels, byteLengthOf({ d, n, bits }));
    const planeWords = memory.words(planes.byteLength / 4);
    const { buffer, byteOffset } = planeWords.values;
    new Uint8Array(buffer, byteOffset, planes.byteLength).set(planes);
    this.#memory = memory;
    this.#bits = bits;
    this.#planes = planeWords.address;
    this.#blocks = {
      input: memory.floats(d),
      tables: memory.floats(preparedByteLength(d) / 4),
      mean: memory.floats(d),
      earlyMean: memory.floats(d),
      rowScales: memory.floats(n),
    };
    this.#scores = memory.floats(BLOCK_POSITIONS * n);
    this.#blocks.mean.values.set(mean);
    this.#blocks.earlyMean.values.set(earlyMean);
    this.rowScales = this.#blocks.rowScales.values.fill(1);
    this.offset = new Float32Array(n);
    this.earlyOffset = new Float32Array(n);
  }

  scores(inputs: Float32Array, rows: number, isEarly: boolean): Float32Array {
    const { kernels } = this.#memory, { input, tables, mean, earlyMean, rowScales } = this.#blocks;
    const d = input.values.length, n = this.offset.length;
    const centre = isEarly ? earlyMean : mean;
    for (let t = 0; t < rows; t++) {
      input.values.set(inputs.subarray(t * d, (t + 1) * d));
      kernels.preparePlanes(input.address, centre.address, tables.address, d);
      const y = this.#scores.address + 4 * t * n;
      const scales = rowScales.address;
      kernels.planeScores(this.#planes, tables.address, scales, y, 0, n, this.#bits, d);
    }
    return this.#scores.values;
  }
}

function byteLengthOf({ d, n, bits }: { d: number; n: number; bits: number }): number {
  const numbers = BLOCK_POSITIONS * n + n + 3 * d;
  return 4 * numbers + n * bits * d / 8 + preparedByteLength(d) + 4096;
}

/** Sums over positions of one neuron's z, of its score p at a scale of 1, and of their products. */
interface Sums {
  z: Float64Array;
  zz: Float64Array;
  p: Float64Array;
  pp: Float64Array;
  zp: Float64Array;
  earlyP: Float64Array;
}

/** Leaves the regression of z on p in the scorer, in units of what it leaves out. */
function fitScales(
  scorer: BitPlanesScorer,
  observations: Omit<LayerObservations, "heldOutActive">,
  kernels: KernelModule,
): void {
  const { neuronCount: n, upBias, fitCount } = observations;
  const { z, zz, p, pp, zp, earlyP } = sumUp(scorer, observations, kernels);
  for (let i = 0; i < n; i++) {
    const covariance = zp[i] - z[i] * p[i] / fitCount;
    const variance = pp[i] - p[i] * p[i] / fitCount;
    const zVariance = zz[i] - z[i] * z[i] / fitCount;
    const slope = variance > 0 ? covariance / variance : 0;
    const left = Math.max(zVariance - slope * covariance, SIGMA_MIN ** 2 * zVariance);
    const sigma = Math.sqrt(left / fitCount) || 1;
    scorer.rowScales[i] = slope / sigma;
    scorer.offset[i] = ((z[i] - slope * p[i]) / fitCount + upBias[i]) / sigma;
    scorer.earlyOffset[i] = ((z[i] - slope * earlyP[i]) / fitCount + upBias[i]) / sigma;
  }
}

/** A deviation is no smaller than this share of that of z: sums of a few positions can leave nothing. */
const SIGMA_MIN = 1e-3;

function sumUp(
  scorer: BitPlanesScorer,
  { hiddenSize: d, neuronCount: n, up, inputs, earlyInputs = inputs, fitCount }: Omit<
    LayerObservations,
    "heldOutActive"
  >,
  kernels: KernelModule,
): Sums {
  const [z, zz, p, pp, zp, earlyP] = Array.from({ length: 6 }, () => new Float64Array(n));
  const exact = new ExactScores(kernels, up, { d, n });
  for (let first = 0; first < fitCount; first += BLOCK_POSITIONS) {
    const rows = Math.min(BLOCK_POSITIONS, fitCount - first);
    const at = (values: Float32Array) => values.subarray(first * d, (first + rows) * d);
    const exactScores = exact.scores(at(inputs), rows);
    const scores = scorer.scores(at(inputs), rows, false);
    for (let t = 0, pair = 0; t < rows; t++) {
      for (let i = 0; i < n; i++, pair++) {
        const zNow = exactScores[pair], pNow = scores[pair];
        z[i] += zNow, zz[i] += zNow * zNow;
        p[i] += pNow, pp[i] += pNow * pNow, zp[i] += zNow * pNow;
      }
    }
    const earlyScores = scorer.scores(at(earlyInputs), rows, true);
    for (let t = 0, pair = 0; t < rows; t++) {
      for (let i = 0; i < n; i++, pair++) earlyP[i] += earlyScores[pair];
    }
  }
  return { z, zz, p, pp, zp, earlyP };
}

/** z without bias, of many positions. */
class ExactScores {
  readonly #sizes: { d: number; n: number };
  readonly #matmul: Matmul;
  readonly #blocks: Record<"inputs" | "up" | "scores", Block>;

  constructor(kernels: KernelModule, up: Float32Array, { d, n }: { d: number; n: number }) {
    const memory = new FitMemory(kernels, ExactScores.byteLength({ d, n }));
    this.#sizes = { d, n };
    this.#matmul = new Matmul(memory);
    this.#blocks = {
      inputs: memory.floats(BLOCK_POSITIONS * d),
      up: memory.floats(n * d),
      scores: memory.floats(BLOCK_POSITIONS * n),
    };
    this.#blocks.up.values.set(up);
  }

  static byteLength({ d, n }: { d: number; n: number }): number {
    return 4 * (BLOCK_POSITIONS * (d + n) + n * d + Matmul.length) + 4096;
  }

  /** f32[rows][n], valid until the next call. */
  scores(values: Float32Array, rows: number): Float32Array {
    const { d, n } = this.#sizes, { inputs, up, scores } = this.#blocks;
    inputs.values.set(values);
    this.#matmul.multiply({
      rows,
      cols: n,
      depth: d,
      left: { address: inputs.address, stride: d },
      right: { address: up.address, stride: d, transposed: true },
      target: { address: scores.address, stride: n },
    });
    return scores.values;
  }
}
