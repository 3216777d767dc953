import { z } from "zod";
import { ModelFileError, UnsupportedModelError } from "../src/errors.ts";
import type { Quantization } from "../src/format/layout.ts";
import {
  type ModelConfig,
  modelConfigSchema,
  type ModelFamily,
  type ResidentTensor,
  type TensorLayout,
} from "./family.ts";

/**
 * OPT (Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models"): decoder-only, layer norm before
 * attention and FFN, learned positions, biases everywhere, ReLU. The defaults are those of `transformers`' OPTConfig.
 */
const optConfigJson = z.object({
  vocab_size: z.int().positive().default(50272),
  hidden_size: z.int().positive().default(768),
  num_hidden_layers: z.int().positive().default(12),
  ffn_dim: z.int().positive().default(3072),
  num_attention_heads: z.int().positive().default(12),
  max_position_embeddings: z.int().positive().default(2048),
  word_embed_proj_dim: z.int().positive().nullish(),
  do_layer_norm_before: z.boolean().default(true),
  _remove_final_layer_norm: z.boolean().default(false),
  enable_bias: z.boolean().default(true),
  layer_norm_elementwise_affine: z.boolean().default(true),
  activation_function: z.string().default("relu"),
  tie_word_embeddings: z.boolean().default(true),
  bos_token_id: z.int().nonnegative().nullable().default(2),
  eos_token_id: z.int().nonnegative().nullable().default(2),
  pad_token_id: z.int().nonnegative().nullable().default(1),
});

type OptConfigJson = z.infer<typeof optConfigJson>;

/** OPT's learned positions begin at row 2: the first two rows are left over from padding. */
const POSITION_OFFSET = 2;

export const opt: ModelFamily = {
  modelType: "opt",
  prefixes: ["model.", ""],
  ignoredSources: (config) => config.tiedEmbedding ? ["lm_head.weight"] : [],

  readConfig(json: unknown, path: string): ModelConfig {
    const parsed = optConfigJson.safeParse(json);
    if (!parsed.success) {
      const [issue] = parsed.error.issues;
      const field = issue.path.join(".");
      throw new ModelFileError(issue.message, { path, field, byteOffset: 0 });
    }
    refuseUnsupported(parsed.data, path);
    const config = toModelConfig(parsed.data, path);
    const problem = opt.problemWith(config);
    if (problem !== null) throw new UnsupportedModelError(`${path}: ${problem}`);
    return config;
  },

  problemWith(config: ModelConfig): string | null {
    const { hiddenSize, intermediateSize, numAttentionHeads, positionOffset, vocabSize } = config;
    if (hiddenSize % 32 !== 0) return `hidden size ${hiddenSize} is no multiple of 32`;
    if (intermediateSize % 32 !== 0) return `FFN size ${intermediateSize} is no multiple of 32`;
    const headSize = hiddenSize / numAttentionHeads;
    if (headSize % 16 !== 0) { // Or no whole number at all. Pages of the KV cache ask for it.
      return `${numAttentionHeads} attention heads leave ${headSize} numbers each, no multiple of 16`;
    }
    if (positionOffset !== POSITION_OFFSET) return `position offset ${positionOffset} is not 2`;
    const outside = [config.bosTokenId, config.eosTokenId].find((id) => (id ?? 0) >= vocabSize);
    return outside === undefined ? null : `token ${outside} is not in a vocabulary of ${vocabSize}`;
  },

  residentTensors(config: ModelConfig, quantization: Quantization): ResidentTensor[] {
    const tensors = [...embeddings(config, quantization)];
    for (let layer = 0; layer < config.numLayers; layer++) {
      tensors.push(...layerTensors(config, quantization, layer));
    }
    tensors.push(...norm("finalNorm", "decoder.final_layer_norm", config.hiddenSize));
    if (!config.tiedEmbedding) {
      const shape = [config.vocabSize, config.hiddenSize];
      tensors.push(tensor("lmHead", "lm_head.weight", quantization, "tiled", shape));
    }
    return tensors;
  },

  ffnSource: (layer) => ({
    up: `decoder.layers.${layer}.fc1.weight`,
    down: `decoder.layers.${layer}.fc2.weight`,
  }),
};

