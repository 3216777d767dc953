import { z } from "zod";
import { readActivation } from "../activations.ts";
import type { ModelConfig } from "../config.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, soundConfig } from "../read_json.ts";
import { readRotary, readScaling } from "../rope.ts";
import {
  LLAMA_SOURCES,
  llamaConfig,
  llamaJson,
  QUERY_KEY_NORM_SOURCES,
  ROTARY_BUFFERS,
} from "./llama.ts";

const gemmaJson = {
  ...llamaJson,
  vocab_size: z.int().positive().default(256_000),
  hidden_size: z.int().positive().default(2304),
  intermediate_size: z.int().positive().default(9216),
  num_hidden_layers: z.int().positive().default(26),
  num_attention_heads: z.int().positive().default(8),
  num_key_value_heads: z.int().positive().nullish().default(4),
  head_dim: z.int().positive().default(256),
  hidden_activation: z.string().nullish(),
  max_position_embeddings: z.int().positive().default(8192),
  tie_word_embeddings: z.boolean().default(true),
  query_pre_attn_scalar: z.number().positive().default(256),
  attn_logit_softcapping: z.number().positive().nullish(),
  final_logit_softcapping: z.number().positive().nullish(),
  sliding_window: z.int().positive().nullish().default(4096),
  layer_types: z.array(z.string()).nullish(),
  bos_token_id: llamaJson.bos_token_id.default(2),
  eos_token_id: llamaJson.eos_token_id.default([1]),
  pad_token_id: llamaJson.pad_token_id.default(0),
};

const gemma2Json = z.object({
  ...gemmaJson,
  attn_logit_softcapping: gemmaJson.attn_logit_softcapping.default(50),
  final_logit_softcapping: gemmaJson.final_logit_softcapping.default(30),
});

const { rope_parameters: _told, ...withoutRope } = gemmaJson;

const gemma3Json = z.object({
  ...withoutRope,
  vocab_size: z.int().positive().default(262_208),
  max_position_embeddings: z.int().positive().default(131_072),
  rope_theta: z.number().positive().default(1_000_000),
  rope_local_base_freq: z.number().positive().default(10_000),
  sliding_window_pattern: z.int().positive().default(6),
  /** Newer files tell both kinds of layers apart here. */
  rope_parameters: z.object({
    full_attention: gemmaJson.rope_parameters,
    sliding_attention: gemmaJson.rope_parameters,
  }).nullish(),
});

type GemmaJson = z.infer<z.ZodObject<typeof gemmaJson>>;

/** What Gemma 2 and 3 share; `every`: each so-many-th layer looks back over everything. */
function gemmaConfig(read: GemmaJson, path: string, every: number): ModelConfig {
  const name = read.hidden_activation ?? "gelu_pytorch_tanh";
  const config = llamaConfig({ ...read, hidden_act: name }, path), { numLayers } = config;
  const length = read.sliding_window;
  const isWindowed = (layer: number) =>
    read.layer_types ? read.layer_types[layer] === "sliding_attention" : (layer + 1) % every !== 0;
  const layers = Array.from({ length: numLayers }, (_, layer) => layer).filter(isWindowed);
  return {
    ...config,
    block: "both",
    attention: {
      scale: 1 / Math.sqrt(read.query_pre_attn_scalar),
      softcap: read.attn_logit_softcapping ?? null,
      window: length ? { length, layers } : null,
      queryKeyNorm: "none" as const,
    },
    ffn: { ...readActivation(name, path, "hidden_activation"), isGated: true },
    scales: {
      embedding: Math.fround(Math.sqrt(config.hiddenSize)),
      residual: 1,
      logits: 1,
      logitsSoftcap: read.final_logit_softcapping ?? null,
    },
  };
}

const GEMMA_SOURCES = {
  ...LLAMA_SOURCES,
  "layers.N.attentionOutputNorm": "model.layers.N.post_attention_layernorm",
  "layers.N.ffnNorm": "model.layers.N.pre_feedforward_layernorm",
  "layers.N.ffnOutputNorm": "model.layers.N.post_feedforward_layernorm",
};

/** Gemma 2 (2024): norms before and after each half, soft caps, every second layer with a window. */
export const gemma2: ModelFamily = {
  modelType: "gemma2",
  title: "Gemma 2",
  fixtures: ["gemma2_gelu"],
  prefixes: [""],
  ignored: ROTARY_BUFFERS,
  normOffset: 1,
  sources: GEMMA_SOURCES,
  readConfig: (json, path) =>
    soundConfig(gemmaConfig(readJson(gemma2Json, json, path), path, 2), path),
};

/** Gemma 3 (2025), text: norms of queries and keys in place of the soft caps; windows turn by angles of their own. */
export const gemma3: ModelFamily = {
  modelType: "gemma3_text",
  title: "Gemma 3 (text)",
  fixtures: ["gemma3_gelu"],
  prefixes: ["", "language_model."],
  ignored: ROTARY_BUFFERS,
  normOffset: 1,
  sources: { ...GEMMA_SOURCES, ...QUERY_KEY_NORM_SOURCES },

  readConfig(json, path) {
    const { rope_parameters: told, ...read } = readJson(gemma3Json, json, path);
    const config = gemmaConfig(read, path, read.sliding_window_pattern);
    const { headDim, maxPositionEmbeddings: maxPositions } = config;
    const whole = told?.full_attention ?? {};
    const positions = {
      ...readRotary(read, path, { headDim, maxPositions }),
      theta: whole.rope_theta ?? read.rope_theta,
      scaling: readScaling(read.rope_scaling ?? whole, path, maxPositions),
      windowTheta: told?.sliding_attention?.rope_theta ?? read.rope_local_base_freq,
    };
    const attention = { ...config.attention, queryKeyNorm: "head" as const };
    return soundConfig({ ...config, positions, attention }, path);
  },
};
