import { z } from "zod";
import { readActivation } from "../activations.ts";
import { readCommonFields } from "../common_fields.ts";
import { decoderConfig } from "../config.ts";
import type { ModelFamily } from "../family.ts";
import { fusedByGroup } from "../fused.ts";
import { readJson, soundConfig, tokenIdJson, tokenIdsJson } from "../read_json.ts";
import { readRotary, rotaryJson } from "../rope.ts";
import { ROTARY_BUFFERS } from "./llama.ts";

/** Defaults of `transformers`' PersimmonConfig. */
const configJson = z.object({
  vocab_size: z.int().positive().default(262_144),
  hidden_size: z.int().positive().default(4096),
  intermediate_size: z.int().positive().default(16_384),
  num_hidden_layers: z.int().positive().default(36),
  num_attention_heads: z.int().positive().default(64),
  hidden_act: z.string().default("relu2"),
  max_position_embeddings: z.int().positive().default(16_384),
  layer_norm_eps: z.number().positive().default(1e-5),
  qk_layernorm: z.boolean().default(true),
  tie_word_embeddings: z.boolean().default(false),
  bos_token_id: tokenIdJson.default(1),
  eos_token_id: tokenIdsJson.default([2]),
  pad_token_id: tokenIdJson.default(null),
  ...rotaryJson,
});

const THETA = 25_000, ROTARY_SHARE = 0.5;

/** Persimmon (Elsen et al. 2023): squared ReLU, LayerNorm of each head's queries and keys, biases everywhere. */
export const persimmon: ModelFamily = {
  modelType: "persimmon",
  title: "Persimmon (squared ReLU)",
  fixtures: ["persimmon"],
  prefixes: [""],
  ignored: ROTARY_BUFFERS,
  sources: {
    embedTokens: "model.embed_tokens",
    finalNorm: "model.final_layernorm",
    lmHead: "lm_head",
    "layers.N.attentionNorm": "model.layers.N.input_layernorm",
    ...fusedByGroup("model.layers.N.self_attn.query_key_value"),
    "layers.N.attention.queryNorm": "model.layers.N.self_attn.q_layernorm",
    "layers.N.attention.keyNorm": "model.layers.N.self_attn.k_layernorm",
    "layers.N.attention.output": "model.layers.N.self_attn.dense",
    "layers.N.ffnNorm": "model.layers.N.post_attention_layernorm",
    "layers.N.ffn.up": "model.layers.N.mlp.dense_h_to_4h",
    "layers.N.ffn.down": "model.layers.N.mlp.dense_4h_to_h",
  },

  readConfig(json, path) {
    const read = readJson(configJson, json, path), common = readCommonFields(read);
    const { headDim, maxPositionEmbeddings: maxPositions } = common;
    const config = decoderConfig({
      ...common,
      positions: readRotary(read, path, {
        headDim,
        maxPositions,
        theta: THETA,
        share: ROTARY_SHARE,
      }),
      norm: { kind: "layer", epsilon: read.layer_norm_eps },
      ffn: { ...readActivation(read.hidden_act, path), isGated: false },
      biases: { queryKeyValue: true, output: true, up: true, down: true, head: false },
    });
    const queryKeyNorm = read.qk_layernorm ? "head" as const : "none" as const;
    const attention = { ...config.attention, queryKeyNorm };
    return soundConfig({ ...config, attention }, path);
  },
};