function toModelConfig(config: OptConfigJson, path: string): ModelConfig {
  const parsed = modelConfigSchema.safeParse({
    vocabSize: config.vocab_size,
    hiddenSize: config.hidden_size,
    intermediateSize: config.ffn_dim,
    numLayers: config.num_hidden_layers,
    numAttentionHeads: config.num_attention_heads,
    maxPositionEmbeddings: config.max_position_embeddings,
    positionOffset: POSITION_OFFSET,
    layerNormEpsilon: 1e-5,
    activation: "relu",
    bosTokenId: config.bos_token_id,
    eosTokenId: config.eos_token_id,
    padTokenId: config.pad_token_id,
    tiedEmbedding: config.tie_word_embeddings,
  });
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new ModelFileError(issue.message, { path, field: issue.path.join("."), byteOffset: 0 });
}

function embeddings(config: ModelConfig, quantization: Quantization): ResidentTensor[] {
  const { vocabSize, hiddenSize, maxPositionEmbeddings, positionOffset } = config;
  const positions = [maxPositionEmbeddings + positionOffset, hiddenSize];
  const positionDtype = quantization === "f32" ? "f32" : "f16";
  return [
    tensor("embedTokens", "decoder.embed_tokens.weight", quantization, "tiled", [
      vocabSize,
      hiddenSize,
    ]),
    tensor(
      "embedPositions",
      "decoder.embed_positions.weight",
      positionDtype,
      "rows",
      positions,
    ),
  ];
}

function layerTensors(
  { hiddenSize, intermediateSize }: ModelConfig,
  quantization: Quantization,
  layer: number,
): ResidentTensor[] {
  const ours = `layers.${layer}`;
  const theirs = `decoder.layers.${layer}`;
  const projections = [["query", "q_proj"], ["key", "k_proj"], ["value", "v_proj"], [
    "output",
    "out_proj",
  ]].flatMap(([name, source]) => [
    tensor(
      `${ours}.attention.${name}.weight`,
      `${theirs}.self_attn.${source}.weight`,
      quantization,
      "tiled",
      [hiddenSize, hiddenSize],
    ),
    vector(`${ours}.attention.${name}.bias`, `${theirs}.self_attn.${source}.bias`, hiddenSize),
  ]);
  return [
    ...norm(`${ours}.attentionNorm`, `${theirs}.self_attn_layer_norm`, hiddenSize),
    ...projections,
    ...norm(`${ours}.ffnNorm`, `${theirs}.final_layer_norm`, hiddenSize),
    vector(`${ours}.ffn.up.bias`, `${theirs}.fc1.bias`, intermediateSize),
    vector(`${ours}.ffn.down.bias`, `${theirs}.fc2.bias`, hiddenSize),
  ];
}

function norm(name: string, sourceName: string, length: number): ResidentTensor[] {
  return [
    vector(`${name}.weight`, `${sourceName}.weight`, length),
    vector(`${name}.bias`, `${sourceName}.bias`, length),
  ];
}

function vector(name: string, sourceName: string, length: number): ResidentTensor {
  return tensor(name, sourceName, "f32", "rows", [length]);
}

function tensor(
  name: string,
  sourceName: string,
  dtype: Quantization,
  layout: TensorLayout,
  shape: readonly number[],
): ResidentTensor {
  return { name, sourceName, dtype, layout, shape };
}

/** Says which setting of a sound config.json we do not run, and what we would run. */
function refuseUnsupported(config: OptConfigJson, path: string): void {
  const refuse = (field: string, wanted: string, found: unknown) => {
    throw new UnsupportedModelError(
      `${path}: ${field} must be ${wanted} for an OPT model to be packed: found ${found}`,
    );
  };
  const { hidden_size: hiddenSize, word_embed_proj_dim: projection } = config;
  if (!config.do_layer_norm_before) refuse("do_layer_norm_before", "true", false);
  if (config._remove_final_layer_norm) refuse("_remove_final_layer_norm", "false", true);
  if (!config.enable_bias) refuse("enable_bias", "true", false);
  if (!config.layer_norm_elementwise_affine) refuse("layer_norm_elementwise_affine", "true", false);
  if (config.activation_function !== "relu") {
    refuse("activation_function", '"relu"', JSON.stringify(config.activation_function));
  }
  if ((projection ?? hiddenSize) !== hiddenSize) {
    refuse("word_embed_proj_dim", `hidden_size (${hiddenSize})`, projection);
  }
}
