import { divideSlots, fewestSlots, missesAt } from "../cache/divide_slots.ts";
import type { MissCurve } from "../cache/miss_curve.ts";
import { matrixByteLength } from "../format/layout.ts";

/** Ranks grow in steps of a tile's columns. */
export const RANK_STEP = 32;

/** A layer, and what some ranks of its predictor would cost, one entry a rank. */
export interface RankChoices {
  hiddenSize: number;
  neuronCount: number;
  /** The ranks, ascending; 32, 64, ... unless told. The first is the least that a layer gets. */
  ranks?: readonly number[];
  /** Share of the neurons predicted at the wanted recall. */
  predictedShares: readonly number[];
  missCurves: readonly MissCurve[];
}

export interface ChooseRanksOptions {
  /** What all predictors may take in the file. */
  byteLimit: number;
  /** Cache sizes, as shares of all neurons, at which reads are weighed. */
  cacheShares?: readonly number[];
}

/** Small, middling and large: ranks are chosen once, and the cache at each run. */
const CACHE_SHARES: readonly number[] = [0.1, 0.15, 0.2, 0.3];
const SWEEPS_MAX = 20;

/** Bytes of one layer's predictor in the file: A and B in tiled q8, and the biases of both looks in f32. */
export function predictorByteLength(
  { hiddenSize, neuronCount }: { hiddenSize: number; neuronCount: number },
  rank: number,
): number {
  return matrixByteLength("q8", rank, hiddenSize) + matrixByteLength("q8", neuronCount, rank) +
    2 * 4 * neuronCount;
}

/** A tenth of the bytes that the FFN's two matrices take in f16, over all layers. */
export function defaultPredictorBytes(
  layers: readonly { hiddenSize: number; neuronCount: number }[],
): number {
  return layers.reduce(
    (sum, { hiddenSize: d, neuronCount: n }) => sum + Math.floor(0.4 * n * d),
    0,
  );
}

/**
 * Chooses a rank for each layer so that all layers together read as little as `byteLimit` allows. Neurons predicted in
 * vain cost little in a layer that a cache holds anyway and much in another, so the measure is expected reads per
 * token, with slots divided for the very ranks: the mean of its logarithm over the cache sizes.
 *
 * Starts where the fewest neurons are predicted, then moves single steps from layer to layer while that
 * helps. Throws a RangeError if the least rank in each layer takes more bytes than allowed.
 */
export function chooseRanks(layers: readonly RankChoices[], options: ChooseRanksOptions): number[] {
  const { byteLimit, cacheShares = CACHE_SHARES } = options;
  let steps = fewestPredicted(layers, byteLimit);
  let cost = expectedReads(layers, steps, cacheShares);
  for (let sweep = 0, improved = true; improved && sweep < SWEEPS_MAX; sweep++) {
    improved = false;
    for (const [giver, taker] of pairsOf(layers.length)) {
      const moved = moveStep(steps, giver, taker);
      if (!isAllowed(layers, moved, byteLimit)) continue;
      const movedCost = expectedReads(layers, moved, cacheShares);
      if (movedCost < cost - 1e-9) steps = moved, cost = movedCost, improved = true;
    }
  }
  return steps.map((step, layer) => rankOf(layers[layer], step));
}

function rankOf({ ranks }: RankChoices, step: number): number {
  return ranks ? ranks[step - 1] : step * RANK_STEP;
}

/** Mean logarithm of the reads per token that the layers' miss curves promise. */
function expectedReads(
  layers: readonly RankChoices[],
  steps: readonly number[],
  cacheShares: readonly number[],
): number {
  const curves = layers.map(({ missCurves }, layer) => missCurves[steps[layer] - 1]);
  const count = layers[0].neuronCount;
  let sum = 0;
  for (const share of cacheShares) {
    const totalSlots = Math.max(layers.length, Math.round(share * count * layers.length));
    const lists = layers.map(({ predictedShares }, layer) =>
      count * predictedShares[steps[layer] - 1]
    );
    const minSlots = fewestSlots(lists, { totalSlots, count });
    const slots = divideSlots({ curves, totalSlots, minSlots, count });
    const reads = curves.reduce((total, curve, layer) => total + missesAt(curve, slots[layer]), 0);
    sum += Math.log(reads + 0.1);
  }
  return sum / cacheShares.length;
}

/** Giver and taker of a step; the giver -1 stands for bytes that nobody uses. */
function pairsOf(layerCount: number): [number, number][] {
  const pairs: [number, number][] = [];
  for (let giver = -1; giver < layerCount; giver++) {
    for (let taker = 0; taker < layerCount; taker++) {
      if (giver !== taker) pairs.push([giver, taker]);
    }
  }
  return pairs;
}

function moveStep(steps: readonly number[], giver: number, taker: number): number[] {
  return steps.map((step, layer) => step + (layer === taker ? 1 : layer === giver ? -1 : 0));
}

function isAllowed(layers: readonly RankChoices[], steps: readonly number[], byteLimit: number) {
  let bytes = 0;
  for (let layer = 0; layer < layers.length; layer++) {
    if (steps[layer] < 1 || steps[layer] > layers[layer].missCurves.length) return false;
    bytes += predictorByteLength(layers[layer], rankOf(layers[layer], steps[layer]));
  }
  return bytes <= byteLimit;
}

/**
 * Steps of ranks for each layer: the layer grows next whose added ranks spare the most predicted neurons per byte.
 * Several steps are weighed at once, since one may gain little and two much.
 */
function fewestPredicted(layers: readonly RankChoices[], byteLimit: number): number[] {
  const steps = layers.map(() => 1);
  const bytesOf = (layer: number, step: number) =>
    predictorByteLength(layers[layer], rankOf(layers[layer], step));
  let left = byteLimit - layers.reduce((sum, _, layer) => sum + bytesOf(layer, 1), 0);
  if (left < 0) {
    throw new RangeError(
      `Cannot fit predictors of rank ${
        rankOf(layers[0], 1)
      } into ${byteLimit} bytes: ${-left} more are needed`,
    );
  }
  while (true) {
    let best = { layer: -1, step: 0, gain: 0, bytes: 0 };
    for (let layer = 0; layer < layers.length; layer++) {
      const { predictedShares, neuronCount } = layers[layer];
      for (let step = steps[layer] + 1; step <= predictedShares.length; step++) {
        const bytes = bytesOf(layer, step) - bytesOf(layer, steps[layer]);
        if (bytes > left) break;
        const spared = predictedShares[steps[layer] - 1] - predictedShares[step - 1];
        const gain = (spared * neuronCount) / bytes;
        if (gain > best.gain) best = { layer, step, gain, bytes };
      }
    }
    if (best.layer < 0) return steps;
    steps[best.layer] = best.step;
    left -= best.bytes;
  }
}

/** Bytes of a layer's smallest predictor. */
export function leastPredictorBytes(hiddenSize: number, neuronCount: number): number {
  return predictorByteLength({ hiddenSize, neuronCount }, RANK_STEP);
}
