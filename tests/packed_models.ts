import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Quantization } from "../src/format/layout.ts";
import { pack } from "../src/format/pack.ts";
import type { GenerateOptions, Model } from "../src/model.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { TemporaryFolder } from "./tiny_model.ts";

/** Tiny random models, a family each, with answers of an independent implementation. */
export const FAMILY_FIXTURES = [
  "opt",
  "llama_relu",
  "llama_fatrelu",
  "bamboo_drelu",
  "mistral_silu",
  "nemotron",
  "persimmon",
  "falcon_relu",
  "phi_relu",
  "arcee",
  "opt_post_norm",
  "falcon_new_decoder",
  "mistral_window",
  "qwen2_silu",
  "qwen3_silu",
  "gemma2_gelu",
  "gemma3_gelu",
  "llama_rope_linear",
  "llama_rope_llama3",
  "llama_rope_yarn",
  "minicpm_relu",
  "mixtral_silu",
  "mixtral_relu",
  "olmoe_silu",
  "qwen3_moe_silu",
] as const;

type FixtureName = typeof FAMILY_FIXTURES[number];

const fixtures = Object.fromEntries(
  FAMILY_FIXTURES.map((name) => [name, new URL(`./fixtures/${name}/`, import.meta.url)]),
) as Record<FixtureName, URL>;

const SOURCES = { ...fixtures, tales: new URL("../models/tales/", import.meta.url) };

export type SourceName = keyof typeof SOURCES;

/** What an independent implementation computes of a model. */
export function goldenOf(source: SourceName) {
  return JSON.parse(readFileSync(new URL("golden.json", SOURCES[source]), "utf8"));
}

/** `model_type` of its config.json. */
export function modelTypeOf(source: SourceName): string {
  return JSON.parse(readFileSync(new URL("config.json", SOURCES[source]), "utf8")).model_type;
}

/** A folder of packed models, each made when first asked for; it is removed with `Symbol.dispose`. */
export class PackedModels extends TemporaryFolder {
  readonly #packed = new Map<string, Promise<string>>();

  /** Path of the packed model. */
  flashOf(
    source: SourceName,
    quant: Quantization = "f32",
    ffnQuant: Quantization = quant,
  ): Promise<string> {
    const name = `${source}-${quant}-${ffnQuant}.flash`;
    let path = this.#packed.get(name);
    if (!path) {
      const folder = fileURLToPath(SOURCES[source]);
      path = pack({ source: folder, target: this.file(name), quant, ffnQuant }).then(({ path }) =>
        path
      );
      this.#packed.set(name, path);
    }
    return path;
  }

  /** Opens the small fixture: 2 layers, 256 neurons, vocabulary of 320, context of 128, no tokenizer. */
  async openOpt(options: OpenOptions = {}): Promise<Model> {
    const path = await this.flashOf("opt");
    return await open(path, { lanes: 1, readers: 2, ffn: "exact", ...options });
  }
}

/** A prompt for the small fixture. */
export const PROMPT = [1, 5, 9, 30, 200];

/** All ids of a generation, of 8 tokens unless told otherwise. */
export async function idsOf(
  model: Model,
  prompt: string | number[],
  options: GenerateOptions = {},
): Promise<number[]> {
  const ids: number[] = [];
  const all = { maxTokens: 8, ignoreEos: true, ...options };
  for await (const { id } of model.generate(prompt, all)) ids.push(id);
  return ids;
}
