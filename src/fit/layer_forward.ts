import type { FlashFile } from "../format/flash_file.ts";
import type { Quantization } from "../format/layout.ts";
import { matrixByteLength, vectorByteLength } from "../format/layout.ts";
import { loadRows, untileRows } from "../format/quantize.ts";
import type { KernelModule } from "../kernels.ts";
import { FitMemory } from "./fit_memory.ts";
import type { Block } from "./fit_memory.ts";
import { Matmul } from "./matmul.ts";

/** Rows of a matrix that are widened to f32 at a time. */
const BLOCK_ROWS = 512;

/** Sizes that a group of positions must keep to. */
export interface GroupSizes {
  /** Most positions of a group. */
  positionsMax: number;
  /** Most positions of a chunk, which attends to itself alone. */
  chunkLengthMax: number;
}

/**
 * One layer of the dense model for many positions at once, for `calibrate`: matrices are read from the file block by
 * block, widened to f32, and multiplied with all positions of a group. So a layer costs its bytes once a group and not
 * once a token, and memory holds blocks of it only. The engine's pipeline computes the same layer token by token; its
 * sums have another order, so their last bits differ.
 *
 *   residual += attention(norm(residual));   residual += down(ReLU(up(norm(residual))))
 */
export class LayerForward {
  /** f32[positionsMax][d]: the layer's input, and after `run` its output. */
  readonly residual: Float32Array;
  /** f32[positionsMax][d]: after `run` the FFN's input. */
  readonly ffnInput: Float32Array;
  /** f32[positionsMax][d]: after `run` the layer's input after the FFN's norm, which an early look sees. */
  readonly earlyInput: Float32Array;
  /** u32[positionsMax][n / 32]: after `run` the neurons whose activation is not zero. */
  readonly active: Uint32Array;
  readonly #file: FlashFile;
  readonly #memory: FitMemory;
  readonly #matmul: Matmul;
  readonly #blocks: Record<
    "residual" | "normed" | "early" | "query" | "key" | "value" | "attended" | "hidden",
    Block
  >;
  readonly #masks: { address: number; values: Uint32Array };
  readonly #weights: Block;
  readonly #vectors: Block;
  readonly #scores: Block;
  readonly #head: Block;
  #layer = 0;

