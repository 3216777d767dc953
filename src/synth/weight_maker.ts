import type { ResidentTensor } from "../../models/tensors.ts";
import {
  bundleByteLength,
  floatsAt,
  matrixByteLength,
  type Quantization,
  vectorByteLength,
} from "../format/layout.ts";
import { storeRows, tileRows } from "../format/quantize.ts";
import type { RowPlace } from "../format/quantize.ts";
import { AttentionWeights } from "./attention_weights.ts";
import type { Blueprint } from "./blueprint.ts";
import { randomFor, STREAM } from "./noise.ts";
import { isSparse } from "../activation.ts";
import { ENERGY, UP_SHIFT, VARIANCE } from "./planted.ts";
import { SPECIAL_TOKENS } from "./shapes.ts";
import { StoredNoise } from "./stored_noise.ts";
import { WeightDesk } from "./weight_desk.ts";
import type { Chunk } from "./weight_desk.ts";

/** A tensor's form, and which of its rows to make. */
export interface RowsWanted {
  readonly tensor: Pick<ResidentTensor, "name" | "dtype" | "layout" | "shape">;
  readonly rowFrom: number;
  readonly rows: number;
}

/** Noise that rows are made of: by which keys it is drawn, before the row's own. */
interface RowNoise {
  readonly keys: readonly number[];
  readonly deviation: number;
}

/** The likeliest token's logit, about: the others lie around 0. */
const TOP_LOGIT = 14;

/**
 * What is written to the residual stream is larger by this than its energies say. Norms take it away again; without it scales of
 * blocks were below 2^-14, f16 numbers that processors are slow with, and that no real model has. So are rows of an output matrix of its
 * own.
 */
const RESIDUAL_SCALE = 16;
const IS_LARGE = /^embed|^lmHead$|\.attention\.output\.weight$/;

/** Makes the weights of a synthetic model, some rows at a time. Bytes depend on the blueprint and on which rows, on nothing else. */
export class WeightMaker {
  readonly #blueprint: Blueprint;
  readonly #desk: WeightDesk;
  readonly #attention: AttentionWeights;
  /** The place in the chain of each token; -1 for special ones. */
  readonly #places: Int32Array;
  readonly #stored: StoredNoise;
  #keptConstant: Float32Array | undefined;

  constructor(blueprint: Blueprint) {
    this.#blueprint = blueprint;
    this.#desk = new WeightDesk(blueprint);
    this.#stored = new StoredNoise(blueprint.seed);
    this.#attention = new AttentionWeights(this.#desk);
    this.#places = new Int32Array(blueprint.config.vocabSize).fill(-1);
    blueprint.tokens.chain.tokens.forEach((token, place) => this.#places[token] = place);
  }

  /** Bytes of rows `rowFrom` .. of a resident tensor, as they lie in the file; vectors are one row. */
  resident({ tensor, rowFrom, rows }: RowsWanted): Uint8Array<ArrayBuffer> {
    const { name, dtype, layout, shape } = tensor;
    const cols = shape[shape.length - 1], values = this.#desk.values.values;
    values.fill(0, 0, rows * cols);
    this.#fill(name, { rowFrom, rows, cols });
    if (shape.length === 1 || layout === "rows") return plainRows(dtype, values, rows * cols);
    const rowBytes = new Uint8Array(rows * vectorByteLength(dtype, cols));
    storeRows(dtype, values, { rows, cols }, rowBytes);
    const tiles = new Uint8Array(matrixByteLength(dtype, rows, cols));
    tileRows(dtype, rowBytes, { rows, cols }, tiles);
    return tiles;
  }

  /** Bytes of some of a layer's bundles. */
  bundles(
    layer: number,
    { from, rows }: { from: number; rows: number },
    quantization: Quantization,
  ): Uint8Array<ArrayBuffer> {
    const { config, noiseIsStored } = this.#blueprint, { hiddenSize: d, ffn: { isGated } } = config;
    const byteStride = bundleByteLength(quantization, d, isGated);
    const bytes = new Uint8Array(rows * byteStride), chunk = { rowFrom: from, rows, cols: d };
    let byteOffset = 0;
    for (const part of isGated ? ["gate", "up", "down"] as const : ["up", "down"] as const) {
      const place = { byteOffset, byteStride }, noise = this.#noiseOf(part, layer);
      if (noise !== null && noiseIsStored) {
        this.#storeNoise(chunk, noise, bytes, { ...place, quantization });
      } else {
        if (noise !== null) this.#fillNoise(chunk, noise);
        else if (part === "gate" || !isGated) this.#fillDeciding(layer, chunk);
        else this.#fillShifted(layer, chunk);
        storeRows(quantization, this.#desk.values.values, { rows, cols: d }, bytes, place);
      }
      byteOffset += vectorByteLength(quantization, d);
    }
    return bytes;
  }

  /** Of parts of a bundle that are nothing else: down columns, up rows behind gates, and all where activations are hardly ever zero. */
  #noiseOf(part: "gate" | "up" | "down", layer: number): RowNoise | null {
    const { config } = this.#blueprint, { ffn: { isGated, activation } } = config;
    if (part === "down") {
      const deviation = RESIDUAL_SCALE * this.#blueprint.downDeviation(layer);
      return { keys: [STREAM.down, layer], deviation };
    }
    const isMultiplied = isGated && part === "up";
    if (isMultiplied ? activation === "drelu" : isSparse(config)) return null;
    const keys = [isMultiplied ? STREAM.multiplied : STREAM.up, layer];
    return { keys, deviation: 1 / Math.sqrt(config.hiddenSize) };
  }

  #fill(name: string, chunk: Chunk): void {
    this.#fillPlain(name, chunk);
    if (!IS_LARGE.test(name)) return;
    const values = this.#desk.values.values, count = chunk.rows * chunk.cols;
    for (let i = 0; i < count; i++) values[i] *= RESIDUAL_SCALE;
  }

