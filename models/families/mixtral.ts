import { z } from "zod";
import { withExperts } from "../experts.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, soundConfig } from "../read_json.ts";
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
