/** What a model's bytes follow from. Sizes as in `config.json`. */
export interface ModelShape {
  name: string;
  numLayers: number;
  hiddenSize: number;
  intermediateSize: number;
  vocabSize: number;
  /** Matrices of an FFN: 2 (up, down), or 3 with a gate. */
  ffnMatrices: 2 | 3;
  /** Heads of keys and values, as a share of those of queries: below 1 where queries share them. */
  keyValueShare: number;
  bytesPerWeight: number;
}

/** Bytes of a model's parts. Norms and biases are left out: less than a thousandth. */
export interface ModelBytes {
  /** Query, key, value and output matrices of all layers. */
  attention: number;
  ffn: number;
  /** Tied: looked up by its rows, and multiplied as a whole for the logits. */
  embedding: number;
  total: number;
  /** The matching vectors of one neuron, side by side. */
  bundle: number;
}

export function bytesOf(shape: ModelShape): ModelBytes {
  const { numLayers, hiddenSize: d, intermediateSize: n, bytesPerWeight, keyValueShare } = shape;
  const bundle = shape.ffnMatrices * d * bytesPerWeight;
  const attention = numLayers * (2 + 2 * keyValueShare) * d * d * bytesPerWeight;
  const ffn = numLayers * n * bundle;
  const embedding = shape.vocabSize * d * bytesPerWeight;
  return { attention, ffn, embedding, total: attention + ffn + embedding, bundle };
}

/** Keys and values of so many positions, which are kept in f32: all are read for each token. */
export function keyValueBytes(shape: ModelShape, positions: number): number {
  return 2 * 4 * shape.keyValueShare * shape.hiddenSize * positions * shape.numLayers;
}

/** Low-rank predictors of all layers, A (rank x d) and B (n x rank), in q8. */
export function predictorBytes(shape: ModelShape, rank: number): number {
  const weights = shape.numLayers * rank * (shape.hiddenSize + shape.intermediateSize);
  return weights * BYTES_PER_WEIGHT.q8;
}

/** Bytes of a weight in blocks of 32 with an f16 scale. */
export const BYTES_PER_WEIGHT = { f32: 4, f16: 2, q8: 34 / 32, q4: 18 / 32 } as const;

const OPT_VOCABULARY = 50_272;

/** An OPT model: FFN of 4d without a gate, as many key and value heads as query heads. */
function opt(name: string, numLayers: number, hiddenSize: number): ModelShape {
  return {
    name,
    numLayers,
    hiddenSize,
    intermediateSize: 4 * hiddenSize,
    vocabSize: OPT_VOCABULARY,
    ffnMatrices: 2,
    keyValueShare: 1,
    bytesPerWeight: 2,
  };
}

/** Shapes by Zhang et al. 2022 (OPT), table 1, in f16; and the embedded model's. */
export const SHAPES = {
  tales: { ...opt("tales", 6, 256), vocabSize: 4096 },
  opt6_7b: opt("OPT-6.7B", 32, 4096),
  opt13b: opt("OPT-13B", 40, 5120),
  opt30b: opt("OPT-30B", 48, 7168),
  opt66b: opt("OPT-66B", 64, 9216),
  opt175b: opt("OPT-175B", 96, 12_288),
} as const satisfies Record<string, ModelShape>;
