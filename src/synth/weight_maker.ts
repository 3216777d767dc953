import type { ResidentTensor } from "../../models/family.ts";
import { FitMemory } from "../fit/fit_memory.ts";
import type { Block } from "../fit/fit_memory.ts";
import { Matmul } from "../fit/matmul.ts";
import {
  bundleByteLength,
  floatsAt,
  matrixByteLength,
  type Quantization,
  vectorByteLength,
} from "../format/layout.ts";
import { storeRows, tileRows } from "../format/quantize.ts";
import { loadKernelModule } from "../kernels.ts";
import type { Blueprint } from "./blueprint.ts";
import { randomFor } from "./noise.ts";
import { ENERGY, VARIANCE } from "./planted.ts";
import { SPECIAL_TOKENS } from "./shapes.ts";

/** A tensor's form, and which of its rows to make. */
export interface RowsWanted {
  readonly tensor: Pick<ResidentTensor, "name" | "dtype" | "layout" | "shape">;
  readonly rowFrom: number;
  readonly rows: number;
}

/** Numbers made at a time. */
const CHUNK_NUMBERS = 1 << 20;

/** How far above the scores of other positions that of the own position lies, in units of the softmax. */
const OWN_POSITION_SCORE = 80;
/** Noise of the query, key and value matrices against what is planted in them. */
const PROJECTION_NOISE = 0.05;
/** The likeliest token's logit, about: the others lie around 0. */
const TOP_LOGIT = 14;

/** Rows of a matrix of so many columns that are made at a time: a multiple of 8. */
export function chunkRows(cols: number): number {
  return Math.max(8, Math.floor(CHUNK_NUMBERS / cols / 8) * 8);
}

/** Makes the weights of a synthetic model, some rows at a time. Bytes depend on the blueprint and on which rows, on nothing else. */
export class WeightMaker {
  readonly #blueprint: Blueprint;
  readonly #matmul: Matmul;
  /** f32[rows][depth], f32[depth][d] and f32[rows][d]: a product's sides and result. */
  readonly #left: Block;
  readonly #right: Block;
  readonly #values: Block;
  /** What `#right` holds. */
  #rightHolds = "";

  constructor(blueprint: Blueprint) {
    const { config: { hiddenSize: d }, layout } = blueprint;
    const depth = Math.max(layout.identityAt + layout.identitySize, layout.latentSize);
    const rows = chunkRows(d);
    const length = Matmul.length + rows * depth + depth * d + rows * d + 1024;
    // The plain build gives the same bits in any runtime.
    const memory = new FitMemory(loadKernelModule("plain"), 4 * length);
    this.#blueprint = blueprint;
    this.#matmul = new Matmul(memory);
    this.#left = memory.floats(rows * depth);
    this.#right = memory.floats(depth * d);
    this.#values = memory.floats(rows * d);
  }

  /** Bytes of rows `rowFrom` .. of a resident tensor, as they lie in the file; vectors are one row. */
  resident({ tensor, rowFrom, rows }: RowsWanted): Uint8Array<ArrayBuffer> {
    const { name, dtype, layout, shape } = tensor;
    const cols = shape[shape.length - 1], values = this.#values.values;
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
    const { hiddenSize: d } = this.#blueprint.config, values = this.#values.values;
    const byteStride = bundleByteLength(quantization, d);
    const bytes = new Uint8Array(rows * byteStride), shape = { rows, cols: d };
    this.#fillUp(layer, { from, rows });
    storeRows(quantization, values, shape, bytes, { byteOffset: 0, byteStride });
    const deviation = this.#blueprint.downDeviation(layer);
    values.fill(0, 0, rows * d);
    this.#addNoise({ rows, cols: d, deviation }, (row) => [13, layer, from + row]);
    const byteOffset = vectorByteLength(quantization, d);
    storeRows(quantization, values, shape, bytes, { byteOffset, byteStride });
    return bytes;
  }

