import type { ModelConfig } from "../../models/config.ts";
import { isSparse } from "../activation.ts";
import { NoisePool, randomFor, STREAM } from "./noise.ts";
import {
  activationEnergy,
  ADDED,
  ENERGY,
  ROUTER,
  squaredActivationEnergy,
  thresholdsOf,
  UP_SHIFT,
  VARIANCE,
} from "./planted.ts";
import { ResidualLayout } from "./residual_layout.ts";
import { SpreadBasis } from "./spread_basis.ts";
import { TokenLatents } from "./token_latents.ts";

export interface BlueprintOptions {
  readonly config: ModelConfig;
  readonly seed: number;
  /** Share of the neurons that are active, over all layers; null where activations are hardly ever zero. Default: OPT's. */
  readonly activeMean?: number | null;
}

/** The mean square of SiLU of a normal deviate. */
const SILU_ENERGY = 0.3556;

/** What a synthetic model is made of, short of its weights: a function of sizes and seed alone, so that each thread has its own. */
export class Blueprint {
  readonly config: ModelConfig;
  readonly seed: number;
  readonly layout: ResidualLayout;
  readonly basis: SpreadBasis;
  readonly tokens: TokenLatents;
  readonly noise: NoisePool;
  /** Whether bundles' noise is put together from what was rounded once. OPT's files keep the bytes that they have always had. */
  readonly noiseIsStored: boolean;
  readonly #activeMean: number | undefined;
  #thresholds: { layer: number; values: Float32Array } | undefined;

  constructor({ config, seed, activeMean }: BlueprintOptions) {
    this.config = config;
    this.#activeMean = activeMean ?? undefined;
    this.seed = seed;
    this.noiseIsStored = config.positions.kind !== "learned";
    this.layout = new ResidualLayout(config);
    this.basis = new SpreadBasis(config.hiddenSize, seed);
    this.tokens = new TokenLatents(config, this.layout, seed);
    this.noise = new NoisePool(seed);
  }

  /** f32[n]: in deviations of a neuron's pre-activation. */
  thresholds(layer: number): Float32Array {
    if (this.#thresholds?.layer !== layer) {
      const { numLayers, intermediateSize: count } = this.config;
      const activeMean = this.#activeMean;
      const values = thresholdsOf(layer, { seed: this.seed, numLayers, count, activeMean });
      this.#thresholds = { layer, values };
    }
    return this.#thresholds.values;
  }

  /**
   * How neurons `from` .. `from + rows - 1` weigh the latents, which have variance 1: f32[rows][latentSize] to `target`. In each group
   * a random direction, so that nothing but chance ties two neurons together.
   */
  coefficients(
    layer: number,
    { from, rows }: { from: number; rows: number },
    target: Float32Array,
  ): void {
    const { topicSize, tokenSize, attentionSize, latentSize } = this.layout;
    const hasAttention = this.layout.attentionSource(layer) >= 0;
    const known = hasAttention ? this.knownAttention(layer) : -VARIANCE.attention;
    const groups = [
      { at: 0, length: topicSize, share: VARIANCE.topic },
      { at: topicSize, length: tokenSize, share: VARIANCE.token - known },
      { at: topicSize + tokenSize, length: attentionSize, share: VARIANCE.attention + known },
    ];
    target.fill(0, 0, rows * latentSize);
    for (let row = 0; row < rows; row++) {
      const random = randomFor(this.seed, STREAM.coefficients, layer, from + row);
      for (const { at, length, share } of groups) {
        const begin = row * latentSize + at;
        this.noise.add(target, { from: begin, length, deviation: 1 }, random);
        scaleTo(Math.sqrt(share), target, begin, length);
      }
    }
  }

  /**
   * How a layer's router weighs the latents: f32[experts][latentSize] to `target`. Along the topic and along the tokens' own part experts
   * have directions that are orthogonal to each other, while there are enough, so that each is chosen as often.
   */
  routerCoefficients(layer: number, target: Float32Array): void {
    const { topicSize, tokenSize, latentSize } = this.layout, { count } = this.config.experts!;
    const groups = [
      { at: 0, length: topicSize, share: ROUTER.topic },
      { at: topicSize, length: tokenSize, share: ROUTER.token },
    ];
    target.fill(0, 0, count * latentSize);
    const random = randomFor(this.seed, STREAM.routers, layer);
    for (const { at, length, share } of groups) {
      const rowAt = (row: number) => row * latentSize + at;
      for (let row = 0; row < count; row++) {
        this.noise.add(target, { from: rowAt(row), length, deviation: 1 }, random);
        for (let other = 0; other < row && row < length; other++) {
          takeAway(target, { from: rowAt(row), along: rowAt(other), length });
        }
        scaleTo(1, target, rowAt(row), length);
      }
      const factor = Math.sqrt(share) * ROUTER.deviation;
      for (let row = 0; row < count; row++) scaleTo(factor, target, rowAt(row), length);
    }
  }