  #fillPlain(name: string, chunk: Chunk): void {
    const [, layerText, part] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [null, "", name];
    const layer = Number(layerText), values = this.#desk.values.values;
    switch (part) {
      case "embedTokens":
        return this.#fillEmbeddings(chunk);
      case "lmHead":
        return this.#fillTokens(chunk);
      case "embedPositions":
        return this.#desk.addNoise(
          { ...chunk, deviation: Math.sqrt(ENERGY.position) },
          (row) => [STREAM.positions, chunk.rowFrom + row],
        );
      case "attention.query.weight":
        return this.#attention.fillQueries(layer, chunk);
      case "attention.key.weight":
        return this.#attention.fillKeys(layer, chunk);
      case "attention.value.weight":
        return this.#attention.fillValues(layer, chunk);
      case "attention.output.weight":
        return this.#attention.fillOutput(layer, chunk);
      case "ffn.router.weight":
        return this.#fillRouter(layer, chunk);
      case "attention.queryNorm.weight":
      case "attention.keyNorm.weight":
        values.fill(this.#attention.ownNorm, 0, chunk.cols);
        return;
      case "ffn.up.bias":
        this.#blueprint.thresholds(layer).forEach((threshold, k) => values[k] = -threshold);
        return;
      case "attentionNorm.weight":
      case "ffnNorm.weight":
        values.fill(1, 0, chunk.cols);
        return;
      case "finalNorm.weight":
        values.fill(this.#logitScale(), 0, chunk.cols);
        return;
      default: // Other biases are zero.
        if (!part.endsWith(".bias")) throw new Error(`Nobody said how to make ${name}`);
    }
  }