  #fill(name: string, chunk: { rowFrom: number; rows: number; cols: number }): void {
    const [, layerText, part] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [null, "", name];
    const layer = Number(layerText), values = this.#values.values;
    switch (part) {
      case "embedTokens":
        return this.#fillTokens(chunk);
      case "embedPositions":
        return this.#addNoise(
          { ...chunk, deviation: Math.sqrt(ENERGY.position) },
          (row) => [14, chunk.rowFrom + row],
        );
      case "attention.query.weight":
        return this.#fillProjection(chunk, [15, layer], this.#queryScale(layer));
      case "attention.key.weight":
        return this.#fillProjection(chunk, [23, layer], this.#queryScale(layer));
      case "attention.value.weight":
        return this.#fillProjection(chunk, [16, layer], 1);
      case "attention.output.weight":
        return this.#fillOutput(layer, chunk);
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

  /** Embeddings: what is planted of the words; noise alone for special tokens. */
  #fillTokens({ rowFrom, rows, cols }: { rowFrom: number; rows: number; cols: number }): void {
    const { basis, layout, tokens, config } = this.#blueprint;
    const depth = layout.identityAt + layout.identitySize, left = this.#left.values;
    this.#holdRight("tokens", () => {
      for (let k = 0; k < depth; k++) {
        const kind = k < layout.tokenAt ? "topic" : k < layout.identityAt ? "token" : "identity";
        basis.write(k, this.#right.values, k * cols, layout.deviationOf(kind));
      }
    });
    const places = this.#placesOf(config.vocabSize);
    left.fill(0, 0, rows * depth);
    for (let row = 0; row < rows; row++) {
      const place = places[rowFrom + row];
      if (place >= 0) tokens.write(place, left, row * depth);
    }
    this.#multiply({ rows, cols, depth });
    for (let row = 0; row < Math.min(rows, SPECIAL_TOKENS.length - rowFrom); row++) {
      const random = randomFor(this.#blueprint.seed, 17, rowFrom + row);
      const place = { from: row * cols, length: cols, deviation: 0.5 };
      this.#blueprint.noise.add(this.#values.values, place, random);
    }
  }

  #places: Int32Array | undefined;

  /** The place in the chain of each token; -1 for special ones. */
  #placesOf(vocabSize: number): Int32Array {
    if (!this.#places) {
      this.#places = new Int32Array(vocabSize).fill(-1);
      const { tokens } = this.#blueprint.tokens.chain;
      tokens.forEach((token, place) => this.#places![token] = place);
    }
    return this.#places;
  }

  /** Row m looks at the coordinate of the identity that number m of the heads stands for. */
  #fillProjection(
    { rowFrom, rows, cols }: { rowFrom: number; rows: number; cols: number },
    keys: number[],
    scale: number,
  ): void {
    const { basis, layout } = this.#blueprint, { identitySize, identityAt } = layout;
    const values = this.#values.values;
    for (let row = 0; row < rows; row++) {
      const direction = identityAt + (rowFrom + row) % identitySize;
      basis.write(direction, values, row * cols, scale);
    }
    const deviation = scale * PROJECTION_NOISE / Math.sqrt(cols);
    this.#addNoise({ rows, cols, deviation }, (row) => [...keys, rowFrom + row]);
  }

  /** Queries and keys are scaled so that the score of the own position is large. */
  #queryScale(layer: number): number {
    const { config, layout } = this.#blueprint;
    const { hiddenSize: d, numAttentionHeads } = config, headSize = d / numAttentionHeads;
    const headEnergy = ENERGY.identity * d * (headSize / layout.identitySize) /
      layout.energyBefore(layer).attention;
    return Math.sqrt(OWN_POSITION_SCORE * Math.sqrt(headSize) / headEnergy);
  }

  /** Rows of the output matrix: its layer's attention directions, noise, and in the last layer the step to the next token. */
  #fillOutput(
    layer: number,
    { rowFrom, rows, cols }: { rowFrom: number; rows: number; cols: number },
  ): void {
    const blueprint = this.#blueprint, { basis, layout, config } = blueprint;
    const depth = layout.attentionSize, direction = new Float32Array(cols);
    const deviation = layout.deviationOf("attention"), left = this.#left.values;
    this.#holdRight(`output ${layer}`, () => {
      for (let k = 0; k < depth; k++) {
        blueprint.attentionReading(layer, k, direction);
        this.#right.values.set(direction, k * cols);
      }
    });
    for (let k = 0; k < depth; k++) {
      basis.write(layout.attentionAt(layer) + k, direction, 0, deviation);
      for (let row = 0; row < rows; row++) left[row * depth + k] = direction[rowFrom + row];
    }
    this.#multiply({ rows, cols, depth });
    const noise = blueprint.outputNoise(layer);
    this.#addNoise({ rows, cols, deviation: noise }, (row) => [18, layer, rowFrom + row]);
    if (layer === config.numLayers - 1) this.#addStep(layer, { rowFrom, rows, cols });
  }

  /** Takes the token's identity away and adds that of the next token: a rotation in each plane. */
  #addStep(
    layer: number,
    { rowFrom, rows, cols }: { rowFrom: number; rows: number; cols: number },
  ): void {
    const { basis, layout, tokens } = this.#blueprint, values = this.#values.values;
    const { identitySize, identityAt } = layout;
    const scale = Math.sqrt(layout.energyBefore(layer).attention);
    const one = new Float32Array(cols), other = new Float32Array(cols);
    for (let plane = 0; plane < identitySize / 2; plane++) {
      const { cosine, sine } = tokens.stepOf(plane);
      basis.write(identityAt + 2 * plane, one, 0);
      basis.write(identityAt + 2 * plane + 1, other, 0);
      for (let coordinate = 2 * plane; coordinate < 2 * plane + 2; coordinate++) {
        const repeats = Math.ceil((cols - coordinate) / identitySize);
        const isFirst = coordinate % 2 === 0;
        const toOwn = (cosine - 1) * scale / repeats;
        const toOther = (isFirst ? sine : -sine) * scale / repeats;
        const toOne = isFirst ? toOwn : toOther, toOtherOne = isFirst ? toOther : toOwn;
        for (let row = 0; row < rows; row++) {
          const added = toOne * one[rowFrom + row] + toOtherOne * other[rowFrom + row];
          for (let col = coordinate; col < cols; col += identitySize) {
            values[row * cols + col] += added;
          }
        }
      }
    }
  }

  /** So that the logit of the likeliest token is moderate: an embedding's product with itself is d. */
  #logitScale(): number {
    const { config: { hiddenSize: d, numLayers }, layout } = this.#blueprint;
    const energy = layout.energyBefore(numLayers).attention;
    const likeness = ENERGY.identity + ENERGY.topic;
    return Math.round(2 ** 20 * TOP_LOGIT * Math.sqrt(energy) / (likeness * d)) / 2 ** 20;
  }

  /** Up rows of some neurons: coefficients of latents times their directions, and noise that only the whole row sees. */
  #fillUp(layer: number, { from, rows }: { from: number; rows: number }): void {
    const blueprint = this.#blueprint, { layout, config: { hiddenSize: cols } } = blueprint;
    const depth = layout.latentSize;
    this.#holdRight(`up ${layer}`, () => this.fillLatents(layer, this.#right.values));
    blueprint.coefficients(layer, { from, rows }, this.#left.values);
    this.#multiply({ rows, cols, depth });
    const deviation = Math.sqrt(VARIANCE.unseen) / Math.sqrt(cols);
    this.#addNoise({ rows, cols, deviation }, (row) => [19, layer, from + row]);
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

  #holdRight(what: string, fill: () => void): void {
    if (this.#rightHolds === what) return;
    this.#rightHolds = what;
    fill();
  }

  /** values = left x right. */
  #multiply({ rows, cols, depth }: { rows: number; cols: number; depth: number }): void {
    this.#matmul.multiply({
      rows,
      cols,
      depth,
      left: { address: this.#left.address, stride: depth },
      right: { address: this.#right.address, stride: cols },
      target: { address: this.#values.address, stride: cols },
    });
  }

  #addNoise(
    { rows, cols, deviation }: { rows: number; cols: number; deviation: number },
    keysOf: (row: number) => number[],
  ): void {
    const { noise, seed } = this.#blueprint, values = this.#values.values;
    for (let row = 0; row < rows; row++) {
      const random = randomFor(seed, ...keysOf(row));
      noise.add(values, { from: row * cols, length: cols, deviation }, random);
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
