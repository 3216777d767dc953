import { z } from "zod";
import type { ModelConfig } from "../config.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, soundConfig } from "../read_json.ts";
import { LLAMA_SOURCES, llamaConfig, llamaJson, ROTARY_BUFFERS } from "./llama.ts";

const configJson = z.object({
  ...llamaJson,
  intermediate_size: z.int().positive().default(14_336),
  num_key_value_heads: z.int().positive().nullish().default(8),
  max_position_embeddings: z.int().positive().default(131_072),
  sliding_window: z.int().positive().nullish().default(4096),
});

/** A window of all layers, or none if no context reaches beyond it. */
export function windowOf(
  length: number | null | undefined,
  { numLayers, maxPositionEmbeddings }: ModelConfig,
): ModelConfig["attention"]["window"] {
  if (!length || length >= maxPositionEmbeddings) return null;
  return { length, layers: Array.from({ length: numLayers }, (_, layer) => layer) };
}

/** Mistral (Jiang et al. 2023): Llama whose attention may look back over a window only. */
export const mistral: ModelFamily = {
  modelType: "mistral",
  title: "Mistral",
  fixtures: ["mistral_silu", "mistral_window"],
  prefixes: [""],
  sources: LLAMA_SOURCES,
  ignored: ROTARY_BUFFERS,

  readConfig(json, path) {
    const read = readJson(configJson, json, path), config = llamaConfig(read, path);
    const window = windowOf(read.sliding_window, config);
    return soundConfig({ ...config, attention: { ...config.attention, window } }, path);
  },
};