  /** What is planted of the words, what all of them share, and noise where no position will add any. */
  #fillEmbeddings(chunk: Chunk): void {
    const { layout, config: { hiddenSize: d, positions } } = this.#blueprint;
    this.#fillTokens(chunk);
    if (positions.kind !== "learned") {
      this.#desk.addNoise(
        { ...chunk, deviation: Math.sqrt(ENERGY.position) },
        (row) => [STREAM.embeddings, chunk.rowFrom + row],
      );
    }
    if (layout.constantEnergy === 0) return;
    const length = Math.sqrt(layout.constantEnergy * d);
    for (let row = 0; row < chunk.rows; row++) this.#addConstant(row, length);
  }

  /** What is planted of the words; noise alone for special tokens. */
  #fillTokens({ rowFrom, rows, cols }: Chunk): void {
    const { basis, layout, tokens } = this.#blueprint;
    const depth = layout.identityAt + layout.identitySize, left = this.#desk.left.values;
    this.#desk.hold("tokens", () => {
      for (let k = 0; k < depth; k++) {
        const kind = k < layout.tokenAt ? "topic" : k < layout.identityAt ? "token" : "identity";
        basis.write(k, this.#desk.right.values, k * cols, layout.deviationOf(kind));
      }
    });
    left.fill(0, 0, rows * depth);
    for (let row = 0; row < rows; row++) {
      const place = this.#places[rowFrom + row];
      if (place >= 0) tokens.write(place, left, row * depth);
    }
    this.#desk.multiply({ rows, cols, depth });
    for (let row = 0; row < Math.min(rows, SPECIAL_TOKENS.length - rowFrom); row++) {
      const random = randomFor(this.#blueprint.seed, STREAM.specials, rowFrom + row);
      const place = { from: row * cols, length: cols, deviation: 0.5 };
      this.#blueprint.noise.add(this.#desk.values.values, place, random);
    }
  }

  /** So that the logit of the likeliest token is moderate: an embedding's product with itself is d. */
  #logitScale(): number {
    const { config: { hiddenSize: d, numLayers }, layout } = this.#blueprint;
    const energy = layout.energyBefore(numLayers).attention;
    const likeness = ENERGY.identity + ENERGY.topic;
    const scale = TOP_LOGIT * Math.sqrt(energy) / (likeness * d * RESIDUAL_SCALE);
    return Math.round(2 ** 24 * scale) / 2 ** 24;
  }

  /** The rows of some neurons that decide: coefficients of latents times their directions, and noise that only the whole row sees. */
  #fillDeciding(layer: number, { rowFrom: from, rows, cols }: Chunk): void {
    const blueprint = this.#blueprint, { layout, config } = blueprint, depth = layout.latentSize;
    this.#desk.hold(`up ${layer}`, () => this.fillLatents(layer, this.#desk.right.values));
    blueprint.coefficients(layer, { from, rows }, this.#desk.left.values);
    this.#desk.multiply({ rows, cols, depth });
    const deviation = Math.sqrt(VARIANCE.unseen / blueprint.movingShare(layer)) / Math.sqrt(cols);
    this.#desk.addNoise({ rows, cols, deviation }, (row) => [STREAM.up, layer, from + row]);
    if (layout.constantEnergy === 0) return;
    const thresholds = blueprint.thresholds(layer), each = blueprint.constantAt(layer);
    for (let row = 0; row < rows; row++) {
      // The product is to be above what FATReLU asks for.
      this.#setConstant(row, (config.ffn.threshold - thresholds[from + row]) / each);
    }
  }

  /** The up rows of dReLU: noise, whose products have variance 1, and are seldom below 0. */
  #fillShifted(layer: number, chunk: Chunk): void {
    const variance = 1 / this.#blueprint.movingShare(layer);
    const deviation = Math.sqrt(variance / chunk.cols);
    this.#fillNoise(chunk, { keys: [STREAM.multiplied, layer], deviation });
    const each = this.#blueprint.constantAt(layer);
    for (let row = 0; row < chunk.rows; row++) this.#setConstant(row, UP_SHIFT / each);
  }

  #fillRouter(layer: number, { rows, cols }: Chunk): void {
    this.#desk.hold(`up ${layer}`, () => this.fillLatents(layer, this.#desk.right.values));
    this.#blueprint.routerCoefficients(layer, this.#desk.left.values);
    this.#desk.multiply({ rows, cols, depth: this.#blueprint.layout.latentSize });
  }

  #fillNoise({ rowFrom, rows, cols }: Chunk, { keys, deviation }: RowNoise): void {
    this.#desk.values.values.fill(0, 0, rows * cols);
    this.#desk.addNoise({ rows, cols, deviation }, (row) => [...keys, rowFrom + row]);
  }

  /** The same as bytes, of runs that were rounded once. */
  #storeNoise(
    { rowFrom, rows, cols }: Chunk,
    { keys, deviation }: RowNoise,
    target: Uint8Array,
    { byteOffset, byteStride, quantization }: RowPlace & { quantization: Quantization },
  ): void {
    for (let row = 0; row < rows; row++) {
      const random = randomFor(this.#blueprint.seed, ...keys, rowFrom + row);
      const place = { byteOffset: byteOffset + row * byteStride, cols, deviation, quantization };
      this.#stored.write(target, place, random);
    }
  }

  /** The direction that all embeddings share, of length 1: f32[d] */
  get #constant(): Float32Array {
    if (this.#keptConstant) return this.#keptConstant;
    const { basis, layout, config: { hiddenSize: d } } = this.#blueprint;
    const constant = new Float32Array(d);
    basis.write(layout.constantAt, constant, 0);
    return this.#keptConstant = constant;
  }

  #addConstant(row: number, length: number): void {
    const constant = this.#constant, d = constant.length, values = this.#desk.values.values;
    for (let i = 0; i < d; i++) values[row * d + i] += length * constant[i];
  }

  /** Makes a row's product with the constant direction this, whatever noise there is. */
  #setConstant(row: number, product: number): void {
    const constant = this.#constant, d = constant.length, values = this.#desk.values.values;
    let found = 0;
    for (let i = 0; i < d; i++) found += values[row * d + i] * constant[i];
    this.#addConstant(row, product - found);
  }

  /** The rows of a layer's A: what brings the FFN's input to latents of variance 1. f32[latentSize][d] */
  fillLatents(layer: number, target: Float32Array): void {
    const { basis, layout, config: { hiddenSize: d } } = this.#blueprint;
    for (let k = 0; k < layout.latentSize; k++) {
      const direction = this.#blueprint.latentDirection(layer, k);
      // The directions have length 1, and so a deviation of what the residual stream has there.
      basis.write(direction, target, k * d, this.#blueprint.latentScale(layer, k));
    }
  }
}

/** Numbers one after the other. */
function plainRows(
  dtype: Quantization,
  values: Float32Array,
  length: number,
): Uint8Array<ArrayBuffer> {
  const isFloat = dtype === "f32";
  const bytes = new Uint8Array(length * (isFloat ? 4 : 2));
  floatsAt(isFloat ? "f32" : "f16", bytes.buffer, 0, length).set(values.subarray(0, length));
  return bytes;
}
