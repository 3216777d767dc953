import { z } from "zod";
import type { Checkpoint } from "../src/checkpoint/checkpoint.ts";
import { ModelFileError, printable, UnsupportedModelError } from "../src/errors.ts";
import type { ModelConfig } from "./config.ts";
import type { FusedSource, ModelFamily, RowRun, SourceNames, TensorNames } from "./family.ts";
import { fusedByGroup } from "./fused.ts";
import { families } from "./registry.ts";

/** What a GGUF file's metadata and tensors say of a model, in the words of `config.json`. */
export interface GgufModel {
  readonly family: ModelFamily;
  readonly json: Record<string, unknown>;
  readonly names: TensorNames;
}

/**
 * How one of llama.cpp's architectures becomes one of our families. Its converter has already added 1 to norms that are kept
 * as differences to 1, and named all tensors by one scheme (gguf-py/gguf/constants.py); so names and config differ little.
 */
interface Architecture {
  /** `model_type` of the family. */
  readonly modelType: string;
  /**
   * Whether rows of query and key heads are shuffled: llama.cpp turns neighbours together, number 2 i with 2 i + 1, where
   * Llama and we turn number i with i + dims / 2.
   */
  readonly isShuffled?: boolean;
  /** Names that differ from `NAMES`. */
  readonly sources?: (config: ModelConfig) => SourceNames;
  /** Whether there must be experts, which others may not have. */
  readonly hasExperts?: boolean;
  /** What its config.json says beside what all say. */
  json?(fields: Fields): Record<string, unknown>;
}

const NAMES: SourceNames = {
  embedTokens: "token_embd",
  embedPositions: "position_embd",
  finalNorm: "output_norm",
  lmHead: "output",
  "layers.N.attentionNorm": "blk.N.attn_norm",
  "layers.N.attention.query": "blk.N.attn_q",
  "layers.N.attention.key": "blk.N.attn_k",
  "layers.N.attention.value": "blk.N.attn_v",
  "layers.N.attention.output": "blk.N.attn_output",
  "layers.N.attention.queryNorm": "blk.N.attn_q_norm",
  "layers.N.attention.keyNorm": "blk.N.attn_k_norm",
  "layers.N.attentionOutputNorm": "blk.N.post_attention_norm",
  "layers.N.ffnNorm": "blk.N.ffn_norm",
  "layers.N.ffnOutputNorm": "blk.N.post_ffw_norm",
  "layers.N.ffn.gate": "blk.N.ffn_gate",
  "layers.N.ffn.up": "blk.N.ffn_up",
  "layers.N.ffn.down": "blk.N.ffn_down",
};

const gemmaJson = (fields: Fields) => ({
  tie_word_embeddings: true,
  sliding_window: fields.number("attention.sliding_window"),
});

