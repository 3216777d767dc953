import { z } from "zod";
import { readCommonFields } from "../common_fields.ts";
import { decoderConfig } from "../config.ts";
import type { ModelConfig } from "../config.ts";
import type { ModelFamily, SourceNames } from "../family.ts";
import { readGatedActivation } from "../activations.ts";
import { readJson, soundConfig, tokenIdJson, tokenIdsJson } from "../read_json.ts";
import { readRotary, rotaryJson } from "../rope.ts";

/** What `config.json` of Llama and of those that follow it has; defaults of `transformers`' LlamaConfig. */
export const llamaJson = {
  vocab_size: z.int().positive().default(32_000),
  hidden_size: z.int().positive().default(4096),
  intermediate_size: z.int().positive().default(11_008),
  num_hidden_layers: z.int().positive().default(32),
  num_attention_heads: z.int().positive().default(32),
  num_key_value_heads: z.int().positive().nullish(),
  head_dim: z.int().positive().nullish(),
  hidden_act: z.string().default("silu"),
  hidden_act_param: z.number().nonnegative().nullish(),
  max_position_embeddings: z.int().positive().default(2048),
  rms_norm_eps: z.number().positive().default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  bos_token_id: tokenIdJson.default(1),
  eos_token_id: tokenIdsJson.default([2]),
  pad_token_id: tokenIdJson.default(null),
  ...rotaryJson,
};

const configJson = z.object(llamaJson);

export type LlamaJson = z.infer<typeof configJson>;

export const LLAMA_SOURCES: SourceNames = {
  embedTokens: "model.embed_tokens",
  finalNorm: "model.norm",
  lmHead: "lm_head",
  "layers.N.attentionNorm": "model.layers.N.input_layernorm",
  "layers.N.attention.query": "model.layers.N.self_attn.q_proj",
  "layers.N.attention.key": "model.layers.N.self_attn.k_proj",
  "layers.N.attention.value": "model.layers.N.self_attn.v_proj",
  "layers.N.attention.output": "model.layers.N.self_attn.o_proj",
  "layers.N.ffnNorm": "model.layers.N.post_attention_layernorm",
  "layers.N.ffn.gate": "model.layers.N.mlp.gate_proj",
  "layers.N.ffn.up": "model.layers.N.mlp.up_proj",
  "layers.N.ffn.down": "model.layers.N.mlp.down_proj",
};

/** Where norms of queries and of keys are in those that follow Llama and have them: Qwen3, Gemma 3, OLMoE. */
export const QUERY_KEY_NORM_SOURCES: SourceNames = {
  "layers.N.attention.queryNorm": "model.layers.N.self_attn.q_norm",
  "layers.N.attention.keyNorm": "model.layers.N.self_attn.k_norm",
};

/** What checkpoints keep beside their weights: angles, which follow from the config. */
export const ROTARY_BUFFERS = [/rotary_emb\.inv_freq$/];

/** The description that Llama and those that follow it share: RMS norms, rotary positions, a gate, no biases. */
export function llamaConfig(json: LlamaJson, path: string): ModelConfig {
  const common = readCommonFields(json), { headDim, maxPositionEmbeddings: maxPositions } = common;
  return decoderConfig({
    ...common,
    positions: readRotary(json, path, { headDim, maxPositions }),
    norm: { kind: "rms", epsilon: json.rms_norm_eps },
    ffn: { ...readGatedActivation(json.hidden_act, json.hidden_act_param, path), isGated: true },
    biases: {
      queryKeyValue: json.attention_bias,
      output: json.attention_bias,
      up: json.mlp_bias,
      down: json.mlp_bias,
      head: false,
    },
  });
}

/** Llama (Touvron et al. 2023), and its ReLU and FATReLU descendants: ReluLLaMA, and ProSparse as `llama`. */
export const llama: ModelFamily = {
  modelType: "llama",
  title: "Llama",
  fixtures: ["llama_relu", "llama_rope_linear", "llama_rope_llama3", "llama_rope_yarn"],
  prefixes: [""],
  sources: LLAMA_SOURCES,
  ignored: ROTARY_BUFFERS,
  readConfig: (json, path) =>
    soundConfig(llamaConfig(readJson(configJson, json, path), path), path),
};
