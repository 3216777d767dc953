import { chunksOf, documentsOf } from "./documents.ts";
import { FlashFile } from "./format/flash_file.ts";
import { updateFlash } from "./format/flash_update.ts";
import type { AppendTensor } from "./format/flash_update.ts";
import type { FlashHeader, Predictors, TensorRef } from "./format/header.ts";
import { matrixByteLength, vectorByteLength } from "./format/layout.ts";
import { loadRows, storeRows, tileRows } from "./format/quantize.ts";
import type { Model } from "./model.ts";
import { open } from "./open.ts";
import { ffnByteLength } from "./plan.ts";
import { finishLayer, prepareLayer } from "./fit/closed_form.ts";
import type { LowRankLayer } from "./fit/closed_form.ts";
import { chooseRanks } from "./fit/choose_ranks.ts";
import type { LayerObservations } from "./fit/observations.ts";
import { VERSION } from "./version.ts";

/** How to calibrate. */
export interface CalibrateOptions {
  /** The `.flash` file; it gets predictors, or new ones. */
  path: string;
  /** Text like the one that will be generated. Documents end with `<|endoftext|>`. */
  text: string;
  /** What the text is called in the file's provenance. */
  textName?: string;
  /** Share of the active neurons that the late look is to find, in each layer. Default 0.985. */
  recall?: number;
  /** What all predictors may take: a share of the FFN's bytes in f16. Default 0.1. */
  byteShare?: number;
  /** Positions to look at. Default 5500. */
  tokensMax?: number;
  /** Shares of the FFN that caches will hold: ranks are weighed by the reads at these sizes. Default 10 to 30 %. */
  cacheShares?: readonly number[];
  /** How many neurons found by the early look are worth one read in vain. Default 0.5. */
  earlyCost?: number;
  onProgress?: (progress: CalibrateProgress) => void;
  signal?: AbortSignal;
}

/** How far calibration is. `phase`: "observing" (tokens) or "fitting" (layers, twice). */
export interface CalibrateProgress {
  phase: "observing" | "fitting";
  done: number;
  total: number;
}

const RECALL_WANTED = 0.985;
const BYTE_SHARE = 0.1;
const TOKENS_MAX = 5500;
const TOKENS_MIN = 64;

/** Observations are held in memory: at most so many bytes of them. */
const OBSERVATION_BYTES_MAX = 1 << 30;

/** Share of the positions that are held out: thresholds and all figures come from them. */
const HELD_OUT_SHARE = 0.3;

/**
 * Runs a text through the dense model, fits a low-rank predictor for each layer in closed form, and
 * writes the predictors into the file atomically. Returns what was written.
 *
 * @throws {RangeError} the text is too short, or the predictors' bytes too few for rank 32 in each layer
 */
export async function calibrate(options: CalibrateOptions): Promise<Predictors> {
  const { path, onProgress, signal } = options;
  const recallWanted = options.recall ?? RECALL_WANTED;
  if (!(recallWanted > 0 && recallWanted < 1)) {
    throw new RangeError(`Cannot calibrate for a recall of ${recallWanted}: between 0 and 1`);
  }
  const observed = await observe(options);
  const { layers: observations, tokens } = observed;
  const total = 2 * observations.length;
  let done = 0;
  const tick = async () => {
    onProgress?.({ phase: "fitting", done: ++done, total });
    signal?.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, 0));
  };
  const { cacheShares, earlyCost } = options;
  const fitOptions = { recallWanted, earlyCost };
  const bases = [];
  for (const layer of observations) {
    bases.push(prepareLayer(layer, fitOptions));
    await tick();
  }
  const byteLimit = byteLimitOf(path, options.byteShare ?? BYTE_SHARE);
  const ranks = chooseRanks(bases, { byteLimit, cacheShares });
  const layers: LowRankLayer[] = [];
  for (const [index, layer] of observations.entries()) {
    layers.push(finishLayer(layer, bases[index], ranks[index], fitOptions));
    await tick();
  }
  const textName = options.textName ?? "text";
  const header = updateFlash(path, ({ header, append }) => ({
    ...header,
    predictors: store(layers, append, { recallWanted, calibration: { tokens, textName } }),
  }));
  return header.predictors!;
}

/** Bytes for predictors: a share of what the FFN takes in f16, whatever it is stored as. */
function byteLimitOf(path: string, share: number): number {
  using file = FlashFile.open(path);
  const { quantization, config } = file.header;
  const perBundle = 2 * vectorByteLength(quantization, config.hiddenSize);
  const perBundleF16 = 4 * config.hiddenSize;
  return Math.floor(share * ffnByteLength(file.header) / perBundle * perBundleF16);
}