const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  llama: { modelType: "llama", isShuffled: true },
  arcee: { modelType: "arcee", isShuffled: true },
  minicpm: {
    modelType: "minicpm",
    isShuffled: true,
    json: (fields) => ({
      // Early files have none of the three, and llama.cpp takes those of MiniCPM-2B for them.
      scale_emb: fields.number("embedding_scale") ?? 12,
      scale_depth: (fields.number("residual_scale") ?? 1.4 / Math.sqrt(fields.layers)) *
        Math.sqrt(fields.layers),
      dim_model_base: fields.hiddenSize * (fields.number("logit_scale") ?? 256 / fields.hiddenSize),
    }),
  },
  qwen2: { modelType: "qwen2" },
  qwen3: { modelType: "qwen3" },
  // llama.cpp norms what Qwen3's router chooses, and does not what OLMoE's does, whatever config.json said.
  qwen3moe: {
    modelType: "qwen3_moe",
    hasExperts: true,
    json: (fields) => ({
      ...expertsJson(fields),
      moe_intermediate_size: expertRows(fields),
      norm_topk_prob: true,
    }),
  },
  olmoe: {
    modelType: "olmoe",
    hasExperts: true,
    json: (fields) => ({ ...expertsJson(fields), norm_topk_prob: false }),
  },
  persimmon: {
    modelType: "persimmon",
    // As in Hugging Face's files: head after head its query, key and value.
    sources: () => fusedByGroup("blk.N.attn_qkv"),
    json: (fields) => ({
      layer_norm_eps: fields.number("attention.layer_norm_epsilon"),
      qk_layernorm: fields.hasTensor("blk.0.attn_q_norm.weight"),
    }),
  },
  nemotron: {
    modelType: "nemotron",
    json: (fields) => ({ norm_eps: fields.number("attention.layer_norm_epsilon") }),
  },
  phi2: {
    modelType: "phi",
    json: (fields) => ({
      layer_norm_eps: fields.number("attention.layer_norm_epsilon"),
      tie_word_embeddings: false,
    }),
  },
  falcon: {
    modelType: "falcon",
    sources: falconSources,
    json: (fields) => ({
      ffn_hidden_size: fields.number("feed_forward_length"),
      num_kv_heads: fields.number("attention.head_count_kv"),
      new_decoder_architecture: fields.hasTensor("blk.0.attn_norm_2.weight"),
      layer_norm_epsilon: fields.number("attention.layer_norm_epsilon"),
      tie_word_embeddings: !fields.hasTensor("output.weight"),
    }),
  },
  gemma2: {
    modelType: "gemma2",
    json: (fields) => ({
      ...gemmaJson(fields),
      attn_logit_softcapping: fields.number("attn_logit_softcapping"),
      final_logit_softcapping: fields.number("final_logit_softcapping"),
      // 27B alone divides by the square root of d / heads, not of a head's length.
      ...(fields.layers === 46 ? { query_pre_attn_scalar: 144 } : headScalar(fields)),
    }),
  },
  gemma3: {
    modelType: "gemma3_text",
    json: (fields) => ({
      ...gemmaJson(fields),
      ...(fields.layers === 62 ? { query_pre_attn_scalar: 168 } : headScalar(fields)),
    }),
  },
};

/** A Llama with experts there is a Mixtral here. */
const MIXTRAL: Architecture = {
  modelType: "mixtral",
  isShuffled: true,
  hasExperts: true,
  json: (fields) => ({
    ...expertsJson(fields),
    num_local_experts: fields.number("expert_count"),
    rope_theta: fields.number("rope.freq_base") ?? 10_000,
  }),
};

function expertsJson(fields: Fields): Record<string, unknown> {
  return {
    intermediate_size: expertRows(fields),
    num_experts: fields.number("expert_count"),
    num_experts_per_tok: fields.need("expert_used_count"),
  };
}

/** Neurons of an expert, of which some files have no field. */
function expertRows(fields: Fields): number {
  const stack = "blk.0.ffn_gate_exps.weight";
  return fields.rows(fields.hasTensor(stack) ? stack : "blk.0.ffn_gate.0.weight", -2);
}

/** Experts are stacked; files of Mixtral's first months have each by itself. */
function expertSources(weights: Checkpoint): SourceNames {
  const parts = ["gate", "up", "down"] as const;
  const isStacked = weights.tensors.has("blk.0.ffn_gate_exps.weight");
  return {
    "layers.N.ffn.router": "blk.N.ffn_gate_inp",
    ...Object.fromEntries(parts.map((part) => [
      `layers.N.ffn.experts.E.${part}`,
      isStacked ? stackedExperts(part) : `blk.N.ffn_${part}.E`,
    ])),
  };
}

function stackedExperts(part: "gate" | "up" | "down"): FusedSource {
  const count = ({ experts }: ModelConfig) => experts?.count ?? 1;
  const each = (config: ModelConfig) =>
    part === "down" ? config.hiddenSize : config.intermediateSize / count(config);
  return {
    name: `blk.N.ffn_${part}_exps`,
    rows: (config) => count(config) * each(config),
    stacked: count,
    runs: (config, expert) => [{ from: expert * each(config), count: each(config) }],
  };
}

function headScalar(fields: Fields): Record<string, unknown> {
  return { query_pre_attn_scalar: fields.number("attention.key_length") };
}

const countSchema = z.union([
  z.number().min(0).max(2 ** 40),
  z.bigint().min(0n).max(2n ** 40n).transform(Number),
]);

/** Values of a GGUF file's metadata under its architecture's name. */
class Fields {
  readonly #metadata: Readonly<Record<string, unknown>>;
  readonly #weights: Checkpoint;
  readonly #architecture: string;
  readonly #path: string;

