import type { ModelConfig } from "../../models/config.ts";
import { activationKinds } from "../activation.ts";
import type { ActivationKinds } from "../activation.ts";
import type { FlashFile } from "../format/flash_file.ts";
import type { Quantization } from "../format/layout.ts";
import { matrixByteLength, vectorByteLength } from "../format/layout.ts";
import { loadRows, untileRows } from "../format/quantize.ts";
import { bundleFormOf } from "../format/header.ts";
import { takeVectors } from "../format/sparse_vectors.ts";
import { ACTIVATION } from "../kernels.ts";
import type { KernelModule } from "../kernels.ts";
import { applyNorm } from "../norm.ts";
import { Rope } from "../rope.ts";
import { FitMemory } from "./fit_memory.ts";
import type { Block } from "./fit_memory.ts";
import type { MagnitudeHistogram } from "./magnitude_histogram.ts";
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
 * sums have another order, so their last bits differ. How the halves come together: `BLOCKS` in models/config.ts.
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
  readonly #blocks: Record<BlockName, Block>;
  readonly #masks: { address: number; values: Uint32Array };
  readonly #weights: Block;
  readonly #vectors: Block;
  readonly #scores: Block;
  readonly #head: Block;
  readonly #angles: Block;
  readonly #rope?: Rope;
  readonly #kinds: ActivationKinds;
  #layer = 0;
  #histogram?: MagnitudeHistogram;

  constructor(file: FlashFile, kernels: KernelModule, sizes: GroupSizes) {
    const { config } = file.header, { hiddenSize: d, intermediateSize: n, positions } = config;
    const widths = widthsOf(config);
    this.#file = file;
    this.#memory = new FitMemory(kernels, LayerForward.byteLength(file, sizes));
    this.#matmul = new Matmul(this.#memory);
    const rows = padded(sizes.positionsMax, 4), chunk = padded(sizes.chunkLengthMax, 8);
    this.#blocks = Object.fromEntries(
      Object.entries(widths).map(([name, width]) => [name, this.#memory.floats(rows * width)]),
    ) as Record<BlockName, Block>;
    this.#masks = this.#memory.words(rows * n / 32);
    this.#weights = this.#memory.floats(BLOCK_ROWS * colsMaxOf(config));
    this.#vectors = this.#memory.floats(2 * d + n);
    this.#scores = this.#memory.floats(chunk * chunk);
    this.#head = this.#memory.floats(chunk * padded(config.headDim, 8));
    this.#angles = this.#memory.floats(config.headDim);
    if (positions.kind === "rotary") this.#rope = new Rope(positions);
    this.#kinds = activationKinds(config);
    this.residual = this.#blocks.residual.values;
    this.ffnInput = this.#blocks.ffnInput.values;
    this.earlyInput = this.#blocks.early.values;
    this.active = this.#masks.values;
  }

  /** Bytes of memory that groups of these sizes take, beside small buffers. */
  static byteLength(file: FlashFile, { positionsMax, chunkLengthMax }: GroupSizes): number {
    const { config } = file.header, { hiddenSize: d, intermediateSize: n, headDim } = config;
    const rows = padded(positionsMax, 4), chunk = padded(chunkLengthMax, 8);
    const widths = Object.values(widthsOf(config)).reduce((sum, width) => sum + width, 0);
    const numbers = rows * (widths + n / 32) + BLOCK_ROWS * colsMaxOf(config) + 2 * d + n +
      chunk * (chunk + headDim + 8) + headDim + Matmul.length;
    return 4 * numbers + 4096;
  }

  /** The embedding of `ids`, one chunk after the other, goes to `residual`. */
  embed(chunks: readonly (readonly number[])[]): void {
    const { config } = this.#file.header, { hiddenSize: d, embeddingSize, scales } = config;
    const tokens = this.#file.tensor("embedTokens"), learned = this.#positions();
    const tileBytes = matrixByteLength(tokens.dtype, 8, embeddingSize);
    const bytes = new Uint8Array(tileBytes), tile = new Float32Array(8 * embeddingSize);
    const narrow = embeddingSize === d ? this.residual : this.#blocks.half.values;
    let at = 0;
    for (const id of chunks.flat()) {
      this.#file.read(bytes, tokens.byteOffset + (id >> 3) * tileBytes);
      loadTiles(tokens.dtype, bytes, { rows: 8, cols: embeddingSize }, tile);
      narrow.set(tile.subarray((id & 7) * embeddingSize, ((id & 7) + 1) * embeddingSize), at);
      at += embeddingSize;
    }
    const count = at / embeddingSize, { half, residual } = this.#blocks;
    if (narrow !== this.residual) {
      this.#multiply("projectIn", half, residual, { count, from: embeddingSize, to: d });
    }
    for (let k = 0; scales.embedding !== 1 && k < count * d; k++) {
      this.residual[k] *= scales.embedding;
    }
    let row = 0;
    for (const { length } of learned ? chunks : []) {
      for (let k = 0; k < length * d; k++) this.residual[row + k] += learned![k];
      row += length * d;
    }
  }

  /** f32[positions][d] from position 0 on, where positions are learned. */
  #positions(): Float32Array | null {
    const { positions } = this.#file.header.config;
    if (positions.kind !== "learned") return null;
    const tensor = this.#file.tensor("embedPositions"), [rows, cols] = tensor.shape;
    const values = new Float32Array(rows * cols);
    loadRows(tensor.dtype, this.#file.readRange(tensor), { rows, cols }, values);
    return values.subarray(positions.offset * cols);
  }

  /**
   * Takes `residual` through a layer. `lengths`: of the chunks that lie one after the other. The histogram counts activations (with a
   * gate: the gate's).
   */
  run(layer: number, lengths: readonly number[], histogram?: MagnitudeHistogram): void {
    this.#layer = layer;
    this.#histogram = histogram;
    const { block } = this.#file.header.config, isAfter = block === "after";
    const count = lengths.reduce((sum, length) => sum + length, 0);
    const { early, normed, ffnInput } = this.#blocks;
    const ffnNorm = block === "parallel" ? "attentionNorm" : "ffnNorm";
    this.#norm(isAfter ? null : ffnNorm, early, count);
    this.#norm(isAfter ? null : "attentionNorm", normed, count);
    if (block.startsWith("parallel")) this.#norm(ffnNorm, ffnInput, count);
    this.#attention(lengths, count);
    this.#join("attention", count);
    if (!block.startsWith("parallel")) this.#norm(isAfter ? null : ffnNorm, ffnInput, count);
    this.#ffn(count);
    this.#join("ffn", count);
  }

  get #config(): ModelConfig {
    return this.#file.header.config;
  }

  /** A vector of the layer, or null if the model has none of this name. */
  #floats(name: string): Float32Array | null {
    const whole = `layers.${this.#layer}.${name}`;
    const isThere = this.#file.header.tensors.some((tensor) => tensor.name === whole);
    return isThere ? this.#file.floats(whole) : null;
  }

  /** Norms the residual stream; without a norm as it is. */
  #norm(name: string | null, target: Block, count: number): void {
    const { residual } = this.#blocks, d = this.#config.hiddenSize;
    if (name === null) target.values.set(residual.values.subarray(0, count * d));
    else this.#normRows(name, residual.address, target.address, { count, length: d });
  }

  /** Rows that follow each other. */
  #normRows(
    name: string,
    source: number,
    target: number,
    { count, length }: { count: number; length: number },
  ): void {
    const { values, address: weight } = this.#vectors, { kernels } = this.#memory;
    values.set(this.#floats(`${name}.weight`)!, 0);
    values.set(this.#floats(`${name}.bias`) ?? [], length);
    const pair = { weight, bias: weight + 4 * length };
    for (let row = 0; row < 4 * count * length; row += 4 * length) {
      applyNorm(kernels, this.#config.norm, source + row, pair, target + row, length);
    }
  }

  /** `half` comes to the residual stream. */
  #join(part: "attention" | "ffn", count: number): void {
    const { half, residual } = this.#blocks, { block, scales, hiddenSize: d } = this.#config;
    const length = count * d, shape = { count, length: d };
    if (block === "both") {
      this.#normRows(`${part}OutputNorm`, half.address, half.address, shape);
    }
    const factor = scales.residual;
    for (let k = 0; k < length; k++) residual.values[k] += factor * half.values[k];
    if (block !== "after") return;
    this.#normRows(`${part}Norm`, residual.address, residual.address, shape);
  }

  /** target = W x, for all positions; W [to][from]. */
  #multiply(
    name: string,
    source: Block,
    target: Block,
    { count, from, to }: { count: number; from: number; to: number },
  ): void {
    const tensor = this.#file.tensor(name);
    for (let first = 0; first < to; first += BLOCK_ROWS) {
      const rows = Math.min(BLOCK_ROWS, to - first);
      const bytes = this.#file.readRange({
        byteOffset: tensor.byteOffset + matrixByteLength(tensor.dtype, first, from),
        byteLength: matrixByteLength(tensor.dtype, rows, from),
      });
      loadTiles(tensor.dtype, bytes, { rows, cols: from }, this.#weights.values);
      this.#matmul.multiply({
        rows: count,
        cols: rows,
        depth: from,
        left: { address: source.address, stride: from },
        right: { address: this.#weights.address, stride: from, transposed: true },
        target: { address: target.address + 4 * first, stride: to },
      });
    }
  }

  /** target = W x + b, a matrix of attention. */
  #linear(
    name: string,
    source: Block,
    target: Block,
    sizes: { count: number; from: number; to: number },
  ): void {
    const part = `attention.${name}`, bias = this.#floats(`${part}.bias`);
    this.#multiply(`layers.${this.#layer}.${part}.weight`, source, target, sizes);
    if (bias) addToRows(target.values, bias, sizes.count);
  }

  /** half = output(attention(normed)) */
  #attention(lengths: readonly number[], count: number): void {
    const { normed, query, key, value, attended, half } = this.#blocks, d = this.#config.hiddenSize;
    const { numAttentionHeads, numKeyValueHeads, headDim, attention } = this.#config;
    const queries = numAttentionHeads * headDim, keys = numKeyValueHeads * headDim;
    this.#linear("query", normed, query, { count, from: d, to: queries });
    this.#linear("key", normed, key, { count, from: d, to: keys });
    this.#linear("value", normed, value, { count, from: d, to: keys });
    for (
      const [name, block, heads] of [
        ["query", query, numAttentionHeads],
        ["key", key, numKeyValueHeads],
      ] as const
    ) {
      if (attention.queryKeyNorm === "head") {
        const rows = { count: count * heads, length: headDim };
        this.#normRows(`attention.${name}Norm`, block.address, block.address, rows);
      }
      this.#turn(block, lengths, heads);
    }
    this.#attend(lengths);
    this.#linear("output", attended, half, { count, from: queries, to: d });
  }

  /** Rotary positions; each chunk begins at position 0. */
  #turn({ address }: Block, lengths: readonly number[], heads: number): void {
    if (!this.#rope) return;
    const { headDim, attention, positions } = this.#config, { kernels } = this.#memory;
    const dims = positions.kind === "rotary" ? positions.dims : 0;
    const inWindow = attention.window?.layers.includes(this.#layer) ?? false;
    const angles = this.#angles.values.subarray(0, dims);
    let row = address;
    for (const length of lengths) {
      for (let position = 0; position < length; position++, row += 4 * heads * headDim) {
        this.#rope.write(position, inWindow, angles);
        kernels.rotate(row, this.#angles.address, heads, headDim, dims);
      }
    }
  }

  /** Causal attention of each chunk, head by head. */
  #attend(lengths: readonly number[]): void {
    const { numAttentionHeads, numKeyValueHeads, headDim, attention } = this.#config;
    const { query, key, value, attended } = this.#blocks;
    const queries = numAttentionHeads * headDim, keys = numKeyValueHeads * headDim;
    const group = numAttentionHeads / numKeyValueHeads, headStride = padded(headDim, 8);
    for (let k = 0; k < query.values.length; k++) query.values[k] *= attention.scale;
    let first = 0;
    for (const length of lengths) {
      const stride = padded(length, 8);
      for (let head = 0; head < numAttentionHeads; head++) {
        const at = first * queries + head * headDim;
        const shared = 4 * (first * keys + Math.floor(head / group) * headDim);
        this.#matmul.multiply({
          rows: length,
          cols: length,
          depth: headDim,
          left: { address: query.address + 4 * at, stride: queries },
          right: { address: key.address + shared, stride: keys, transposed: true },
          target: { address: this.#scores.address, stride },
        });
        this.#softmaxRows(length, stride);
        this.#matmul.multiply({
          rows: length,
          cols: headDim,
          depth: length,
          left: { address: this.#scores.address, stride },
          right: { address: value.address + shared, stride: keys },
          target: { address: this.#head.address, stride: headStride },
        });
        for (let row = 0; row < length; row++) {
          const from = this.#head.values.subarray(row * headStride, row * headStride + headDim);
          attended.values.set(from, at + row * queries);
        }
      }
      first += length;
    }
  }

  /** Row i keeps its first i + 1 scores, or the last of them in a window; what comes later becomes zero. */
  #softmaxRows(length: number, stride: number): void {
    const { values, address } = this.#scores, { kernels } = this.#memory;
    const { window, softcap } = this.#config.attention;
    const most = window?.layers.includes(this.#layer) ? window.length : Infinity;
    for (let row = 0; row < length; row++) {
      const at = row * stride, end = at + row + 1;
      values.fill(0, end, at + stride);
      if (softcap !== null) kernels.softcap(address + 4 * at, softcap, 0, padded(row + 1, 4));
      values.fill(-Infinity, at, Math.max(at, end - most));
      kernels.softmax(address + 4 * at, row + 1);
    }
  }

  /** half = down(activations) + bias, in blocks of neurons. */
  #ffn(count: number): void {
    const { intermediateSize: n, hiddenSize: d, ffn } = this.#config;
    const { ffnQuantization } = this.#file.header, form = bundleFormOf(this.#file.header);
    const { half, hidden } = this.#blocks, vectors = ffn.isGated ? 3 : 2;
    const rowBytes = new Uint8Array(BLOCK_ROWS * vectorByteLength(ffnQuantization, d));
    half.values.fill(0, 0, count * d);
    for (let first = 0; first < n; first += BLOCK_ROWS) {
      const rows = Math.min(BLOCK_ROWS, n - first);
      const bytes = this.#file.readBundles(this.#layer, { first, count: rows });
      const load = (vector: number) => {
        takeVectors(form, bytes, { vector, count: rows }, rowBytes);
        loadRows(ffnQuantization, rowBytes, { rows, cols: d }, this.#weights.values);
      };
      this.#activate({ count, first, rows }, load);
      load(vectors - 1);
      this.#matmul.multiply({
        rows: count,
        cols: d,
        depth: rows,
        left: { address: hidden.address, stride: rows },
        right: { address: this.#weights.address, stride: d },
        target: { address: half.address, stride: d },
        accumulate: true,
      });
    }
    const bias = this.#floats("ffn.down.bias");
    if (bias) addToRows(half.values, bias, count);
  }

  /** hidden = activations of `rows` neurons from `first` on, and their bits of the masks. */
  #activate(
    { count, first, rows }: { count: number; first: number; rows: number },
    load: (index: number) => void,
  ): void {
    const { intermediateSize: n } = this.#config, { hidden, product } = this.#blocks;
    const { first: kind, second, threshold } = this.#kinds, { kernels } = this.#memory;
    const masksOf = (kind: number) => {
      for (let t = 0; t < count; t++) {
        const mask = this.#masks.address + 4 * (t * n + first) / 32;
        kernels.activeMask(hidden.address + 4 * t * rows, mask, 0, rows, kind, threshold, 0);
      }
    };
    load(0);
    this.#dots(hidden, { count, first, rows }, second === null ? "up" : "gate");
    masksOf(kind);
    this.#histogram?.add(hidden.values, 0, count * rows);
    if (second === null) return;
    load(1);
    this.#dots(product, { count, first, rows }, "up");
    const isDouble = second === ACTIVATION.timesRelu;
    for (let k = 0; k < count * rows; k++) {
      const times = product.values[k];
      hidden.values[k] *= isDouble ? Math.max(times, 0) : times;
    }
    if (isDouble) masksOf(ACTIVATION.relu); // None of them is below zero.
  }

  /** target [count][rows] = rows of the FFN that were loaded, times its input, + bias. */
  #dots(
    target: Block,
    { count, first, rows }: { count: number; first: number; rows: number },
    name: "gate" | "up",
  ): void {
    const { ffnInput } = this.#blocks, d = this.#config.hiddenSize;
    this.#matmul.multiply({
      rows: count,
      cols: rows,
      depth: d,
      left: { address: ffnInput.address, stride: d },
      right: { address: this.#weights.address, stride: d, transposed: true },
      target: { address: target.address, stride: rows },
    });
    const bias = this.#floats(`ffn.${name}.bias`);
    if (bias) addToRows(target.values, bias.subarray(first, first + rows), count);
  }
}

