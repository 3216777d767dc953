import { printable, UnsupportedModelError } from "../src/errors.ts";
import type { ModelFamily } from "./family.ts";
import { arcee } from "./families/arcee.ts";
import { bamboo } from "./families/bamboo.ts";
import { falcon } from "./families/falcon.ts";
import { gemma2, gemma3 } from "./families/gemma.ts";
import { llama } from "./families/llama.ts";
import { minicpm } from "./families/minicpm.ts";
import { mistral } from "./families/mistral.ts";
import { mixtral } from "./families/mixtral.ts";
import { nemotron } from "./families/nemotron.ts";
import { olmoe } from "./families/olmoe.ts";
import { opt } from "./families/opt.ts";
import { persimmon } from "./families/persimmon.ts";
import { phi } from "./families/phi.ts";
import { qwen2, qwen3 } from "./families/qwen.ts";
import { qwen3Moe } from "./families/qwen3_moe.ts";
import { sparsellama } from "./families/sparsellama.ts";

const ALL = [
  opt,
  llama,
  sparsellama,
  bamboo,
  mistral,
  falcon,
  persimmon,
  phi,
  nemotron,
  arcee,
  minicpm,
  qwen2,
  qwen3,
  mixtral,
  olmoe,
  qwen3Moe,
  gemma2,
  gemma3,
];

/** The model families that can be packed, by `model_type` in config.json. */
export const families: Readonly<Record<string, ModelFamily>> = Object.fromEntries(
  ALL.map((family) => [family.modelType, family]),
);

/** The names of the supported architectures. */
export const supportedArchitectures: readonly string[] = Object.keys(families);

/** What those have that we do not run, and the family that comes nearest. */
const NEAREST: Readonly<Record<string, { nearest: string; missing: string }>> = {
  qwen2_moe: { nearest: "qwen3_moe", missing: "an expert that all positions share" },
  deepseek_v3: { nearest: "qwen3_moe", missing: "latent attention, and shared experts" },
  gpt_oss: { nearest: "mixtral", missing: "sinks of attention, and biases of experts" },
  phi3: { nearest: "llama", missing: "queries, keys, values and gates in fused matrices" },
  gemma: { nearest: "gemma2", missing: "its blocks with two norms" },
  gemma3: {
    nearest: "gemma3_text",
    missing: "images; its text model stands alone under that name",
  },
  olmo2: { nearest: "llama", missing: "norms after each half alone" },
  granite: { nearest: "minicpm", missing: "a factor for attention" },
  starcoder2: { nearest: "phi", missing: "its names of tensors" },
  gpt2: { nearest: "opt", missing: "fused matrices that are stored the other way round" },
  gpt_neox: { nearest: "falcon", missing: "its names of tensors" },
  bloom: { nearest: "falcon", missing: "positions by ALiBi" },
  mpt: { nearest: "falcon", missing: "positions by ALiBi" },
  stablelm: { nearest: "persimmon", missing: "a gate" },
};

/**
 * Finds a family by `model_type`. Throws `UnsupportedModelError` naming those that there are, and of a known one what is missing.
 */
export function familyOf(modelType: unknown, path: string): ModelFamily {
  if (typeof modelType === "string" && Object.hasOwn(families, modelType)) {
    return families[modelType];
  }
  const known = typeof modelType === "string" && Object.hasOwn(NEAREST, modelType)
    ? NEAREST[modelType]
    : null;
  const hint = known ? `; the nearest is ${known.nearest}, which lacks ${known.missing}` : "";
  const name = printable(String(JSON.stringify(modelType)));
  throw new UnsupportedModelError(
    `${path}: model_type ${name} is not supported${hint}; supported: ` +
      supportedArchitectures.join(", "),
  );
}
