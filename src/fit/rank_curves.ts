import { type MissCurve, missCurve } from "../cache/miss_curve.ts";
import { RANK_STEP } from "./choose_ranks.ts";
import { forScoreBlocks, project, type ScoreBlock } from "./low_rank_scores.ts";
import type { LayerObservations } from "./observations.ts";
import { type ReducedRank, residualsByRank } from "./reduced_rank.ts";

/** What predictors of rank 32, 64, ... would cost: entry k stands for rank 32 (k + 1). */
export interface RankCurves {
  /** Share of the neurons predicted at the wanted recall. */
  predictedShares: number[];
  missCurves: MissCurve[];
}

/** Margins are kept in a byte, in sixteenths of a deviation from -8 to 8. */
const LEVELS_PER_UNIT = 16;
const LEVELS = 256;

/**
 * Tries all ranks, before rounding to q8, on the first held-out positions. `active` is
 * u32[>= positionCount][ceil(n / 32)].
 */
export function rankCurves(
  { inputs, fitCount }: LayerObservations,
  reduced: ReducedRank,
  { active, recallWanted, positionCount }: {
    active: Uint32Array;
    recallWanted: number;
    positionCount: number;
  },
): RankCurves {
  const { hiddenSize: d, neuronCount, rankMax, a, b, means } = reduced;
  const hidden = project(inputs, { firstRow: fitCount, count: positionCount }, a, {
    rank: rankMax,
    d,
  });
  const mean = new Float32Array(reduced.moments.mean);
  const hiddenMean = project(mean, { firstRow: 0, count: 1 }, a, { rank: rankMax, d });
  for (let k = 0; k < hidden.length; k++) hidden[k] -= hiddenMean[k % rankMax];

  const residuals = residualsByRank(reduced);
  const levels = residuals.map(() => new Uint8Array(positionCount * neuronCount));
  forScoreBlocks({ hidden, positionCount, weights: b, neuronCount, rank: rankMax }, (block) => {
    const index = block.rankCount / RANK_STEP - 1;
    storeLevels(levels[index], block, { means, residuals: residuals[index], positionCount });
  }, RANK_STEP);

  const predictedShares: number[] = [], missCurves: MissCurve[] = [];
  for (const level of levels) {
    const limit = levelForRecall(level, active, neuronCount, recallWanted);
    const { masks, predictedCount } = masksBelow(level, limit, positionCount, neuronCount);
    predictedShares.push(predictedCount / level.length);
    missCurves.push(missCurve({ masks, tokenCount: positionCount, neuronCount }));
  }
  return { predictedShares, missCurves };
}

function storeLevels(
  levels: Uint8Array,
  { scores, firstNeuron, blockCount }: ScoreBlock,
  { means, residuals, positionCount }: {
    means: Float64Array;
    residuals: Float64Array;
    positionCount: number;
  },
): void {
  const neuronCount = means.length;
  for (let t = 0; t < positionCount; t++) {
    for (let k = 0; k < blockCount; k++) {
      const neuron = firstNeuron + k;
      const margin = -(scores[t * blockCount + k] + means[neuron]) / residuals[neuron];
      const level = (margin * LEVELS_PER_UNIT + LEVELS / 2) | 0;
      levels[t * neuronCount + neuron] = level < 0 ? 0 : level >= LEVELS ? LEVELS - 1 : level;
    }
  }
}

/** The smallest level below which the share `recall` of the active pairs lies. */
function levelForRecall(
  levels: Uint8Array,
  active: Uint32Array,
  neuronCount: number,
  recall: number,
): number {
  const counts = new Float64Array(LEVELS);
  const wordCount = Math.ceil(neuronCount / 32);
  let total = 0;
  for (let pair = 0, t = 0; pair < levels.length; t++) {
    for (let neuron = 0; neuron < neuronCount; neuron++, pair++) {
      if ((active[t * wordCount + (neuron >>> 5)] >>> (neuron & 31)) & 1) {
        counts[levels[pair]]++;
        total++;
      }
    }
  }
  let found = 0, level = 0;
  while (level < LEVELS && found < recall * total) found += counts[level++];
  return level;
}

function masksBelow(
  levels: Uint8Array,
  limit: number,
  positionCount: number,
  neuronCount: number,
): { masks: Uint32Array; predictedCount: number } {
  const wordCount = Math.ceil(neuronCount / 32);
  const masks = new Uint32Array(positionCount * wordCount);
  let predictedCount = 0;
  for (let pair = 0, t = 0; t < positionCount; t++) {
    for (let neuron = 0; neuron < neuronCount; neuron++, pair++) {
      if (levels[pair] >= limit) continue;
      masks[t * wordCount + (neuron >>> 5)] |= 1 << (neuron & 31);
      predictedCount++;
    }
  }
  return { masks, predictedCount };
}