type BlockName =
  | "residual"
  | "normed"
  | "ffnInput"
  | "early"
  | "query"
  | "key"
  | "value"
  | "attended"
  | "half"
  | "hidden"
  | "product";

/** Numbers of a position in each block. */
function widthsOf(config: ModelConfig): Record<BlockName, number> {
  const { hiddenSize: d, intermediateSize: n, headDim, ffn } = config;
  const queries = config.numAttentionHeads * headDim, keys = config.numKeyValueHeads * headDim;
  const block = Math.min(BLOCK_ROWS, n);
  return {
    residual: d,
    normed: d,
    ffnInput: d,
    early: d,
    query: queries,
    key: keys,
    value: keys,
    attended: queries,
    half: d,
    hidden: block,
    product: ffn.isGated ? block : 0,
  };
}

/** The longest row of a matrix. */
function colsMaxOf({ hiddenSize, numAttentionHeads, headDim, embeddingSize }: ModelConfig): number {
  return Math.max(hiddenSize, numAttentionHeads * headDim, embeddingSize);
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

function addToRows(rows: Float32Array, bias: Float32Array, count: number): void {
  const width = bias.length;
  for (let t = 0, at = 0; t < count; t++) {
    for (let k = 0; k < width; k++, at++) rows[at] += bias[k];
  }
}

function padded(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
