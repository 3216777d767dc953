import { multiplyTransposed, rowsOf } from "./matrix_product.ts";

/** Neurons whose scores for all positions are held at a time. */
const BLOCK_NEURONS = 256;

export interface ScoredPositions {
  /** What B is multiplied with, f32[positions][rank]. */
  hidden: Float32Array;
  positionCount: number;
  /** B, f32[n][rank] */
  weights: Float32Array;
  neuronCount: number;
  rank: number;
}

/** Scores of all positions for some neurons, f32[positions][blockCount]. */
export interface ScoreBlock {
  scores: Float32Array;
  firstNeuron: number;
  blockCount: number;
  /** The scores are sums over this many of the ranks. */
  rankCount: number;
}

/**
 * Calls `visit` with the scores of 256 neurons at a time; with a `rankStep`, several times for the same neurons, with
 * the first 32, 64, ... ranks, at no more cost than the last.
 */
export function forScoreBlocks(
  { hidden, positionCount, weights, neuronCount, rank }: ScoredPositions,
  visit: (block: ScoreBlock) => void,
  rankStep: number = rank,
): void {
  const scores = new Float32Array(positionCount * Math.min(BLOCK_NEURONS, neuronCount));
  for (let firstNeuron = 0; firstNeuron < neuronCount; firstNeuron += BLOCK_NEURONS) {
    const blockCount = Math.min(BLOCK_NEURONS, neuronCount - firstNeuron);
    for (let k = 0; k < rank; k += rankStep) {
      multiplyTransposed(
        rowsOf(hidden, positionCount, rank, k),
        rowsOf(weights, blockCount, rank, firstNeuron * rank + k),
        scores,
        { depth: rankStep, accumulate: k > 0 },
      );
      visit({ scores, firstNeuron, blockCount, rankCount: k + rankStep });
    }
  }
}

/** All scores, f32[positions][n]. */
export function allScores(positions: ScoredPositions): Float32Array {
  const { hidden, positionCount, weights, neuronCount, rank } = positions;
  const scores = new Float32Array(positionCount * neuronCount);
  multiplyTransposed(
    rowsOf(hidden, positionCount, rank),
    rowsOf(weights, neuronCount, rank),
    scores,
    { depth: rank },
  );
  return scores;
}

/** Bits of the pairs with score + bias > 0: u32[positions][ceil(n / 32)]. */
export function masksOf(scores: Float32Array, bias: Float32Array): Uint32Array {
  const neuronCount = bias.length;
  const wordCount = Math.ceil(neuronCount / 32);
  const masks = new Uint32Array((scores.length / neuronCount) * wordCount);
  for (let pair = 0, t = 0; pair < scores.length; t++) {
    for (let neuron = 0; neuron < neuronCount; neuron++, pair++) {
      if (scores[pair] + bias[neuron] > 0) {
        masks[t * wordCount + (neuron >>> 5)] |= 1 << (neuron & 31);
      }
    }
  }
  return masks;
}

/** `count` rows of an array of positions from `firstRow` on. */
export interface PositionRows {
  firstRow: number;
  count: number;
}

/** A x for rows x of `inputs`, f32[..][d], with A f32[rank][d]: f32[count][rank]. */
export function project(
  inputs: Float32Array,
  { firstRow, count }: PositionRows,
  down: Float32Array,
  { rank, d }: { rank: number; d: number },
): Float32Array {
  const hidden = new Float32Array(count * rank);
  multiplyTransposed(
    rowsOf(inputs, count, d, firstRow * d),
    rowsOf(down, rank, d),
    hidden,
    { depth: d },
  );
  return hidden;
}

/** Bits set in `a`, in `b`, and in both. */
export function countBits(
  a: Uint32Array,
  b: Uint32Array,
): { inA: number; inB: number; inBoth: number } {
  let inA = 0, inB = 0, inBoth = 0;
  for (let word = 0; word < a.length; word++) {
    inA += popCount(a[word]), inB += popCount(b[word]), inBoth += popCount(a[word] & b[word]);
  }
  return { inA, inB, inBoth };
}

function popCount(bits: number): number {
  bits -= (bits >>> 1) & 0x55555555;
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