  constructor(file: FlashFile, kernels: KernelModule, sizes: GroupSizes) {
    const { hiddenSize: d, intermediateSize: n, numAttentionHeads } = file.header.config;
    this.#file = file;
    this.#memory = new FitMemory(kernels, LayerForward.byteLength(file, sizes));
    this.#matmul = new Matmul(this.#memory);
    const rows = padded(sizes.positionsMax, 4), chunk = padded(sizes.chunkLengthMax, 8);
    const wide = () => this.#memory.floats(rows * d);
    const block = Math.min(BLOCK_ROWS, n);
    this.#blocks = {
      residual: wide(),
      normed: wide(),
      early: wide(),
      query: wide(),
      key: wide(),
      value: wide(),
      attended: wide(),
      hidden: this.#memory.floats(rows * block),
    };
    this.#masks = this.#memory.words(rows * n / 32);
    this.#weights = this.#memory.floats(Math.max(BLOCK_ROWS, 32) * d);
    this.#vectors = this.#memory.floats(2 * d + n);
    this.#scores = this.#memory.floats(chunk * chunk);
    this.#head = this.#memory.floats(chunk * padded(d / numAttentionHeads, 8));
    this.residual = this.#blocks.residual.values;
    this.ffnInput = this.#blocks.normed.values;
    this.earlyInput = this.#blocks.early.values;
    this.active = this.#masks.values;
  }

  /** Bytes of memory that groups of these sizes take, beside small buffers. */
  static byteLength(file: FlashFile, { positionsMax, chunkLengthMax }: GroupSizes): number {
    const { hiddenSize: d, intermediateSize: n } = file.header.config;
    const rows = padded(positionsMax, 4), chunk = padded(chunkLengthMax, 8);
    const numbers = rows * (7 * d + Math.min(BLOCK_ROWS, n) + n / 32) + BLOCK_ROWS * d +
      2 * d + n + chunk * (chunk + d + 8) + Matmul.length;
    return 4 * numbers + 4096;
  }

  /** The embedding of `ids`, one chunk after the other, goes to `residual`. */
  embed(chunks: readonly (readonly number[])[]): void {
    const { hiddenSize: d, positionOffset } = this.#file.header.config;
    const row = this.#vectors.values.subarray(0, d);
    const tokens = this.#file.tensor("embedTokens");
    const positions = this.#positions();
    const tileBytes = matrixByteLength(tokens.dtype, 8, d);
    const bytes = new Uint8Array(tileBytes), tile = new Float32Array(8 * d);
    let at = 0;
    for (const ids of chunks) {
      for (const [index, id] of ids.entries()) {
        this.#file.read(bytes, tokens.byteOffset + (id >> 3) * tileBytes);
        loadTiles(tokens.dtype, bytes, { rows: 8, cols: d }, tile);
        row.set(tile.subarray((id & 7) * d, ((id & 7) + 1) * d));
        const from = (index + positionOffset) * d;
        for (let k = 0; k < d; k++) this.residual[at + k] = row[k] + positions[from + k];
        at += d;
      }
    }
  }

  #positions(): Float32Array {
    const tensor = this.#file.tensor("embedPositions");
    const values = new Float32Array(tensor.shape[0] * tensor.shape[1]);
    const bytes = this.#file.readRange(tensor);
    loadRows(tensor.dtype, bytes, { rows: tensor.shape[0], cols: tensor.shape[1] }, values);
    return values;
  }

  /** Takes `residual` through a layer. `lengths`: of the chunks that lie one after the other. */
  run(layer: number, lengths: readonly number[]): void {
    this.#layer = layer;
    const count = lengths.reduce((sum, length) => sum + length, 0);
    const { residual, normed, early, query, key, value, attended } = this.#blocks;
    this.#norm("ffnNorm", early, count);
    this.#norm("attentionNorm", normed, count);
    for (const [name, target] of Object.entries({ query, key, value })) {
      this.#linear(name, normed, target, count);
    }
    this.#attend(lengths);
    this.#linear("output", attended, query, count);
    add(residual.values, query.values, count * this.#d);
    this.#norm("ffnNorm", normed, count);
    this.#ffn(count);
  }

  get #d(): number {
    return this.#file.header.config.hiddenSize;
  }

  #floats(name: string): Float32Array {
    return this.#file.floats(`layers.${this.#layer}.${name}`);
  }

  #norm(name: string, target: Block, count: number): void {
    const { layerNormEpsilon } = this.#file.header.config, d = this.#d;
    const { values, address: weight } = this.#vectors;
    const { residual } = this.#blocks, { kernels } = this.#memory;
    values.set(this.#floats(`${name}.weight`), 0);
    values.set(this.#floats(`${name}.bias`), d);
    for (let row = 0; row < 4 * count * d; row += 4 * d) {
      const x = residual.address + row, y = target.address + row;
      kernels.layerNorm(x, weight, weight + 4 * d, y, d, layerNormEpsilon);
    }
  }

  /** target = W x + b, all [d][d] matrices of attention. */
  #linear(name: string, source: Block, target: Block, count: number): void {
    const d = this.#d, tensor = this.#file.tensor(`layers.${this.#layer}.attention.${name}.weight`);
    const bias = this.#floats(`attention.${name}.bias`);
    for (let first = 0; first < d; first += BLOCK_ROWS) {
      const rows = Math.min(BLOCK_ROWS, d - first);
      const bytes = this.#file.readRange({
        byteOffset: tensor.byteOffset + matrixByteLength(tensor.dtype, first, d),
        byteLength: matrixByteLength(tensor.dtype, rows, d),
      });
      loadTiles(tensor.dtype, bytes, { rows, cols: d }, this.#weights.values);
      this.#matmul.multiply({
        rows: count,
        cols: rows,
        depth: d,
        left: { address: source.address, stride: d },
        right: { address: this.#weights.address, stride: d, transposed: true },
        target: { address: target.address + 4 * first, stride: d },
      });
    }
    addToRows(target.values, bias, count);
  }

  /** Causal attention of each chunk, head by head. */
  #attend(lengths: readonly number[]): void {
    const { numAttentionHeads } = this.#file.header.config, d = this.#d;
    const { query, key, value, attended } = this.#blocks;
    const width = d / numAttentionHeads, headStride = padded(width, 8);
    const scale = 1 / Math.sqrt(width);
    for (let k = 0; k < query.values.length; k++) query.values[k] *= scale;
    let first = 0;
    for (const length of lengths) {
      const stride = padded(length, 8);
      for (let head = 0; head < numAttentionHeads; head++) {
        const at = 4 * (first * d + head * width);
        this.#matmul.multiply({
          rows: length,
          cols: length,
          depth: width,
          left: { address: query.address + at, stride: d },
          right: { address: key.address + at, stride: d, transposed: true },
          target: { address: this.#scores.address, stride },
        });
        this.#softmaxRows(length, stride);
        this.#matmul.multiply({
          rows: length,
          cols: width,
          depth: length,
          left: { address: this.#scores.address, stride },
          right: { address: value.address + at, stride: d },
          target: { address: this.#head.address, stride: headStride },
        });
        for (let row = 0; row < length; row++) {
          const from = this.#head.values.subarray(row * headStride, row * headStride + width);
          attended.values.set(from, (first + row) * d + head * width);
        }
      }
      first += length;
    }
  }

  /** Row i keeps its first i + 1 scores; what comes later becomes zero. */
  #softmaxRows(length: number, stride: number): void {
    const { values, address } = this.#scores, { kernels } = this.#memory;
    for (let row = 0; row < length; row++) {
      values.fill(0, row * stride + row + 1, row * stride + stride);
      kernels.softmax(address + 4 * row * stride, row + 1);
    }
  }

  /** residual += down(ReLU(up x)) + bias, in blocks of neurons. */
  #ffn(count: number): void {
    const { header } = this.#file, { intermediateSize: n } = header.config, d = this.#d;
    const { ffnQuantization } = header, { bundles } = header.layers[this.#layer];
    const { residual, normed, hidden } = this.#blocks, { kernels } = this.#memory;
    const upBias = this.#floats("ffn.up.bias");
    const vector = vectorByteLength(ffnQuantization, d);
    for (let first = 0; first < n; first += BLOCK_ROWS) {
      const rows = Math.min(BLOCK_ROWS, n - first);
      const bytes = this.#file.readBundles(this.#layer, { first, count: rows });
      const byteStride = bundles.bundleByteLength;
      const load = (byteOffset: number) =>
        loadRows(ffnQuantization, bytes, { rows, cols: d }, this.#weights.values, {
          byteOffset,
          byteStride,
        });
      load(0);
      this.#matmul.multiply({
        rows: count,
        cols: rows,
        depth: d,
        left: { address: normed.address, stride: d },
        right: { address: this.#weights.address, stride: d, transposed: true },
        target: { address: hidden.address, stride: rows },
      });
      addToRows(hidden.values, upBias.subarray(first, first + rows), count);
      for (let t = 0; t < count; t++) {
        const mask = this.#masks.address + 4 * (t * n + first) / 32;
        kernels.reluMask(hidden.address + 4 * t * rows, mask, 0, rows);
      }
      load(vector);
      this.#matmul.multiply({
        rows: count,
        cols: d,
        depth: rows,
        left: { address: hidden.address, stride: rows },
        right: { address: this.#weights.address, stride: d },
        target: { address: residual.address, stride: d },
        accumulate: true,
      });
    }
    addToRows(residual.values, this.#floats("ffn.down.bias"), count);
  }
}

/** Tiles of a matrix into f32 rows. */
function loadTiles(
  dtype: Quantization,
  tiles: Uint8Array,
  shape: { rows: number; cols: number },
  values: Float32Array,
): void {
  const rowBytes = new Uint8Array(shape.rows * vectorByteLength(dtype, shape.cols));
  untileRows(dtype, tiles, shape, rowBytes);
  loadRows(dtype, rowBytes, shape, values);
}

function add(target: Float32Array, values: Float32Array, length: number): void {
  for (let k = 0; k < length; k++) target[k] += values[k];
}

function addToRows(rows: Float32Array, bias: Float32Array, count: number): void {
  const width = bias.length;
  for (let t = 0, at = 0; t < count; t++) {
    for (let k = 0; k < width; k++, at++) rows[at] += bias[k];
  }
}

function padded(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