  constructor(
    metadata: Readonly<Record<string, unknown>>,
    weights: Checkpoint,
    architecture: string,
    path: string,
  ) {
    this.#metadata = metadata;
    this.#weights = weights;
    this.#architecture = architecture;
    this.#path = path;
  }

  get layers(): number {
    return this.need("block_count");
  }

  get hiddenSize(): number {
    return this.need("embedding_length");
  }

  /** A number, or undefined where it is not told. Some are told for each layer: those must be equal. */
  number(key: string, prefix = `${this.#architecture}.`): number | undefined {
    const field = prefix + key, value = this.#metadata[field];
    if (value === undefined) return undefined;
    const each = Array.isArray(value) ? value : [value];
    if (each.length === 0 || each.some((other) => other !== each[0])) {
      this.fail(field, "it is not the same in all layers");
    }
    const parsed = countSchema.safeParse(each[0]);
    return parsed.success ? parsed.data : this.fail(field, "it is not a number, or too large");
  }

  need(key: string): number {
    return this.number(key) ?? this.fail(`${this.#architecture}.${key}`, "it is missing");
  }

  text(key: string, prefix = `${this.#architecture}.`): string | undefined {
    const value = this.#metadata[prefix + key];
    if (value === undefined || typeof value === "string") return value;
    return this.fail(prefix + key, "it is not a text");
  }

  hasTensor(name: string): boolean {
    return this.#weights.tensors.has(name);
  }

  /** Rows of a matrix; of a stack of matrices those of one are in dimension -2. */
  rows(name: string, dimension = 0): number {
    const tensor = this.#weights.tensors.get(name);
    return tensor?.shape.at(dimension) ?? this.fail(name, `tensor ${name} is missing`);
  }

  /** A short vector of floats, or undefined. */
  async floats(name: string): Promise<number[] | undefined> {
    const tensor = this.#weights.tensors.get(name);
    if (tensor === undefined) return undefined;
    if (tensor.length > 4096) this.fail(name, `${tensor.length} numbers are too many`);
    const values = new Float32Array(tensor.length);
    await tensor.source.load?.(tensor);
    this.#weights.readFloats(tensor, { from: 0, length: tensor.length }, values);
    tensor.source.release?.(tensor);
    return Array.from(values);
  }

