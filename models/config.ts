import { z } from "zod";

/**
 * What a model is: its sizes, and which of the things that decoders differ in it does. A family turns `config.json` into
 * this (models/families/), `.flash` headers keep it, and the one forward pass (src/lane/) reads nothing else.
 *
 * The upper bounds are far above any model; they keep the product of two sizes exact in a number.
 */

const size = (max: number) => z.int().min(1).max(max);
const positive = z.number().gt(0).max(1e12);

/** How rotary angles are stretched beyond the positions that a model was trained on; see src/rope.ts. */
const ropeScalingSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("linear"), factor: positive }),
  /** Frequency i is divided by factor i. */
  z.strictObject({ kind: z.literal("factors"), factors: z.array(positive).max(1 << 11) }),
  z.strictObject({
    kind: z.literal("dynamic"),
    factor: positive,
    originalPositions: size(1 << 24),
  }),
  z.strictObject({
    kind: z.literal("llama3"),
    factor: positive,
    lowFrequencyFactor: positive,
    highFrequencyFactor: positive,
    originalPositions: size(1 << 24),
  }),
  z.strictObject({
    kind: z.literal("yarn"),
    factor: positive,
    betaFast: positive,
    betaSlow: positive,
    /** Of cosines and sines. */
    attentionFactor: positive,
    originalPositions: size(1 << 24),
    /** Whether the first and last dimension of the ramp are whole numbers. */
    isTruncated: z.boolean(),
  }),
]);

/** Where a token's position comes in. */
const positionsSchema = z.discriminatedUnion("kind", [
  /** Added to the embedding; position 0 has row `offset` of the table. */
  z.strictObject({ kind: z.literal("learned"), offset: z.int().min(0).max(1 << 10) }),
  /**
   * The first `dims` numbers of each query and key are turned, number i with number i + dims / 2, by angles
   * position * theta^(-2 i / dims).
   */
  z.strictObject({
    kind: z.literal("rotary"),
    dims: size(1 << 12),
    theta: positive,
    scaling: ropeScalingSchema.nullable(),
    /** Of layers with a window, where theirs is another and has no scaling. */
    windowTheta: positive.nullable(),
  }),
]);

/**
 * What becomes of a gate's product (of the up row's, without a gate) before it is multiplied: `relu` max(x, 0),
 * `relu2` its square, `fatrelu` x if above `threshold` else 0, `silu` x / (1 + e^-x), `gelu` x times the normal
 * distribution at x, `gelu-tanh` an approximation of that. `drelu`: relu of gate and of up row.
 */
export const ACTIVATIONS = [
  "relu",
  "relu2",
  "fatrelu",
  "drelu",
  "silu",
  "gelu",
  "gelu-tanh",
] as const;

export type Activation = typeof ACTIVATIONS[number];

/**
 * What is normed, and where the two halves of a layer come together; x is the residual stream, each `norm` another one:
 *
 * - `before`: x += attention(norm(x)); x += ffn(norm(x))
 * - `after`: x = norm(x + attention(x)); x = norm(x + ffn(x)); no norm at the end
 * - `both`: x += norm(attention(norm(x))); x += norm(ffn(norm(x)))
 * - `parallel`: y = norm(x); x += attention(y) + ffn(y)
 * - `parallel-two`: x += attention(norm(x)) + ffn(norm(x)), of the same x
 */
export const BLOCKS = ["before", "after", "both", "parallel", "parallel-two"] as const;

export type BlockOrder = typeof BLOCKS[number];

const tokenId = z.int().min(0).max(1 << 24);

