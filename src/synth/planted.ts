import { exceededWith, normalDensity } from "./normal.ts";
import { randomFor, shuffled, STREAM } from "./noise.ts";
import { OPT_ACTIVE } from "./shapes.ts";

/** What a synthetic model is to show when it runs. The paper's figures for OPT 6.7B ("LLM in a flash", 3.2 and 3.3). */
export const PAPER = {
  activeFirst: 0.015,
  activeLast: 0.054,
  activeMean: OPT_ACTIVE,
  /** Predicted neurons over active ones. */
  overPrediction: 3,
  recall: 0.95,
  /** Tokens of the window, the share of the FFN that it holds, and the share that a token reads. */
  window: 5,
  windowShare: 0.24,
  readShare: 0.024,
} as const;

/**
 * What moves a neuron's pre-activation, as shares of its variance. Found by simulation for the paper's window
 * (docs/decisions.md): `topic` moves slowly along a text, `token` belongs to the token, `attention` comes with the layer's
 * own attention and is news to the early look, `unseen` is what no low-rank predictor sees.
 */
export const VARIANCE = { topic: 0.5, token: 0.125, attention: 0.175, unseen: 0.2 } as const;

/** Tokens after which a direction of the topic has forgotten 63 %, by turns. */
export const TOPIC_TOKENS: readonly number[] = [8, 60];

/** How a token's embedding and its position share the residual stream. */
export const ENERGY = { topic: 0.2, token: 0.15, identity: 0.6, position: 0.05 } as const;

/**
 * What all embeddings share, where the rows that decide have no bias: they read it with minus their threshold. Energy of a number, beside
 * those above; large enough that what layers add along it moves thresholds by a few percent.
 */
export const CONSTANT_ENERGY = 0.25;

/** dReLU multiplies by ReLU of the up row, too: this added, that is seldom zero, and the gate decides here as elsewhere. */
export const UP_SHIFT = 2;

/**
 * A router's scores: how topic and token share their variance, and their deviation. The first choice comes again for the next token in
 * 30 % (docs/decisions.md).
 */
export const ROUTER = { topic: 0.5, token: 0.5, deviation: 1.5 } as const;

/** What each layer adds to the energy of the residual stream: along its own directions, at random, and by its FFN. */
export const ADDED = { attention: 0.02, attentionNoise: 0.01, ffn: 0.02 } as const;

/** The share of the tokens for which the k-th busiest neuron is active falls as k^-0.75, and is no larger than this. */
const RATE_EXPONENT = 0.75;
const RATE_MAX = 0.9;

/** Share of a layer's neurons that are active, on average: 1.5 % to 5.4 %, and 3.3 % over all layers; or with another mean as much more. */
export function activeShare(
  layer: number,
  numLayers: number,
  wantedMean: number = PAPER.activeMean,
): number {
  return optShare(layer, numLayers) * (wantedMean / PAPER.activeMean);
}

function optShare(layer: number, numLayers: number): number {
  const { activeFirst, activeLast, activeMean } = PAPER;
  const shareAt = (depth: number, power: number) =>
    activeFirst + (activeLast - activeFirst) * depth ** power;
  if (numLayers === 1) return activeMean;
  const depths = Array.from({ length: numLayers }, (_, index) => index / (numLayers - 1));
  let low = 0.1, high = 10;
  for (let step = 0; step < 40; step++) {
    const power = (low + high) / 2;
    const mean = depths.reduce((sum, depth) => sum + shareAt(depth, power), 0) / numLayers;
    if (mean > activeMean) low = power;
    else high = power;
  }
  return shareAt(depths[layer], low);
}

/** The thresholds of a layer's neurons, in deviations of their pre-activations: f32[n], by a power law in random order. */
export function thresholdsOf(
  layer: number,
  { seed, numLayers, count, activeMean }: {
    seed: number;
    numLayers: number;
    count: number;
    activeMean?: number;
  },
): Float32Array {
  const wanted = activeShare(layer, numLayers, activeMean) * count;
  const powers = Float64Array.from({ length: count }, (_, k) => (k + 0.5) ** -RATE_EXPONENT);
  const sumOf = (factor: number) =>
    powers.reduce((sum, power) => sum + Math.min(RATE_MAX, factor * power), 0);
  let low = 0, high = wanted;
  for (let step = 0; step < 40; step++) {
    const middle = (low + high) / 2;
    if (sumOf(middle) < wanted) low = middle;
    else high = middle;
  }
  const order = shuffled(count, randomFor(seed, STREAM.rates, layer));
  const thresholds = new Float32Array(count);
  order.forEach((neuron, k) => {
    thresholds[neuron] = exceededWith(Math.min(RATE_MAX, low * powers[k]));
  });
  return thresholds;
}

/** The mean square of ReLU(s - threshold), for s of variance 1. */
export function activationEnergy(threshold: number): number {
  // The tail from its own density: Mills' ratio by a continued fraction would be exact, and nothing here needs that.
  const tail = upperTail(threshold);
  return Math.max(0, (1 + threshold ** 2) * tail - threshold * normalDensity(threshold));
}

/** The mean fourth power of the same: the mean square of a squared ReLU. */
export function squaredActivationEnergy(threshold: number): number {
  // Partial integration: moment n = (n - 1) moment n - 2 minus threshold times moment n - 1.
  const tail = upperTail(threshold), first = normalDensity(threshold) - threshold * tail;
  const second = tail - threshold * first, third = 2 * first - threshold * second;
  return Math.max(0, 3 * second - threshold * third);
}

/** P(s > x), to 1e-7 (Abramowitz and Stegun 26.2.17). */
function upperTail(x: number): number {
  if (x < 0) return 1 - upperTail(-x);
  const t = 1 / (1 + 0.2316419 * x);
  const series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 +
            t * (-1.821255978 + t * 1.330274429))));
  return normalDensity(x) * series;
}