  fail(field: string, problem: string): never {
    throw new ModelFileError(problem, { path: this.#path, field, byteOffset: 0 });
  }
}

/**
 * Reads what a GGUF file says of its model. It does not say which activation a model has, so the family's usual one is taken;
 * a model that was made sparse by another needs its `config.json` beside it.
 *
 * @throws {UnsupportedModelError} naming the architectures that we read
 */
export async function readGgufModel(
  metadata: Readonly<Record<string, unknown>>,
  weights: Checkpoint,
  path: string,
): Promise<GgufModel> {
  const name = metadata["general.architecture"];
  if (typeof name !== "string" || !Object.hasOwn(ARCHITECTURES, name)) {
    const found = printable(JSON.stringify(name) ?? "none");
    throw new UnsupportedModelError(
      `${path}: architecture ${found} is not supported in GGUF files; supported: ` +
        Object.keys(ARCHITECTURES).join(", "),
    );
  }
  const fields = new Fields(metadata, weights, name, path);
  const isOfExperts = (fields.number("expert_count") ?? 0) > 0;
  const architecture = isOfExperts && name === "llama" ? MIXTRAL : ARCHITECTURES[name];
  const { hasExperts = false } = architecture;
  if (isOfExperts && !hasExperts) {
    throw new UnsupportedModelError(`${path}: experts are not supported in GGUF files of ${name}`);
  }
  if (hasExperts) fields.need("expert_count");
  return {
    family: families[architecture.modelType],
    json: { ...await commonJson(fields), ...architecture.json?.(fields) },
    names: {
      prefixes: [""],
      sources: (config) => ({
        ...NAMES,
        ...(architecture.isShuffled ? unshuffled() : {}),
        ...(hasExperts ? expertSources(weights) : {}),
        ...architecture.sources?.(config),
      }),
      ignored: [/^rope_freqs\.weight$/, /\.rope_freqs\.weight$/, /attn_rot_embd\.weight$/],
    },
  };
}

/** What `config.json` says in the words of Llama, which most families share; undefined is not told. */
async function commonJson(fields: Fields): Promise<Record<string, unknown>> {
  const told = {
    vocab_size: fields.rows("token_embd.weight"),
    hidden_size: fields.hiddenSize,
    intermediate_size: fields.need("feed_forward_length"),
    num_hidden_layers: fields.layers,
    num_attention_heads: fields.need("attention.head_count"),
    num_key_value_heads: fields.number("attention.head_count_kv"),
    head_dim: fields.number("attention.key_length"),
    max_position_embeddings: fields.need("context_length"),
    rms_norm_eps: fields.number("attention.layer_norm_rms_epsilon"),
    rope_theta: fields.number("rope.freq_base"),
    rope_scaling: await ropeScaling(fields),
    partial_rotary_factor: rotaryShare(fields),
    sliding_window: fields.number("attention.sliding_window"),
    tie_word_embeddings: !fields.hasTensor("output.weight"),
    attention_bias: fields.hasTensor("blk.0.attn_q.bias"),
    mlp_bias: fields.hasTensor("blk.0.ffn_up.bias"),
    bos_token_id: fields.number("bos_token_id", "tokenizer.ggml."),
    eos_token_id: endIds(fields),
    pad_token_id: fields.number("padding_token_id", "tokenizer.ggml."),
  };
  return Object.fromEntries(Object.entries(told).filter(([, value]) => value !== undefined));
}

function endIds(fields: Fields): number[] | undefined {
  const ids = ["eos_token_id", "eot_token_id", "eom_token_id"]
    .map((key) => fields.number(key, "tokenizer.ggml."))
    .filter((id) => id !== undefined);
  return ids.length > 0 ? [...new Set(ids)] : undefined;
}

/** `rope_freqs` has what a frequency is divided by: what Llama 3's scaling comes to. */
async function ropeScaling(fields: Fields): Promise<Record<string, unknown> | undefined> {
  const factors = await fields.floats("rope_freqs.weight");
  if (factors !== undefined) return { rope_type: "factors", factors };
  const kind = fields.text("rope.scaling.type");
  if (kind === undefined || kind === "none") return undefined;
  const original = fields.number("rope.scaling.original_context_length");
  return {
    rope_type: kind,
    factor: fields.number("rope.scaling.factor"),
    ...(original === undefined ? {} : { original_max_position_embeddings: original }),
  };
}

function rotaryShare(fields: Fields): number | undefined {
  const dims = fields.number("rope.dimension_count");
  if (dims === undefined) return undefined;
  const headDim = fields.number("attention.key_length") ??
    fields.hiddenSize / fields.need("attention.head_count");
  return Math.min(1, dims / headDim);
}

/** Query and key rows in our order: number i of a head is row 2 i there, and number i + dims / 2 is row 2 i + 1. */
function unshuffled(): SourceNames {
  const source = (name: string, heads: (config: ModelConfig) => number): FusedSource => ({
    name,
    rows: (config) => heads(config) * config.headDim,
    runs: (config) => unshuffledRuns(heads(config), config.headDim),
  });
  return {
    "layers.N.attention.query": source("blk.N.attn_q", (config) => config.numAttentionHeads),
    "layers.N.attention.key": source("blk.N.attn_k", (config) => config.numKeyValueHeads),
  };
}

function unshuffledRuns(heads: number, headDim: number): RowRun[] {
  const half = headDim / 2;
  return Array.from({ length: heads * headDim }, (_, row) => {
    const inHead = row % headDim, head = row - inHead;
    return { from: head + 2 * (inHead % half) + (inHead < half ? 0 : 1), count: 1 };
  });
}

/** Falcon's fused matrix has all queries there, then all keys, then all values. */
function falconSources({ block, numAttentionHeads, numKeyValueHeads, headDim }: ModelConfig) {
  const queries = numAttentionHeads * headDim, keys = numKeyValueHeads * headDim;
  const rows = (from: number, count: number): FusedSource => ({
    name: "blk.N.attn_qkv",
    rows: () => queries + 2 * keys,
    runs: () => [{ from, count }],
  });
  return {
    "layers.N.attention.query": rows(0, queries),
    "layers.N.attention.key": rows(queries, keys),
    "layers.N.attention.value": rows(queries + keys, keys),
    ...(block === "parallel-two"
      ? { "layers.N.attentionNorm": "blk.N.attn_norm_2", "layers.N.ffnNorm": "blk.N.attn_norm" }
      : {}),
  };
}
