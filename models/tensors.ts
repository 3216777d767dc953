import type { Quantization } from "../src/format/layout.ts";
import type { ModelConfig } from "./config.ts";

/** How a resident tensor is stored: tiles of 8 x 32, or plain rows. */
export type TensorLayout = "tiled" | "rows";

/** A tensor that a model has in memory while it runs. */
export interface ResidentTensor {
  /** `layers.0.attention.query.weight` */
  readonly name: string;
  readonly dtype: Quantization;
  readonly layout: TensorLayout;
  /** [rows, cols], or [n]. */
  readonly shape: readonly number[];
}

/** The resident tensors of a model, in the order of the file; they follow from its config alone. */
export function residentTensors(
  config: ModelConfig,
  quantization: Quantization,
): ResidentTensor[] {
  return Array.from(tensorsOf(config, quantization));
}

function* tensorsOf(config: ModelConfig, quantization: Quantization): Generator<ResidentTensor> {
  const { vocabSize, hiddenSize: d, embeddingSize, positions, numLayers, biases } = config;
  const matrix = (name: string, rows: number, cols: number): ResidentTensor => {
    return { name, dtype: quantization, layout: "tiled", shape: [rows, cols] };
  };
  yield matrix("embedTokens", vocabSize, embeddingSize);
  if (positions.kind === "learned") {
    const dtype = quantization === "f32" ? "f32" : "f16";
    const shape = [config.maxPositionEmbeddings + positions.offset, d];
    yield { name: "embedPositions", dtype, layout: "rows", shape };
  }
  if (embeddingSize !== d) {
    yield matrix("projectIn", d, embeddingSize);
    yield matrix("projectOut", embeddingSize, d);
  }
  for (let layer = 0; layer < numLayers; layer++) {
    for (const tensor of layerTensors(config, matrix)) {
      yield { ...tensor, name: `layers.${layer}.${tensor.name}` };
    }
  }
  if (config.hasFinalNorm) yield* norm(config, "finalNorm", d);
  if (!config.tiedEmbedding) yield matrix("lmHead", vocabSize, embeddingSize);
  if (biases.head) yield vector("lmHead.bias", vocabSize);
}

/** Of one layer, without its number. */
function* layerTensors(
  config: ModelConfig,
  matrix: (name: string, rows: number, cols: number) => ResidentTensor,
): Generator<ResidentTensor> {
  const { hiddenSize: d, intermediateSize: n, headDim, block, biases, ffn } = config;
  const queries = config.numAttentionHeads * headDim, keys = config.numKeyValueHeads * headDim;
  yield* norm(config, "attentionNorm", d);
  for (const [name, rows] of [["query", queries], ["key", keys], ["value", keys]] as const) {
    yield matrix(`attention.${name}.weight`, rows, d);
    if (biases.queryKeyValue) yield vector(`attention.${name}.bias`, rows);
  }
  const { queryKeyNorm } = config.attention, isWhole = queryKeyNorm === "all";
  if (queryKeyNorm !== "none") {
    yield* norm(config, "attention.queryNorm", isWhole ? queries : headDim);
    yield* norm(config, "attention.keyNorm", isWhole ? keys : headDim);
  }
  yield matrix("attention.output.weight", d, queries);
  if (biases.output) yield vector("attention.output.bias", d);
  if (block === "both") yield* norm(config, "attentionOutputNorm", d);
  if (block !== "parallel") yield* norm(config, "ffnNorm", d);
  if (config.experts) {
    // Few numbers that decide much: they are not rounded as others are.
    const router = matrix("ffn.router.weight", config.experts.count, d);
    yield { ...router, dtype: router.dtype === "f32" ? "f32" : "f16" };
  }
  if (ffn.isGated && biases.up) yield vector("ffn.gate.bias", n);
  if (biases.up) yield vector("ffn.up.bias", n);
  if (biases.down) yield vector("ffn.down.bias", d);
  if (block === "both") yield* norm(config, "ffnOutputNorm", d);
}

function* norm(
  { norm: { kind } }: ModelConfig,
  name: string,
  length: number,
): Generator<ResidentTensor> {
  yield vector(`${name}.weight`, length);
  if (kind === "layer") yield vector(`${name}.bias`, length);
}

function vector(name: string, length: number): ResidentTensor {
  return { name, dtype: "f32", layout: "rows", shape: [length] };
}
