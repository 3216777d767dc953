import { z } from "zod";
import { EXPERT_SOURCES, withExperts } from "../experts.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, refuse, soundConfig } from "../read_json.ts";
import {
  LLAMA_SOURCES,
  llamaConfig,
  llamaJson,
  QUERY_KEY_NORM_SOURCES,
  ROTARY_BUFFERS,
} from "./llama.ts";

const configJson = z.object({
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
  sources: { ...LLAMA_SOURCES, ...QUERY_KEY_NORM_SOURCES, ...EXPERT_SOURCES },

  readConfig(json, path) {
    const read = readJson(configJson, json, path);
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
