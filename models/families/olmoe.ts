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
  sources: { ...LLAMA_SOURCES, ...QUERY_KEY_NORM_SOURCES, ...EXPERT_SOURCES },

  readConfig(json, path) {
    const read = readJson(configJson, json, path), config = llamaConfig(read, path);
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
