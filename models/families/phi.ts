import { z } from "zod";
import { readActivation } from "../activations.ts";
import { readCommonFields } from "../common_fields.ts";
import { decoderConfig } from "../config.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, soundConfig, tokenIdJson, tokenIdsJson } from "../read_json.ts";
import { readRotary, rotaryJson } from "../rope.ts";
import { ROTARY_BUFFERS } from "./llama.ts";

/** Defaults of `transformers`' PhiConfig. */
const configJson = z.object({
  vocab_size: z.int().positive().default(51_200),
  hidden_size: z.int().positive().default(2048),
  intermediate_size: z.int().positive().default(8192),
  num_hidden_layers: z.int().positive().default(24),
  num_attention_heads: z.int().positive().default(32),
  num_key_value_heads: z.int().positive().nullish(),
  hidden_act: z.string().default("gelu_new"),
  max_position_embeddings: z.int().positive().default(2048),
  layer_norm_eps: z.number().positive().default(1e-5),
  qk_layernorm: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(false),
  bos_token_id: tokenIdJson.default(1),
  eos_token_id: tokenIdsJson.default([2]),
  pad_token_id: tokenIdJson.default(null),
  ...rotaryJson,
});

const ROTARY_SHARE = 0.5;

/** Phi-1, 1.5 and 2 (Gunasekar et al. 2023): attention and FFN side by side, from one norm; biases everywhere. */
export const phi: ModelFamily = {
  modelType: "phi",
  title: "Phi-2",
  fixtures: ["phi_relu"],
  prefixes: [""],
  ignored: ROTARY_BUFFERS,
  sources: {
    embedTokens: "model.embed_tokens",
    finalNorm: "model.final_layernorm",
    lmHead: "lm_head",
    "layers.N.attentionNorm": "model.layers.N.input_layernorm",
    "layers.N.attention.query": "model.layers.N.self_attn.q_proj",
    "layers.N.attention.key": "model.layers.N.self_attn.k_proj",
    "layers.N.attention.value": "model.layers.N.self_attn.v_proj",
    "layers.N.attention.queryNorm": "model.layers.N.self_attn.q_layernorm",
    "layers.N.attention.keyNorm": "model.layers.N.self_attn.k_layernorm",
    "layers.N.attention.output": "model.layers.N.self_attn.dense",
    "layers.N.ffn.up": "model.layers.N.mlp.fc1",
    "layers.N.ffn.down": "model.layers.N.mlp.fc2",
  },

  readConfig(json, path) {
    const read = readJson(configJson, json, path), common = readCommonFields(read);
    const { headDim, maxPositionEmbeddings: maxPositions } = common;
    const config = decoderConfig({
      ...common,
      positions: readRotary(read, path, { headDim, maxPositions, share: ROTARY_SHARE }),
      norm: { kind: "layer", epsilon: read.layer_norm_eps },
      block: "parallel",
      ffn: { ...readActivation(read.hidden_act, path), isGated: false },
      biases: { queryKeyValue: true, output: true, up: true, down: true, head: true },
    });
    const queryKeyNorm = read.qk_layernorm ? "head" as const : "none" as const;
    const attention = { ...config.attention, queryKeyNorm };
    return soundConfig({ ...config, attention }, path);
  },
};
