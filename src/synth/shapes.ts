import { decoderConfig } from "../../models/config.ts";
import type { ModelConfig } from "../../models/config.ts";

/** Sizes of a model that `synth` can write. */
export interface SynthShape {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numAttentionHeads: number;
  readonly vocabSize: number;
  /** What differs from the model that it is named after; null for OPT's own shapes. */
  readonly note: string | null;
  /** For tests: not offered by name. */
  readonly isTiny?: boolean;
}

const GATED = "OPT-like: its two FFN matrices have the bytes of the three of the real model";

/**
 * Shapes by name. All are computed as OPT: LayerNorm before attention and FFN, learned positions, ReLU without a gate.
 * For families with a gate the FFN has 1.5 times the neurons, and so the same bytes; their own forward pass is not
 * run yet.
 */
export const SHAPES: Readonly<Record<string, SynthShape>> = {
  "opt-125m": shape(768, 3072, 12, 12),
  "opt-1.3b": shape(2048, 8192, 24, 32),
  "opt-6.7b": shape(4096, 16_384, 32, 32),
  "opt-13b": shape(5120, 20_480, 40, 40),
  "llama-7b": { ...shape(4096, 16_512, 32, 32, 32_000), note: GATED },
  "mistral-7b": { ...shape(4096, 21_504, 32, 32, 32_000), note: GATED },
  "falcon-7b": {
    ...shape(4544, 18_176, 32, 71, 65_024),
    note: "OPT-like: attention before the FFN, with keys and values of all heads",
  },
  "tiny": { ...shape(256, 1024, 4, 8, 2048), isTiny: true },
};

/** Names for help and messages. */
export const SHAPE_NAMES: readonly string[] = Object.keys(SHAPES)
  .filter((name) => !SHAPES[name].isTiny);

/** The shape of this name. Throws `RangeError` naming those that there are. */
export function shapeNamed(name: string): SynthShape {
  if (Object.hasOwn(SHAPES, name)) return SHAPES[name];
  throw new RangeError(
    `Cannot make a model of shape ${JSON.stringify(name)}: there are ${SHAPE_NAMES.join(", ")}`,
  );
}

/** Ids that stand for no word: beginning, padding, end, unknown. */
export const SPECIAL_TOKENS: readonly string[] = ["<s>", "<pad>", "</s>", "<unk>"];

/** The config of a shape, in the words of the header. */
export function configOf(shape: SynthShape): ModelConfig {
  const { hiddenSize, intermediateSize, numLayers, numAttentionHeads, vocabSize } = shape;
  return decoderConfig({
    vocabSize,
    hiddenSize,
    intermediateSize,
    numLayers,
    numAttentionHeads,
    maxPositionEmbeddings: 2048,
    positions: { kind: "learned", offset: 2 },
    norm: { kind: "layer", epsilon: 1e-5 },
    ffn: { activation: "relu", threshold: 0, isGated: false },
    biases: { queryKeyValue: true, output: true, up: true, down: true, head: false },
    bosTokenId: SPECIAL_TOKENS.indexOf("</s>"),
    eosTokenIds: [SPECIAL_TOKENS.indexOf("</s>")],
    padTokenId: SPECIAL_TOKENS.indexOf("<pad>"),
    tiedEmbedding: true,
  });
}

function shape(
  hiddenSize: number,
  intermediateSize: number,
  numLayers: number,
  numAttentionHeads: number,
  vocabSize = 50_272,
): SynthShape {
  return { hiddenSize, intermediateSize, numLayers, numAttentionHeads, vocabSize, note: null };
}
