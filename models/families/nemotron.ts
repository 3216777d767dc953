import { z } from "zod";
import { readActivation } from "../activations.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, soundConfig } from "../read_json.ts";
import { readRotary } from "../rope.ts";
import { LLAMA_SOURCES, llamaConfig, llamaJson, ROTARY_BUFFERS } from "./llama.ts";

const configJson = z.object({
  ...llamaJson,
  vocab_size: z.int().positive().default(256_000),
  hidden_size: z.int().positive().default(6144),
  intermediate_size: z.int().positive().default(24_576),
  num_attention_heads: z.int().positive().default(48),
  hidden_act: z.string().default("relu2"),
  max_position_embeddings: z.int().positive().default(4096),
  norm_eps: z.number().positive().default(1e-5),
  eos_token_id: llamaJson.eos_token_id.default([3]),
  bos_token_id: llamaJson.bos_token_id.default(2),
});

/** A rotary embedding turns half of each head, unless told otherwise. */
const ROTARY_SHARE = 0.5;

/**
 * Nemotron and Minitron (Parmar et al. 2024): squared ReLU without a gate; LayerNorm, whose weights are kept as
 * differences to 1.
 */
export const nemotron: ModelFamily = {
  modelType: "nemotron",
  title: "Nemotron, Minitron (squared ReLU)",
  fixtures: ["nemotron"],
  prefixes: [""],
  sources: LLAMA_SOURCES,
  ignored: ROTARY_BUFFERS,
  normOffset: 1,

  readConfig(json, path) {
    const read = readJson(configJson, json, path), config = llamaConfig(read, path);
    const { headDim, maxPositionEmbeddings: maxPositions } = config;
    return soundConfig({
      ...config,
      positions: readRotary(read, path, { headDim, maxPositions, share: ROTARY_SHARE }),
      norm: { kind: "layer", epsilon: read.norm_eps },
      ffn: { ...readActivation(read.hidden_act, path), isGated: false },
    }, path);
  },
};