/** Runs the text through the dense model and keeps what each layer's FFN, and its early look, would see. */
async function observe(
  { path, text, tokensMax = TOKENS_MAX, onProgress, signal }: CalibrateOptions,
): Promise<{ layers: LayerObservations[]; tokens: number }> {
  await using model = await open(path, {
    ffn: "dense",
    readers: 4,
    observations: true,
    signal,
  });
  const { header } = model;
  const { numLayers, hiddenSize: d } = header.config;
  const affordable = Math.floor(OBSERVATION_BYTES_MAX / (numLayers * d * 8));
  const ids = [...chunksOf(documentsOf(text), (part) => model.encode(part), model.contextLength)];
  const available = ids.reduce((sum, chunk) => sum + chunk.length, 0);
  const tokens = Math.min(tokensMax, affordable, available);
  if (tokens < TOKENS_MIN) {
    throw new RangeError(`Cannot calibrate with ${tokens} tokens of text: at least ${TOKENS_MIN}`);
  }
  const inputs = header.layers.map(() => new Float32Array(tokens * d));
  const earlyInputs = header.layers.map(() => new Float32Array(tokens * d));
  const norms = ffnNorms(model);
  let seen = 0;
  for (const chunk of ids) {
    const part = chunk.slice(0, tokens - seen);
    if (part.length === 0) break;
    await model.eachObservation(part, (layers) => {
      layers.forEach(({ layerInput, ffnInput }, layer) => {
        inputs[layer].set(ffnInput, seen * d);
        norms[layer](layerInput, earlyInputs[layer].subarray(seen * d, (seen + 1) * d));
      });
      seen++;
      if (seen % 64 === 0) onProgress?.({ phase: "observing", done: seen, total: tokens });
    }, signal);
  }
  onProgress?.({ phase: "observing", done: seen, total: tokens });
  const fitCount = Math.floor(tokens * (1 - HELD_OUT_SHARE));
  const layers = header.layers.map((_, layer) => ({
    hiddenSize: d,
    neuronCount: header.config.intermediateSize,
    ...upOf(path, header, layer),
    inputs: inputs[layer],
    earlyInputs: earlyInputs[layer],
    fitCount,
  }));
  return { layers, tokens };
}

/** For each layer: the FFN's norm, as the early look applies it to the layer's input. */
function ffnNorms({ path, header }: Model): ((x: Float32Array, y: Float32Array) => void)[] {
  using file = FlashFile.open(path);
  const { layerNormEpsilon } = header.config;
  return header.layers.map((_, layer) => {
    const weight = file.floats(`layers.${layer}.ffnNorm.weight`);
    const bias = file.floats(`layers.${layer}.ffnNorm.bias`);
    return (x, y) => {
      const n = x.length;
      let mean = 0, square = 0;
      for (let i = 0; i < n; i++) mean += x[i];
      mean /= n;
      for (let i = 0; i < n; i++) square += (x[i] - mean) ** 2;
      const scale = 1 / Math.sqrt(square / n + layerNormEpsilon);
      for (let i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
    };
  });
}

/** The up rows of a layer as f32[n][d], and their bias. */
function upOf(path: string, header: FlashHeader, layer: number) {
  using file = FlashFile.open(path);
  const { intermediateSize: n, hiddenSize: d } = header.config;
  const { byteOffset, bundleByteLength: byteStride } = header.layers[layer].bundles;
  const up = new Float32Array(n * d);
  const perRun = Math.max(1, Math.floor((1 << 24) / byteStride));
  for (let first = 0; first < n; first += perRun) {
    const rows = Math.min(perRun, n - first);
    const bytes = file.readRange({
      byteOffset: byteOffset + first * byteStride,
      byteLength: rows * byteStride,
    });
    const values = up.subarray(first * d, (first + rows) * d);
    loadRows(header.quantization, bytes, { rows, cols: d }, values, { byteOffset: 0, byteStride });
  }
  return { up, upBias: file.floats(`layers.${layer}.ffn.up.bias`) };
}

/** Appends the predictors to the file; returns their part of the header. */
function store(
  layers: LowRankLayer[],
  append: AppendTensor,
  { recallWanted, calibration }: Pick<Predictors, "recallWanted" | "calibration">,
): Predictors {
  const matrix = (values: Float32Array, rows: number, cols: number): TensorRef => {
    const rowBytes = new Uint8Array(rows * vectorByteLength("q8", cols));
    storeRows("q8", values, { rows, cols }, rowBytes);
    const tiles = new Uint8Array(matrixByteLength("q8", rows, cols));
    tileRows("q8", rowBytes, { rows, cols }, tiles);
    return append({ dtype: "q8", layout: "tiled", shape: [rows, cols] }, tiles);
  };
  const vector = (values: Float32Array): TensorRef =>
    append(
      { dtype: "f32", layout: "rows", shape: [values.length] },
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    );
  return {
    kind: "low-rank",
    createdBy: `flashpipe ${VERSION}, closed form`,
    recallWanted,
    calibration,
    layers: layers.map(({ rank, a, b, bias, earlyBias, measured }) => {
      const n = bias.length, d = a.length / rank;
      const { recall, predictedShare, activeShare } = measured;
      return {
        rank,
        a: matrix(a, rank, d),
        b: matrix(b, n, rank),
        bias: vector(bias),
        earlyBias: vector(earlyBias),
        recall,
        predictedShare,
        activeShare,
      };
    }),
    missCurves: layers.map(({ missCurve }) => missCurve),
  };
}
