import type { ModelConfig } from "../../models/config.ts";
import { isSparse } from "../activation.ts";
import { ADDED, CONSTANT_ENERGY, ENERGY } from "./planted.ts";

/**
 * Which directions of the residual stream (spread_basis.ts) mean what, and how much of its energy they carry. The
 * energy of an embedding is d, so 1 a number.
 *
 *   direction 0      topicSize      + tokenSize     + identitySize            + numLayers * attentionSize    d - 1
 *             | topic  | token         | identity      | attention of layer 0, 1, ... | constant | nothing planted |
 *
 * The late look sees topic, token and the attention directions of its layer (of the one before, where attention and FFN are side by
 * side): `latentSize` numbers. The constant is there where rows that decide have no bias.
 */
export class ResidualLayout {
  readonly topicSize: number;
  readonly tokenSize: number;
  /** Two numbers for each plane in which a token's identity is an angle; a multiple of a head's size. */
  readonly identitySize: number;
  readonly attentionSize: number;
  readonly latentSize: number;
  /** Energy a number of what all embeddings share; 0: nothing. */
  readonly constantEnergy: number;
  /** Whether a layer's FFN sees what its attention sees. */
  readonly #isParallel: boolean;
  readonly #config: ModelConfig;

  constructor(config: ModelConfig) {
    const { hiddenSize: d, headDim, numAttentionHeads, numKeyValueHeads, numLayers } = config;
    const rank = ranksOf(config)[0];
    if (numAttentionHeads * headDim !== d) {
      throw new RangeError(
        `Cannot plant queries of ${numAttentionHeads * headDim} numbers in ${d}`,
      );
    }
    this.#config = config;
    this.topicSize = rank * 5 / 16;
    this.tokenSize = rank / 2;
    this.attentionSize = rank / 8;
    this.latentSize = this.topicSize + this.tokenSize + this.attentionSize;
    // All of it comes through values. OPT has more than it needs, which makes embeddings dear.
    const heads = config.positions.kind === "learned"
      ? Math.max(2, Math.round(d / 8 / headDim))
      : Math.ceil(IDENTITY_LEAST / headDim);
    this.identitySize = Math.min(numKeyValueHeads, heads) * headDim;
    this.constantEnergy = isSparse(config) && !config.biases.up ? CONSTANT_ENERGY : 0;
    this.#isParallel = config.block.startsWith("parallel");
    if (this.constantAt + 1 > d - 1) {
      throw new RangeError(`Cannot plant directions of ${numLayers} layers in ${d} numbers`);
    }
  }

  get tokenAt(): number {
    return this.topicSize;
  }

  get identityAt(): number {
    return this.topicSize + this.tokenSize;
  }

  attentionAt(layer: number): number {
    return this.identityAt + this.identitySize + layer * this.attentionSize;
  }

  get constantAt(): number {
    return this.attentionAt(this.#config.numLayers);
  }

  /** The layer whose attention writes what a layer's FFN reads; -1: none has written yet. */
  attentionSource(layer: number): number {
    return this.#isParallel ? layer - 1 : layer;
  }

  /** The coordinate of the identity that number `index` of all queries, and of what attention hands to its output, stands for. */
  coordinateOf(index: number): number {
    const { headDim, numAttentionHeads, numKeyValueHeads } = this.#config;
    const group = numAttentionHeads / numKeyValueHeads, head = Math.floor(index / headDim);
    return (Math.floor(head / group) * headDim + index % headDim) % this.identitySize;
  }

  /** Deviation of the residual stream along one direction of each kind. */
  deviationOf(kind: "topic" | "token" | "identity" | "attention"): number {
    const { hiddenSize: d } = this.#config;
    if (kind === "attention") return Math.sqrt(ADDED.attention * d / this.attentionSize);
    return Math.sqrt(ENERGY[kind] * d / this[`${kind}Size`]);
  }

  /** Variance along any direction, before a layer's FFN, of what nobody planted: positions, attention's noise, FFN outputs. */
  noiseBefore(layer: number): number {
    const { attentionNoise, ffn } = ADDED;
    const before = ENERGY.position + layer * (attentionNoise + ffn);
    return this.#isParallel ? before : before + attentionNoise;
  }

  /** Energy a number of the residual stream before a layer's attention, and before its FFN. */
  energyBefore(layer: number): { attention: number; ffn: number } {
    const { attention, attentionNoise, ffn } = ADDED;
    const before = 1 + this.constantEnergy + layer * (attention + attentionNoise + ffn);
    if (this.#isParallel) return { attention: before, ffn: before };
    return { attention: before, ffn: before + attention + attentionNoise };
  }
}

/** Numbers, two a plane, by which a quarter of a million words are told apart; one head's, if keys and values have but one. */
const IDENTITY_LEAST = 128;

/** Layers at the end whose predictors have a larger rank. */
const LAYERS_OF_LARGE_RANK = 1 / 8;

/**
 * The rank of each layer's predictor. The paper's for OPT 6.7B (128 in 28 layers, 1024 in the last 4), in proportion elsewhere;
 * 64 at least, as the topic of a narrower one would tie too many neurons together.
 */
export function ranksOf({ hiddenSize: d, numLayers }: ModelConfig): number[] {
  const rank = Math.max(64, 32 * Math.round(d / 32 / 32));
  const large = Math.min(8 * rank, 32 * Math.floor(d / 4 / 32));
  const largeCount = Math.max(1, Math.round(numLayers * LAYERS_OF_LARGE_RANK));
  return Array.from(
    { length: numLayers },
    (_, layer) => layer < numLayers - largeCount ? rank : large,
  );
}