const currentSchema = z.strictObject({
  /** Tokens in the vocabulary: rows of `embedTokens`. */
  vocabSize: size(1 << 24),
  /** d: length of the residual stream; a multiple of 32. */
  hiddenSize: size(1 << 18),
  /** n: FFN neurons of a layer; a multiple of 32. */
  intermediateSize: size(1 << 22),
  numLayers: size(1 << 12),
  numAttentionHeads: size(1 << 12),
  /** Heads that have keys and values of their own: `numAttentionHeads` is a multiple. */
  numKeyValueHeads: size(1 << 12),
  /** Length of a head; a multiple of 16. */
  headDim: size(1 << 12),
  maxPositionEmbeddings: size(1 << 24),
  /** Length of an embedding, where a matrix leads from it to the residual stream and another back. */
  embeddingSize: size(1 << 18),
  positions: positionsSchema,
  attention: z.strictObject({
    /** Of a query's products with keys. */
    scale: positive,
    /** c: scores become c tanh(score / c). */
    softcap: positive.nullable(),
    /** In these layers a position attends to itself and the `length - 1` before it. */
    window: z.strictObject({
      length: size(1 << 24),
      layers: z.array(z.int().min(0).max(1 << 12)).max(1 << 12),
    }).nullable(),
    /** Whether queries and keys are normed before they are turned: each head by itself, or all heads of a position together. */
    queryKeyNorm: z.enum(["none", "head", "all"]),
  }),
  /** Norms; `rms` has no mean and no bias. */
  norm: z.strictObject({ kind: z.enum(["layer", "rms"]), epsilon: z.number().min(0).max(1) }),
  block: z.enum(BLOCKS),
  /** Whether there is a norm before the output matrix. */
  hasFinalNorm: z.boolean(),
  ffn: z.strictObject({
    activation: z.enum(ACTIVATIONS),
    /** Of `fatrelu`; else 0. */
    threshold: z.number().min(0).max(1e6),
    /** Whether a gate decides what the up row's product is multiplied by. */
    isGated: z.boolean(),
  }),
  /**
   * Several FFNs, of which a router chooses some for each position: neurons from i * `intermediateSize` / `count` on are
   * expert i's. Those that are chosen count by the softmax of the router's scores, divided by their sum if `isNormalized`.
   */
  experts: z.strictObject({
    count: size(1 << 12),
    perToken: size(1 << 12),
    isNormalized: z.boolean(),
  }).nullable().default(null),
  /** Which matrices have a bias; `up`: gate and up. */
  biases: z.strictObject({
    queryKeyValue: z.boolean(),
    output: z.boolean(),
    up: z.boolean(),
    down: z.boolean(),
    head: z.boolean(),
  }),
  /** Factors: of an embedding, of what a layer's halves add, of logits; then c: logits become c tanh(logit / c). */
  scales: z.strictObject({
    embedding: positive,
    residual: positive,
    logits: positive,
    logitsSoftcap: positive.nullable(),
  }),
  bosTokenId: tokenId.nullable(),
  /** Any of them ends a text. */
  eosTokenIds: z.array(tokenId).max(64),
  padTokenId: tokenId.nullable(),
  /** Whether `embedTokens` is the output matrix too. If not, there is an `lmHead`. */
  tiedEmbedding: z.boolean(),
});

export type ModelConfig = z.infer<typeof currentSchema>;

/** What a family must say of a model; the rest is what most decoders have (`decoderConfig`). */
type Told =
  & Pick<
    ModelConfig,
    | "vocabSize"
    | "hiddenSize"
    | "intermediateSize"
    | "numLayers"
    | "numAttentionHeads"
    | "maxPositionEmbeddings"
    | "positions"
    | "norm"
    | "ffn"
    | "bosTokenId"
    | "eosTokenIds"
    | "padTokenId"
    | "tiedEmbedding"
  >
  & Partial<ModelConfig>;

/** A config of what is told; else: as many key/value heads as others, norms before each half, no biases, no factors. */
export function decoderConfig(told: Told): ModelConfig {
  const { hiddenSize, numAttentionHeads } = told;
  const headDim = told.headDim ?? hiddenSize / numAttentionHeads;
  return {
    numKeyValueHeads: numAttentionHeads,
    headDim,
    embeddingSize: hiddenSize,
    attention: {
      scale: 1 / Math.sqrt(headDim),
      softcap: null,
      window: null,
      queryKeyNorm: "none",
    },
    block: "before",
    hasFinalNorm: true,
    experts: null,
    biases: { queryKeyValue: false, output: false, up: false, down: false, head: false },
    scales: { embedding: 1, residual: 1, logits: 1, logitsSoftcap: null },
    ...told,
  };
}

