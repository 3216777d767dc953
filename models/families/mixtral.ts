import { z } from "zod";
import type { ModelConfig } from "../config.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, refuse, soundConfig } from "../read_json.ts";
import { LLAMA_SOURCES, llamaConfig, llamaJson, ROTARY_BUFFERS } from "./llama.ts";
import { windowOf } from "./mistral.ts";

const configJson = z.object({
  ...llamaJson,
  intermediate_size: z.int().positive().default(14_336),
  num_key_value_heads: z.int().positive().nullish().default(8),
  max_position_embeddings: z.int().positive().default(131_072),
  rms_norm_eps: z.number().positive().default(1e-5),
  rope_theta: z.number().positive().default(1_000_000),
  sliding_window: z.int().positive().nullish(),
  num_local_experts: z.int().positive().default(8),
  num_experts_per_tok: z.int().positive().default(2),
});

/** A description with experts, of one whose neurons are those of a single one. */
export function withExperts(
  config: ModelConfig,
  experts: NonNullable<ModelConfig["experts"]>,
): ModelConfig {
  return { ...config, intermediateSize: experts.count * config.intermediateSize, experts };
}

/** Mixtral (Jiang et al. 2024): Mistral with eight FFNs in each layer, of which a router chooses two. */
export const mixtral: ModelFamily = {
  modelType: "mixtral",
  title: "Mixtral",
  fixtures: ["mixtral_silu", "mixtral_relu"],
  prefixes: [""],
  ignored: ROTARY_BUFFERS,
  sources: {
    ...LLAMA_SOURCES,
    "layers.N.ffn.router": "model.layers.N.block_sparse_moe.gate",
    "layers.N.ffn.experts.E.gate": "model.layers.N.block_sparse_moe.experts.E.w1",
    "layers.N.ffn.experts.E.up": "model.layers.N.block_sparse_moe.experts.E.w3",
    "layers.N.ffn.experts.E.down": "model.layers.N.block_sparse_moe.experts.E.w2",
  },

  readConfig(json, path) {
    const read = readJson(configJson, json, path), config = llamaConfig(read, path);
    const attention = { ...config.attention, window: windowOf(read.sliding_window, config) };
    const experts = {
      count: read.num_local_experts,
      perToken: read.num_experts_per_tok,
      isNormalized: true,
    };
    return soundConfig(withExperts({ ...config, attention }, experts), path);
  },
};

/** Names that OLMoE and Qwen3's experts share. */
const EXPERT_SOURCES = {
  ...LLAMA_SOURCES,
  "layers.N.attention.queryNorm": "model.layers.N.self_attn.q_norm",
  "layers.N.attention.keyNorm": "model.layers.N.self_attn.k_norm",
  "layers.N.ffn.router": "model.layers.N.mlp.gate",
  "layers.N.ffn.experts.E.gate": "model.layers.N.mlp.experts.E.gate_proj",
  "layers.N.ffn.experts.E.up": "model.layers.N.mlp.experts.E.up_proj",
  "layers.N.ffn.experts.E.down": "model.layers.N.mlp.experts.E.down_proj",
};

const olmoeJson = z.object({
  ...llamaJson,
  vocab_size: z.int().positive().default(50_304),
  hidden_size: z.int().positive().default(2048),
  intermediate_size: z.int().positive().default(2048),
  num_hidden_layers: z.int().positive().default(16),
  num_attention_heads: z.int().positive().default(16),
  max_position_embeddings: z.int().positive().default(4096),
  rms_norm_eps: z.number().positive().default(1e-5),
  num_experts: z.int().positive().default(64),
  num_experts_per_tok: z.int().positive().default(8),
  norm_topk_prob: z.boolean().default(false),
  clip_qkv: z.number().nullish(),
  bos_token_id: llamaJson.bos_token_id.default(null),
  eos_token_id: llamaJson.eos_token_id.default([50_279]),
});

/** OLMoE (Muennighoff et al. 2024): many small experts; norms of all queries, and of all keys, of a position. */
export const olmoe: ModelFamily = {
  modelType: "olmoe",
  title: "OLMoE",
  fixtures: ["olmoe_silu"],
  prefixes: [""],
  ignored: ROTARY_BUFFERS,
  sources: EXPERT_SOURCES,

  readConfig(json, path) {
    const read = readJson(olmoeJson, json, path), config = llamaConfig(read, path);
    if (read.clip_qkv) refuse(path, "clip_qkv", "null", read.clip_qkv);
    const attention = { ...config.attention, queryKeyNorm: "all" as const };
    const experts = {
      count: read.num_experts,
      perToken: read.num_experts_per_tok,
      isNormalized: read.norm_topk_prob,
    };
    return soundConfig(withExperts({ ...config, attention }, experts), path);
  },
};

const qwenJson = z.object({
  ...llamaJson,
  vocab_size: z.int().positive().default(151_936),
  hidden_size: z.int().positive().default(2048),
  num_hidden_layers: z.int().positive().default(24),
  num_key_value_heads: z.int().positive().nullish().default(4),
  max_position_embeddings: z.int().positive().default(32_768),
  use_sliding_window: z.boolean().default(false),
  moe_intermediate_size: z.int().positive().default(768),
  num_experts: z.int().positive().optional(),
  num_local_experts: z.int().positive().optional(),
  num_experts_per_tok: z.int().positive().default(8),
  norm_topk_prob: z.boolean().default(false),
  decoder_sparse_step: z.int().default(1),
  mlp_only_layers: z.array(z.int()).nullish(),
  bos_token_id: llamaJson.bos_token_id.default(null),
  eos_token_id: llamaJson.eos_token_id.default([]),
});

/** Qwen3 with experts (Yang et al. 2025), as Qwen3-30B-A3B. */
export const qwen3Moe: ModelFamily = {
  modelType: "qwen3_moe",
  title: "Qwen3 with experts",
  fixtures: ["qwen3_moe_silu"],
  prefixes: [""],
  ignored: ROTARY_BUFFERS,
  sources: EXPERT_SOURCES,

  readConfig(json, path) {
    const read = readJson(qwenJson, json, path);
    if (read.decoder_sparse_step !== 1) {
      refuse(path, "decoder_sparse_step", "1", read.decoder_sparse_step);
    }
    if (read.mlp_only_layers?.length) refuse(path, "mlp_only_layers", "[]", read.mlp_only_layers);
    if (read.use_sliding_window) refuse(path, "use_sliding_window", "false", true);
    const intermediate_size = read.moe_intermediate_size, head_dim = read.head_dim ?? 128;
    const config = llamaConfig({ ...read, intermediate_size, head_dim }, path);
    const attention = { ...config.attention, queryKeyNorm: "head" as const };
    const experts = {
      count: read.num_experts ?? read.num_local_experts ?? 128,
      perToken: read.num_experts_per_tok,
      isNormalized: read.norm_topk_prob,
    };
    return soundConfig(withExperts({ ...config, attention }, experts), path);
  },
};
