import { z } from "zod";
import type { ModelFamily } from "../family.ts";
import { readJson, refuse, soundConfig } from "../read_json.ts";
import { LLAMA_SOURCES, llamaConfig, llamaJson, ROTARY_BUFFERS } from "./llama.ts";
import { windowOf } from "./mistral.ts";

const configJson = z.object({
  ...llamaJson,
  hidden_act: z.string().default("relu"),
  max_position_embeddings: z.int().positive().default(32_768),
  rms_norm_eps: z.number().positive().default(1e-5),
  sliding_window: z.int().positive().nullish().default(4096),
});

/** Bamboo and TurboSparse-Mistral (Song et al. 2024): Mistral with ReLU of the gate and of the up row (dReLU). */
export const bamboo: ModelFamily = {
  modelType: "bamboo",
  title: "Bamboo, TurboSparse-Mistral (dReLU)",
  fixtures: ["bamboo_drelu"],
  prefixes: [""],
  sources: LLAMA_SOURCES,
  ignored: ROTARY_BUFFERS,

  readConfig(json, path) {
    const read = readJson(configJson, json, path);
    if (read.hidden_act !== "relu") {
      refuse(path, "hidden_act", '"relu" for a Bamboo model', read.hidden_act);
    }
    const config = llamaConfig(read, path), window = windowOf(read.sliding_window, config);
    const ffn = { activation: "drelu" as const, threshold: 0, isGated: true };
    const attention = { ...config.attention, window };
    return soundConfig({ ...config, ffn, attention }, path);
  },
};