  /** The factor that brings the residual stream along latent direction `k` of a layer to variance 1, after the norm. */
  latentScale(layer: number, k: number): number {
    const { layout } = this, { topicSize, tokenSize } = layout;
    const kind = k < topicSize ? "topic" : k < topicSize + tokenSize ? "token" : "attention";
    const variance = layout.deviationOf(kind) ** 2 + layout.noiseBefore(layer);
    return Math.sqrt(layout.energyBefore(layer).ffn / variance);
  }

  /**
   * What stands along a layer's attention directions before its attention adds to them: noise, which the early look sees, too. A
   * share of the pre-activations' variance; tokens' own part gives way to it.
   */
  knownAttention(layer: number): number {
    const { layout } = this;
    return VARIANCE.attention * layout.noiseBefore(layer) / layout.deviationOf("attention") ** 2;
  }

  /** The direction of the residual stream that is latent `k` of a layer. */
  latentDirection(layer: number, k: number): number {
    const { topicSize, tokenSize } = this.layout, shared = topicSize + tokenSize;
    const source = Math.max(0, this.layout.attentionSource(layer));
    return k < shared ? k : this.layout.attentionAt(source) + k - shared;
  }

  /**
   * What attention reads from its values, f32[d] to `target`: of variance 1 over the tokens, for latent `k` of the layer's
   * attention directions.
   */
  attentionReading(layer: number, k: number, target: Float32Array): void {
    const { hiddenSize: d } = this.config;
    target.fill(0, 0, d);
    const deviation = 1 / this.#valueNorm(layer);
    const random = randomFor(this.seed, STREAM.readings, layer, k);
    this.noise.add(target, { from: 0, length: d, deviation }, random);
  }

  /** Deviation of the output matrix's noise. */
  outputNoise(layer: number): number {
    return Math.sqrt(ADDED.attentionNoise) / this.#valueNorm(layer);
  }

  /** Length of the vector of all heads' values: each is a coordinate of the identity, after the norm. */
  #valueNorm(layer: number): number {
    const { hiddenSize: d } = this.config, { layout } = this;
    const repeats = d / layout.identitySize;
    return Math.sqrt(repeats * ENERGY.identity * d / layout.energyBefore(layer).attention);
  }

  /** What the FFN's input has along the constant: the norm of what all embeddings share. */
  constantAt(layer: number): number {
    const { layout, config: { hiddenSize: d } } = this;
    return Math.sqrt(layout.constantEnergy * d / layout.energyBefore(layer).ffn);
  }

  /** The share of the FFN's input that is no constant: what noise of a row sees that has nothing along it. */
  movingShare(layer: number): number {
    const { layout } = this;
    return 1 - layout.constantEnergy / layout.energyBefore(layer).ffn;
  }

  /** Deviation of the numbers of the down columns, so that the FFN adds the energy that it should. */
  downDeviation(layer: number): number {
    const energy = this.#activationEnergy(layer);
    // Coarsely rounded, as runtimes differ in the last bits of an exponential.
    return Math.round(Math.sqrt(ADDED.ffn / energy) * 2 ** 20) / 2 ** 20;
  }

  /** Of all neurons of a layer together. */
  #activationEnergy(layer: number): number {
    const { ffn: { activation, isGated }, experts, intermediateSize: n } = this.config;
    if (!isSparse(this.config)) {
      // Of the experts chosen; their weights are as if they were equal.
      return (experts ? n / experts.count / experts.perToken : n) * SILU_ENERGY;
    }
    const energyOf = activation === "relu2" ? squaredActivationEnergy : activationEnergy;
    const multiplied = isGated && activation === "drelu" ? activationEnergy(-UP_SHIFT) : 1;
    return multiplied * this.thresholds(layer).reduce((sum, at) => sum + energyOf(at), 0);
  }
}

/** Takes from one part of `values` what it has along another, of length 1. */
function takeAway(
  values: Float32Array,
  { from, along, length }: { from: number; along: number; length: number },
): void {
  let product = 0;
  for (let i = 0; i < length; i++) product += values[from + i] * values[along + i];
  for (let i = 0; i < length; i++) values[from + i] -= product * values[along + i];
}

/** Scales a vector to this length. */
function scaleTo(length: number, values: Float32Array, at: number, count: number): void {
  let square = 0;
  for (let i = at; i < at + count; i++) square += values[i] * values[i];
  const scale = length / Math.sqrt(square);
  for (let i = at; i < at + count; i++) values[i] *= scale;
}