/** A header's `config`, of this version or of the first. */
export const modelConfigSchema = z.preprocess(fromFirstVersion, currentSchema);

/** The first version knew OPT alone, and named what of OPT there was to name. */
function fromFirstVersion(value: unknown): unknown {
  if (typeof value !== "object" || value === null || !("positionOffset" in value)) return value;
  const { positionOffset, layerNormEpsilon, activation, eosTokenId, ...sizes } = value as Told & {
    positionOffset: number;
    layerNormEpsilon: number;
    activation: Activation;
    eosTokenId: number | null;
  };
  return decoderConfig({
    ...sizes,
    positions: { kind: "learned", offset: positionOffset },
    norm: { kind: "layer", epsilon: layerNormEpsilon },
    ffn: { activation, threshold: 0, isGated: false },
    eosTokenIds: eosTokenId === null ? [] : [eosTokenId],
    biases: { queryKeyValue: true, output: true, up: true, down: true, head: false },
  });
}

/** What of a config contradicts itself or is not supported, as a sentence, or null. */
export function problemWithConfig(config: ModelConfig): string | null {
  return Array.from(problemsWith(config)).at(0) ?? null;
}

function* problemsWith(config: ModelConfig): Generator<string> {
  const { hiddenSize, intermediateSize, embeddingSize, headDim, numLayers, vocabSize } = config;
  const { numAttentionHeads, numKeyValueHeads, positions, attention, ffn } = config;
  if (hiddenSize % 32 !== 0) yield `hidden size ${hiddenSize} is no multiple of 32`;
  if (intermediateSize % 32 !== 0) yield `FFN size ${intermediateSize} is no multiple of 32`;
  if (embeddingSize % 32 !== 0) yield `embedding size ${embeddingSize} is no multiple of 32`;
  if (embeddingSize > hiddenSize) {
    yield `embeddings of ${embeddingSize} numbers are longer than the residual stream of ${hiddenSize}`;
  }
  if (headDim % 16 !== 0) { // Or no whole number at all. Pages of the KV cache ask for it.
    yield `${numAttentionHeads} attention heads have ${headDim} numbers each, no multiple of 16`;
  }
  const attentionSize = numAttentionHeads * headDim;
  if (attentionSize % 32 !== 0) yield `queries of ${attentionSize} numbers are no multiple of 32`;
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    yield `${numAttentionHeads} attention heads cannot share ${numKeyValueHeads} key/value heads`;
  }
  if (positions.kind === "rotary" && (positions.dims % 8 !== 0 || positions.dims > headDim)) {
    yield `${positions.dims} rotary dimensions of ${headDim} are no multiple of 8, or too many`;
  }
  if (positions.kind === "rotary" && positions.scaling?.kind === "factors") {
    const { dims, scaling: { factors } } = positions;
    if (factors.length !== dims / 2) {
      yield `${factors.length} factors do not fit ${dims} rotary dimensions`;
    }
  }
  const layer = attention.window?.layers.find((index) => index >= numLayers);
  if (layer !== undefined) yield `a window is in layer ${layer} of ${numLayers}`;
  if (ffn.activation === "drelu" && !ffn.isGated) yield "drelu needs a gate";
  yield* problemsWithExperts(config);
  for (const id of [config.bosTokenId, ...config.eosTokenIds]) {
    if (id !== null && id >= vocabSize) yield `token ${id} is not in a vocabulary of ${vocabSize}`;
  }
}

function* problemsWithExperts(
  { experts, intermediateSize, ffn, biases }: ModelConfig,
): Generator<string> {
  if (experts === null) return;
  const { count, perToken } = experts;
  if (intermediateSize % (32 * count) !== 0) {
    yield `${count} experts of ${intermediateSize / count} neurons, no multiple of 32`;
  }
  if (perToken > count) yield `${perToken} of ${count} experts cannot be chosen`;
  if (!ffn.isGated) yield "experts without a gate";
  if (biases.up || biases.down) yield "experts with biases";
}
