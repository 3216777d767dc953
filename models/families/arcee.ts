import { z } from "zod";
import { readActivation } from "../activations.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, soundConfig } from "../read_json.ts";
import { LLAMA_SOURCES, llamaConfig, llamaJson, ROTARY_BUFFERS } from "./llama.ts";

const configJson = z.object({
  ...llamaJson,
  hidden_act: z.string().default("relu2"),
  intermediate_size: z.int().positive().default(18_432),
  hidden_size: z.int().positive().default(2560),
  max_position_embeddings: z.int().positive().default(4096),
  rms_norm_eps: z.number().positive().default(1e-5),
});

/** Arcee's AFM (2025): Llama whose FFN has no gate, and the square of ReLU. */
export const arcee: ModelFamily = {
  modelType: "arcee",
  title: "Arcee (squared ReLU)",
  fixtures: ["arcee"],
  prefixes: [""],
  sources: LLAMA_SOURCES,
  ignored: ROTARY_BUFFERS,

  readConfig(json, path) {
    const read = readJson(configJson, json, path);
    const config = llamaConfig(read, path);
    const ffn = { ...readActivation(read.hidden_act, path), isGated: false };
    return soundConfig({ ...config, ffn }, path);
  },
};
