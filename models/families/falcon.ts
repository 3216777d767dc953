import { z } from "zod";
import { readActivation } from "../activations.ts";
import { readCommonFields } from "../common_fields.ts";
import { decoderConfig } from "../config.ts";
import type { BlockOrder } from "../config.ts";
import type { ModelFamily } from "../family.ts";
import { fusedByGroup } from "../fused.ts";
import { readJson, refuse, soundConfig, tokenIdJson, tokenIdsJson } from "../read_json.ts";
import { readRotary, rotaryJson } from "../rope.ts";
import { ROTARY_BUFFERS } from "./llama.ts";

/** Defaults of `transformers`' FalconConfig. */
const configJson = z.object({
  vocab_size: z.int().positive().default(65_024),
  hidden_size: z.int().positive().default(4544),
  ffn_hidden_size: z.int().positive().nullish(),
  num_hidden_layers: z.int().positive().default(32),
  num_attention_heads: z.int().positive().default(71),
  num_kv_heads: z.int().positive().nullish(),
  num_ln_in_parallel_attn: z.int().min(1).max(2).nullish(),
  activation: z.string().default("gelu"),
  layer_norm_epsilon: z.number().positive().default(1e-5),
  alibi: z.boolean().default(false),
  new_decoder_architecture: z.boolean().default(false),
  multi_query: z.boolean().default(true),
  parallel_attn: z.boolean().default(true),
  bias: z.boolean().default(false),
  max_position_embeddings: z.int().positive().default(2048),
  tie_word_embeddings: z.boolean().default(true),
  bos_token_id: tokenIdJson.default(11),
  eos_token_id: tokenIdsJson.default([11]),
  pad_token_id: tokenIdJson.default(null),
  ...rotaryJson,
});

type FalconJson = z.infer<typeof configJson>;

/**
 * Falcon (Almazrouei et al. 2023): attention and FFN side by side. 7B has one norm and one key/value head; 40B and 180B
 * (`new_decoder_architecture`) have two norms and some key/value heads. With ReLU: Mirzadeh et al. 2023.
 */
export const falcon: ModelFamily = {
  modelType: "falcon",
  title: "Falcon",
  fixtures: ["falcon_relu", "falcon_new_decoder"],
  prefixes: [""],
  ignored: ROTARY_BUFFERS,
  sources: ({ block }) => ({
    embedTokens: "transformer.word_embeddings",
    finalNorm: "transformer.ln_f",
    lmHead: "lm_head",
    "layers.N.attentionNorm": `transformer.h.N.${
      block === "parallel-two" ? "ln_attn" : "input_layernorm"
    }`,
    ...fusedByGroup("transformer.h.N.self_attention.query_key_value"),
    "layers.N.attention.output": "transformer.h.N.self_attention.dense",
    "layers.N.ffnNorm": `transformer.h.N.${
      block === "parallel-two" ? "ln_mlp" : "post_attention_layernorm"
    }`,
    "layers.N.ffn.up": "transformer.h.N.mlp.dense_h_to_4h",
    "layers.N.ffn.down": "transformer.h.N.mlp.dense_4h_to_h",
  }),

  readConfig(json, path) {
    const read = readJson(configJson, json, path), { bias } = read;
    if (read.alibi) refuse(path, "alibi", "false for a Falcon model", true);
    const common = readCommonFields({
      ...read,
      intermediate_size: read.ffn_hidden_size ?? 4 * read.hidden_size,
      num_key_value_heads: keyValueHeadsOf(read),
    });
    const { headDim, maxPositionEmbeddings: maxPositions } = common;
    return soundConfig(
      decoderConfig({
        ...common,
        positions: readRotary(read, path, { headDim, maxPositions }),
        norm: { kind: "layer", epsilon: read.layer_norm_epsilon },
        block: blockOf(read),
        ffn: { ...readActivation(read.activation, path, "activation"), isGated: false },
        biases: { queryKeyValue: bias, output: bias, up: bias, down: bias, head: false },
      }),
      path,
    );
  },
};

function keyValueHeadsOf(read: FalconJson): number {
  if (read.new_decoder_architecture) return read.num_kv_heads ?? read.num_attention_heads;
  return read.multi_query ? 1 : read.num_attention_heads;
}

function blockOf(read: FalconJson): BlockOrder {
  if (read.new_decoder_architecture) {
    return (read.num_ln_in_parallel_attn ?? 2) === 2 ? "parallel-two" : "parallel";
  }
  return read.parallel_attn ? "parallel" : "before";
}
