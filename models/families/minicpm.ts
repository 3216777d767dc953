import { z } from "zod";
import type { ModelFamily } from "../family.ts";
import { readJson, soundConfig } from "../read_json.ts";
import { LLAMA_SOURCES, llamaConfig, llamaJson, ROTARY_BUFFERS } from "./llama.ts";

const configJson = z.object({
  ...llamaJson,
  rms_norm_eps: z.number().positive().default(1e-5),
  tie_word_embeddings: z.boolean().default(true),
  scale_emb: z.number().positive().default(1),
  scale_depth: z.number().positive().default(1),
  dim_model_base: z.number().positive().nullish(),
});

/**
 * MiniCPM (Hu et al. 2024), and MiniCPM-S, whose FFN is ProSparse's: Llama with factors for embeddings, for what each layer
 * adds, and for logits.
 */
export const minicpm: ModelFamily = {
  modelType: "minicpm",
  title: "MiniCPM, MiniCPM-S",
  fixtures: ["minicpm_relu"],
  prefixes: [""],
  sources: LLAMA_SOURCES,
  ignored: ROTARY_BUFFERS,

  readConfig(json, path) {
    const read = readJson(configJson, json, path), config = llamaConfig(read, path);
    const { hidden_size: d, num_hidden_layers: layers, dim_model_base: base } = read;
    const scales = {
      embedding: read.scale_emb,
      residual: read.scale_depth / Math.sqrt(layers),
      logits: (base ?? 1) / d,
      logitsSoftcap: null,
    };
    return soundConfig({ ...config, scales }, path);
  },
};
