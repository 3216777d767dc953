import { z } from "zod";
import { readCommonFields } from "../common_fields.ts";
import { decoderConfig } from "../config.ts";
import type { ModelConfig } from "../config.ts";
import type { ModelFamily } from "../family.ts";
import { readJson, refuse, soundConfig, tokenIdJson, tokenIdsJson } from "../read_json.ts";

/**
 * OPT (Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models"): learned positions, biases everywhere,
 * ReLU. Norms come before attention and FFN; in the one of 350m after them, and its embeddings are narrower than its
 * residual stream. The defaults are those of `transformers`' OPTConfig.
 */
const configJson = z.object({
  vocab_size: z.int().positive().default(50272),
  hidden_size: z.int().positive().default(768),
  num_hidden_layers: z.int().positive().default(12),
  ffn_dim: z.int().positive().default(3072),
  num_attention_heads: z.int().positive().default(12),
  max_position_embeddings: z.int().positive().default(2048),
  word_embed_proj_dim: z.int().positive().nullish(),
  do_layer_norm_before: z.boolean().default(true),
  _remove_final_layer_norm: z.boolean().default(false),
  enable_bias: z.boolean().default(true),
  layer_norm_elementwise_affine: z.boolean().default(true),
  activation_function: z.string().default("relu"),
  tie_word_embeddings: z.boolean().default(true),
  bos_token_id: tokenIdJson.default(2),
  eos_token_id: tokenIdsJson.default([2]),
  pad_token_id: tokenIdJson.default(1),
});

/** Learned positions begin at row 2: the first two rows are left over from padding. */
const POSITION_OFFSET = 2;

export const opt: ModelFamily = {
  modelType: "opt",
  title: "OPT",
  fixtures: ["opt", "opt_post_norm"],
  prefixes: ["model.decoder.", "decoder.", "model.", ""],
  sources: {
    embedTokens: "embed_tokens",
    embedPositions: "embed_positions",
    projectIn: "project_in",
    projectOut: "project_out",
    finalNorm: "final_layer_norm",
    lmHead: "lm_head",
    "layers.N.attentionNorm": "layers.N.self_attn_layer_norm",
    "layers.N.attention.query": "layers.N.self_attn.q_proj",
    "layers.N.attention.key": "layers.N.self_attn.k_proj",
    "layers.N.attention.value": "layers.N.self_attn.v_proj",
    "layers.N.attention.output": "layers.N.self_attn.out_proj",
    "layers.N.ffnNorm": "layers.N.final_layer_norm",
    "layers.N.ffn.up": "layers.N.fc1",
    "layers.N.ffn.down": "layers.N.fc2",
  },

  readConfig(json: unknown, path: string): ModelConfig {
    const config = readJson(configJson, json, path);
    if (config.activation_function !== "relu") {
      refuse(path, "activation_function", '"relu" for an OPT model', config.activation_function);
    }
    if (!config.enable_bias) refuse(path, "enable_bias", "true for an OPT model", false);
    if (!config.layer_norm_elementwise_affine) {
      refuse(path, "layer_norm_elementwise_affine", "true for an OPT model", false);
    }
    const common = readCommonFields({ ...config, intermediate_size: config.ffn_dim });
    const isBefore = config.do_layer_norm_before;
    return soundConfig(
      decoderConfig({
        ...common,
        embeddingSize: config.word_embed_proj_dim ?? config.hidden_size,
        positions: { kind: "learned", offset: POSITION_OFFSET },
        norm: { kind: "layer", epsilon: 1e-5 },
        block: isBefore ? "before" : "after",
        hasFinalNorm: isBefore && !config._remove_final_layer_norm,
        ffn: { activation: "relu", threshold: 0, isGated: false },
        biases: { queryKeyValue: true, output: true, up: true, down: true, head: false },
      }),
      path,
    );
  },
};
