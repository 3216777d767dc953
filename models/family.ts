import { z } from "zod";
import type { Quantization } from "../src/format/layout.ts";

const size = (max: number) => z.int().min(1).max(max);

/**
 * A model's sizes and choices, in the words of `config.json` (camelCase), as they stand in a `.flash` header.
 *
 * The upper bounds are far above any model; they keep the product of two sizes exact in a number.
 */
export const modelConfigSchema = z.strictObject({
  /** Tokens in the vocabulary: rows of `embedTokens`. */
  vocabSize: size(1 << 24),
  /** d: length of the residual stream; a multiple of 32. */
  hiddenSize: size(1 << 18),
  /** n: FFN neurons of a layer; a multiple of 32. */
  intermediateSize: size(1 << 22),
  numLayers: size(1 << 12),
  numAttentionHeads: size(1 << 12),
  maxPositionEmbeddings: size(1 << 24),
  /** Row of `embedPositions` that position 0 uses. */
  positionOffset: z.int().min(0).max(1 << 10),
  layerNormEpsilon: z.number().min(0).max(1),
  activation: z.literal("relu"),
  bosTokenId: z.int().min(0).max(1 << 24).nullable(),
  eosTokenId: z.int().min(0).max(1 << 24).nullable(),
  padTokenId: z.int().min(0).max(1 << 24).nullable(),
  /** Whether `embedTokens` is the output matrix too. If not, there is an `lmHead`. */
  tiedEmbedding: z.boolean(),
});

export type ModelConfig = z.infer<typeof modelConfigSchema>;

/** How a resident tensor is stored: tiles of 8 x 32, or plain rows. */
export type TensorLayout = "tiled" | "rows";

/** A resident tensor that a model of this family has, and where its numbers come from. */
export interface ResidentTensor {
  /** Our name: `layers.0.attention.query.weight`. */
  readonly name: string;
  /** The name in a Hugging Face checkpoint, without a prefix that the family may add. */
  readonly sourceName: string;
  readonly dtype: Quantization;
  readonly layout: TensorLayout;
  /** [rows, cols], or [n]. */
  readonly shape: readonly number[];
}

/** The FFN matrices of a layer, which become bundles: `up` [n, d] with neurons as rows, `down` [d, n] as columns. */
export interface FfnSource {
  readonly up: string;
  readonly down: string;
}

/** What packing needs to know about a model family. */
export interface ModelFamily {
  /** `model_type` in config.json. */
  readonly modelType: string;
  /** Prefixes before the source names that checkpoints of this family are seen with. */
  readonly prefixes: readonly string[];
  /** Source names that may be there and are not needed, for a model with this config. */
  ignoredSources(config: ModelConfig): readonly string[];
  /** Reads a parsed config.json; throws `ModelFileError` (damaged) or `UnsupportedModelError` (not run by us). */
  readConfig(json: unknown, path: string): ModelConfig;
  /** What contradicts itself or is not supported in a config, as a sentence, or null. */
  problemWith(config: ModelConfig): string | null;
  /** The resident tensors in the order of the file. */
  residentTensors(config: ModelConfig, quantization: Quantization): ResidentTensor[];
  ffnSource(layerIndex: number): FfnSource;
}
