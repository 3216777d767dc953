import { z } from "zod";
import type { ModelConfig } from "./config.ts";
import { readJson, refuse } from "./read_json.ts";

type Rotary = Extract<ModelConfig["positions"], { kind: "rotary" }>;

const number = z.number().positive();

/** `rope_scaling`, or `rope_parameters` of newer files, which have `rope_theta` in it. */
const ropeJson = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: number.optional(),
  partial_rotary_factor: number.max(1).optional(),
  factor: number.optional(),
  /** Of GGUF files: what each frequency is divided by. */
  factors: z.array(number).optional(),
  original_max_position_embeddings: z.int().positive().nullish(),
  low_freq_factor: number.optional(),
  high_freq_factor: number.optional(),
  beta_fast: number.nullish(),
  beta_slow: number.nullish(),
  attention_factor: number.nullish(),
  mscale: z.number().nullish(),
  mscale_all_dim: z.number().nullish(),
  truncate: z.boolean().optional(),
});

type RopeJson = z.infer<typeof ropeJson>;

/** What every rotary family's `config.json` may say about it. */
export const rotaryJson = {
  rope_theta: number.optional(),
  rope_scaling: ropeJson.nullish(),
  rope_parameters: ropeJson.nullish(),
  partial_rotary_factor: number.max(1).optional(),
};

/** Reads rotary positions. `share`: of a head that is turned, unless the file says. */
export function readRotary(
  json: z.infer<z.ZodObject<typeof rotaryJson>>,
  path: string,
  { headDim, maxPositions, theta = 10_000, share = 1 }: {
    headDim: number;
    maxPositions: number;
    theta?: number;
    share?: number;
  },
): Rotary {
  const parameters = json.rope_parameters ?? {}, scaling = json.rope_scaling ?? parameters;
  const turned = json.partial_rotary_factor ?? parameters.partial_rotary_factor ?? share;
  return {
    kind: "rotary",
    dims: Math.floor(headDim * turned),
    theta: json.rope_theta ?? parameters.rope_theta ?? theta,
    scaling: readScaling(scaling, path, maxPositions),
    windowTheta: null,
  };
}

/** Names and defaults as in `transformers`' rope utilities. */
export function readScaling(rope: RopeJson, path: string, maxPositions: number): Rotary["scaling"] {
  const kind = rope.rope_type ?? rope.type ?? "default";
  const need = (field: "factor" | "low_freq_factor" | "high_freq_factor"): number =>
    rope[field] ?? refuse(path, `rope_scaling.${field}`, "a number", undefined);
  const originalPositions = rope.original_max_position_embeddings ?? maxPositions;
  switch (kind) {
    case "default":
      return null;
    case "linear":
      return { kind, factor: need("factor") };
    case "dynamic":
      return { kind, factor: need("factor"), originalPositions };
    case "factors":
      return { kind, factors: rope.factors ?? [] };
    case "llama3":
      return {
        kind,
        factor: need("factor"),
        lowFrequencyFactor: need("low_freq_factor"),
        highFrequencyFactor: need("high_freq_factor"),
        originalPositions,
      };
    case "yarn": {
      const factor = rope.factor ?? maxPositions / originalPositions;
      return {
        kind,
        factor,
        betaFast: rope.beta_fast ?? 32,
        betaSlow: rope.beta_slow ?? 1,
        attentionFactor: rope.attention_factor ?? yarnAttention(factor, rope),
        originalPositions,
        isTruncated: rope.truncate ?? true,
      };
    }
  }
  return refuse(path, "rope_type", "default, linear, dynamic, llama3 or yarn", kind);
}

/** Peng et al. 2023, "YaRN", formula 22; with the two factors that DeepSeek's files may add. */
function yarnAttention(factor: number, { mscale, mscale_all_dim: all }: RopeJson): number {
  const of = (scale: number) => factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1;
  return mscale && all ? of(mscale) / of(all) : of(1);
}

/** For files whose parameters are told for layers with and without a window. */
export const ropeParametersJson = ropeJson;

export function readParameters(json: unknown, path: string): RopeJson {
  return readJson(ropeJson, json, path);
}
