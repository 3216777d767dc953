import { z } from "zod";
import type { ModelFamily } from "../family.ts";
import { readJson, refuse, soundConfig } from "../read_json.ts";
import { LLAMA_SOURCES, llamaConfig, llamaJson, ROTARY_BUFFERS } from "./llama.ts";

const configJson = z.object({
  ...llamaJson,
  hidden_act: z.string().default("relu"),
  max_position_embeddings: z.int().positive().default(32_768),
  rms_norm_eps: z.number().positive().default(1e-5),
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
    const config = readJson(configJson, json, path);
    if (config.hidden_act !== "relu") {
      refuse(path, "hidden_act", '"relu" for a Bamboo model', config.hidden_act);
    }
    const ffn = { activation: "drelu" as const, threshold: 0, isGated: true };
    return soundConfig({ ...llamaConfig(config, path), ffn }, path);
  },
};
