import { z } from "zod";
import type { ModelConfig } from "../config.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, soundConfig } from "../read_json.ts";
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
  intermediate_size: z.int().positive().default(22_016),
  num_key_value_heads: z.int().positive().nullish().default(32),
  max_position_embeddings: z.int().positive().default(32_768),
  use_sliding_window: z.boolean().default(false),
  sliding_window: z.int().positive().nullish().default(4096),
  max_window_layers: z.int().nonnegative().default(28),
  bos_token_id: llamaJson.bos_token_id.default(null),
  eos_token_id: llamaJson.eos_token_id.default([]),
});

type QwenJson = z.infer<typeof configJson>;

/** Layers from `max_window_layers` on look back over a window, if that is switched on. */
function attentionOf(read: QwenJson, { attention, numLayers }: ModelConfig) {
  const length = read.sliding_window;
  if (!read.use_sliding_window || !length) return attention;
  const layers = Array.from({ length: numLayers }, (_, layer) => layer)
    .filter((layer) => layer >= read.max_window_layers);
  return { ...attention, window: { length, layers } };
}

/** Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases of queries, keys and values. */
export const qwen2: ModelFamily = {
  modelType: "qwen2",
  title: "Qwen2, Qwen2.5",
  fixtures: ["qwen2_silu"],
  prefixes: [""],
  sources: LLAMA_SOURCES,
  ignored: ROTARY_BUFFERS,

  readConfig(json, path) {
    const read = readJson(configJson, json, path), config = llamaConfig(read, path);
    const biases = { ...config.biases, queryKeyValue: true, output: false };
    return soundConfig({ ...config, biases, attention: attentionOf(read, config) }, path);
  },
};

/** Qwen3 (Yang et al. 2025): Llama with RMS norms of each head's queries and keys. */
export const qwen3: ModelFamily = {
  modelType: "qwen3",
  title: "Qwen3",
  fixtures: ["qwen3_silu"],
  prefixes: [""],
  ignored: ROTARY_BUFFERS,
  sources: { ...LLAMA_SOURCES, ...QUERY_KEY_NORM_SOURCES },

  readConfig(json, path) {
    const read = readJson(configJson, json, path);
    const config = llamaConfig({ ...read, head_dim: read.head_dim ?? 128 }, path);
    const attention = { ...attentionOf(read, config), queryKeyNorm: "head" as const };
    return soundConfig({ ...config, attention }, path);
  },
};
