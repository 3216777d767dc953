/** A model that `synth` can write. */
export interface SynthShape {
  /** `model_type` of its family. */
  readonly architecture: string;
  /** What its `config.json` says, as far as weights and numbers depend on it. */
  readonly json: Readonly<Record<string, unknown>>;
  /** Share of the neurons that are active, over all layers; null where activations are hardly ever zero. */
  readonly activeMean: number | null;
  /** For tests: not offered by name. */
  readonly isTiny?: boolean;
}

/** Of OPT 6.7B ("LLM in a flash", 3.2). */
export const OPT_ACTIVE = 0.033;

/**
 * Shapes by name: what a family's `readConfig` takes, with the published numbers. Families that were trained with another
 * activation stand here as they were relufied. How much is active: of Falcon and Llama what the paper tells; of Persimmon as of OPT, of
 * Phi-2 and Bamboo a tenth, which is assumed.
 */
export const SHAPES: Readonly<Record<string, SynthShape>> = {
  "opt-125m": opt(768, 3072, 12, 12),
  "opt-1.3b": opt(2048, 8192, 24, 32),
  "opt-6.7b": opt(4096, 16_384, 32, 32),
  "opt-13b": opt(5120, 20_480, 40, 40),
  "falcon-7b": falcon({
    vocab_size: 65_024,
    hidden_size: 4544,
    num_hidden_layers: 32,
    num_attention_heads: 71,
    max_position_embeddings: 2048,
  }),
  "persimmon-8b": persimmon({
    vocab_size: 262_144,
    hidden_size: 4096,
    intermediate_size: 16_384,
    num_hidden_layers: 36,
    num_attention_heads: 64,
    max_position_embeddings: 16_384,
  }),
  "phi-2": phi({
    vocab_size: 51_200,
    hidden_size: 2560,
    intermediate_size: 10_240,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    max_position_embeddings: 2048,
  }),
  "llama-7b": prosparse({
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    max_position_embeddings: 4096,
  }),
  "mistral-7b": bamboo({
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    max_position_embeddings: 32_768,
  }),
  "mixtral-8x7b": mixtral({
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    num_local_experts: 8,
    max_position_embeddings: 32_768,
  }),
  "tiny": { ...opt(256, 1024, 4, 8, 2048), isTiny: true },
  "tiny-falcon": tiny(falcon, { num_attention_heads: 4 }),
  "tiny-persimmon": tiny(persimmon, { intermediate_size: 1024 }),
  "tiny-phi": tiny(phi, { hidden_size: 320, intermediate_size: 1280, num_attention_heads: 4 }),
  "tiny-llama": tiny(prosparse, { intermediate_size: 704 }),
  "tiny-mistral": tiny(bamboo, { intermediate_size: 896, num_key_value_heads: 2 }),
  "tiny-mixtral": tiny(mixtral, {
    intermediate_size: 448,
    num_key_value_heads: 2,
    num_local_experts: 8,
  }),
};

/** Names for help and messages. */
export const SHAPE_NAMES: readonly string[] = Object.keys(SHAPES)
  .filter((name) => !SHAPES[name].isTiny);

/** The shape of this name. Throws `RangeError` naming those that there are. */
export function shapeNamed(name: string): SynthShape {
  if (Object.hasOwn(SHAPES, name)) return SHAPES[name];
  throw new RangeError(
    `Cannot make a model of shape ${JSON.stringify(name)}: there are ${SHAPE_NAMES.join(", ")}`,
  );
}

/** Ids that stand for no word: beginning, padding, end, unknown. */
export const SPECIAL_TOKENS: readonly string[] = ["<s>", "<pad>", "</s>", "<unk>"];

type Sizes = Readonly<Record<string, number>>;

function opt(
  hidden_size: number,
  ffn_dim: number,
  num_hidden_layers: number,
  num_attention_heads: number,
  vocab_size = 50_272,
): SynthShape {
  const sizes = { hidden_size, ffn_dim, num_hidden_layers, num_attention_heads, vocab_size };
  return { architecture: "opt", json: sizes, activeMean: OPT_ACTIVE };
}

/** Falcon 7B with ReLU (Mirzadeh et al. 2023): one key/value head, attention and FFN side by side, no biases. */
function falcon(sizes: Sizes): SynthShape {
  const json = { ...sizes, activation: "relu" };
  return { architecture: "falcon", json, activeMean: 0.05 };
}

function persimmon(sizes: Sizes): SynthShape {
  const json = { ...sizes, partial_rotary_factor: 0.5 };
  return { architecture: "persimmon", json, activeMean: OPT_ACTIVE };
}

/** Phi-2 with ReLU. */
function phi(sizes: Sizes): SynthShape {
  const json = { ...sizes, hidden_act: "relu", partial_rotary_factor: 0.4 };
  return { architecture: "phi", json, activeMean: 0.1 };
}

/** Llama 2 with FATReLU: ProSparse. */
function prosparse(sizes: Sizes): SynthShape {
  const json = { ...sizes, hidden_act: "fatrelu", hidden_act_param: 0.01 };
  return { architecture: "sparsellama", json, activeMean: 0.1 };
}

/** Mistral with dReLU: Bamboo. */
function bamboo(sizes: Sizes): SynthShape {
  return { architecture: "bamboo", json: sizes, activeMean: 0.1 };
}

function mixtral(sizes: Sizes): SynthShape {
  const json = { ...sizes, num_experts_per_tok: 2 };
  return { architecture: "mixtral", json, activeMean: null };
}

/** Small enough to be made within a test. */
function tiny(family: (sizes: Sizes) => SynthShape, sizes: Sizes): SynthShape {
  const common = { vocab_size: 1024, hidden_size: 256, num_hidden_layers: 3 };
  const positions = { num_attention_heads: 8, max_position_embeddings: 2048 };
  return { ...family({ ...common, ...positions, ...sizes }), isTiny: true };
}
