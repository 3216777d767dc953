import type { ModelConfig } from "../../models/config.ts";
import type { ModelFamily } from "../../models/family.ts";
import { residentTensors } from "../../models/tensors.ts";
import type { ResidentTensor } from "../../models/tensors.ts";
import { ModelFileError } from "../errors.ts";
import { TensorFinder } from "./find_tensors.ts";
import type { FoundTensor } from "./find_tensors.ts";
import type { FlashPart } from "./flash_writer.ts";
import {
  bundleByteLength,
  isBlocked,
  matrixByteLength,
  type Quantization,
  vectorByteLength,
} from "./layout.ts";
import { findUnstorable, storeRows, tileRows } from "./quantize.ts";
import { floatByteLength, type Safetensors, toFloats } from "./safetensors.ts";
import type { SafeTensor } from "./safetensors_header.ts";

/** Numbers converted at a time, unless 8 rows are more. */
const CHUNK_NUMBERS = 1 << 20;

/**
 * Turns the weights of a checkpoint into the bytes of a `.flash` file, part by part and piece by piece.
 *
 * Matrices go by chunks of rows. Bundles need a column of the down matrix beside a row of the up matrix, and columns
 * are scattered over the whole matrix [d, n]; so a strip of as many columns as fit in `stripBytesMax` is read, one
 * range a row, and transposed from there.
 *
 *   down [d, n]     | strip 0 | strip 1 | ...      each strip: d ranges of `strip neurons` numbers
 */
export class PartPacker {
  /** Tensors of the checkpoint that nothing was made from. */
  readonly ignoredTensors: readonly string[];
  #weights: Safetensors;
  #config: ModelConfig;
  #ffnQuantization: Quantization;
  #stripBytesMax: number;
  #resident = new Map<string, { tensor: ResidentTensor; found: FoundTensor }>();
  /** Of each layer: rows of a bundle, [n, d] (the gate's first, if there is one), and its columns, [d, n]. */
  #ffn: { rows: FoundTensor[]; down: SafeTensor }[] = [];

  /** Finds every tensor and checks its type and shape, so that nothing is missing hours later. */
  constructor({ weights, family, config, quantization, ffnQuantization, stripBytesMax }: {
    weights: Safetensors;
    family: ModelFamily;
    config: ModelConfig;
    quantization: Quantization;
    ffnQuantization: Quantization;
    stripBytesMax: number;
  }) {
    this.#weights = weights;
    this.#config = config;
    this.#ffnQuantization = ffnQuantization;
    this.#stripBytesMax = stripBytesMax;
    const finder = new TensorFinder(weights, family, config);
    for (const tensor of residentTensors(config, quantization)) {
      this.#resident.set(tensor.name, { tensor, found: finder.find(tensor.name, tensor.shape) });
    }
    const { hiddenSize: d, intermediateSize: n, ffn: { isGated } } = config;
    const names = isGated ? ["gate", "up"] : ["up"];
    for (let layer = 0; layer < config.numLayers; layer++) {
      const find = (name: string, shape: number[]) =>
        finder.find(`layers.${layer}.ffn.${name}.weight`, shape);
      const rows = names.map((name) => find(name, [n, d]));
      this.#ffn.push({ rows, down: find("down", [d, n]).source });
    }
    this.ignoredTensors = finder.unused();
  }

  /** The bytes of a part. Each piece is valid only until the next is asked for. */
  *bytesOf(part: FlashPart): Generator<Uint8Array> {
    if (part.kind === "bundles") yield* this.#bundles(part.layerIndex);
    else {
      const { tensor, found } = this.#resident.get(part.tensor.name)!;
      yield* this.#tensor(tensor, found);
    }
  }

  *#tensor({ dtype, layout, shape }: ResidentTensor, found: FoundTensor): Generator<Uint8Array> {
    const rowCount = shape.length === 1 ? 1 : shape[0];
    const cols = shape[shape.length - 1];
    const chunkRows = Math.min(rowCount, rowsPerChunk(cols));
    const values = new Float32Array(chunkRows * cols);
    const rowBytes = new Uint8Array(chunkRows * numbersByteLength(dtype, cols));
    const tiles = new Uint8Array(layout === "tiled" ? matrixByteLength(dtype, chunkRows, cols) : 0);
    for (let row = 0; row < rowCount; row += chunkRows) {
      const rows = Math.min(chunkRows, rowCount - row);
      // Of a vector a row of the source is a number.
      this.#read(found, { from: row * cols, length: rows * cols }, values, dtype);
      const byteStride = numbersByteLength(dtype, cols);
      storeRows(dtype, values, { rows, cols }, rowBytes, { byteOffset: 0, byteStride });
      if (layout === "tiled") {
        tileRows(dtype, rowBytes, { rows, cols }, tiles);
        yield tiles.subarray(0, matrixByteLength(dtype, rows, cols));
      } else yield rowBytes.subarray(0, rows * numbersByteLength(dtype, cols));
    }
  }

  /** Reads numbers of ours, wherever their rows lie in the checkpoint. Throws for what `dtype` cannot hold. */
  #read(
    { source, runs, offset }: FoundTensor,
    { from, length }: { from: number; length: number },
    values: Float32Array,
    dtype: Quantization,
  ): void {
    const cols = source.shape.length === 1 ? 1 : source.shape[1];
    let first = 0, done = 0;
    for (const run of runs) {
      const count = run.count * cols, begin = Math.max(from, first);
      const end = Math.min(from + length, first + count);
      if (begin < end) {
        const at = run.from * cols + begin - first, target = values.subarray(done);
        this.#weights.readFloats(source, { from: at, length: end - begin }, target);
        if (offset !== 0) { for (let i = 0; i < end - begin; i++) target[i] += offset; }
        const bad = findUnstorable(dtype, target, end - begin);
        if (bad >= 0) throw unstorable(source, dtype, at + bad, target[bad]);
        done += end - begin;
      }
      first += count;
    }
  }

  *#bundles(layerIndex: number): Generator<Uint8Array> {
    const { hiddenSize: d, intermediateSize: n } = this.#config;
    const { rows: rowSources, down } = this.#ffn[layerIndex], dtype = this.#ffnQuantization;
    const stripMax = Math.floor(this.#stripBytesMax / (d * floatByteLength(down)));
    const stripCount = Math.min(n, Math.max(1, stripMax));
    const pieceCount = Math.min(stripCount, rowsPerChunk(d));
    const strip = new Uint8Array(stripCount * d * floatByteLength(down));
    const columns = new Uint8Array(pieceCount * d * floatByteLength(down));
    const values = new Float32Array(pieceCount * d);
    const byteStride = bundleByteLength(dtype, d, rowSources.length > 1),
      vector = vectorByteLength(dtype, d);
    const bundles = new Uint8Array(pieceCount * byteStride);
    for (let from = 0; from < n; from += stripCount) {
      const count = Math.min(stripCount, n - from);
      this.#readStrip(down, { from, count }, strip);
      for (let piece = 0; piece < count; piece += pieceCount) {
        const rows = Math.min(pieceCount, count - piece), shape = { rows, cols: d };
        for (const [index, source] of rowSources.entries()) {
          this.#read(source, { from: (from + piece) * d, length: rows * d }, values, dtype);
          storeRows(dtype, values, shape, bundles, { byteOffset: index * vector, byteStride });
        }
        transpose(down, strip, { from: piece, count: rows, stride: count, length: d }, columns);
        toFloats(down.dtype, columns, rows * d, values);
        const bad = findUnstorable(dtype, values, rows * d);
        if (bad >= 0) {
          const index = (bad % d) * n + from + piece + Math.floor(bad / d);
          throw unstorable(down, dtype, index, values[bad]);
        }
        const byteOffset = rowSources.length * vector;
        storeRows(dtype, values, shape, bundles, { byteOffset, byteStride });
        yield bundles.subarray(0, rows * byteStride);
      }
    }
  }

  /** Reads columns `from` to `from + count` of `down` [d, n]: `strip` becomes [d, count], as stored. */
  #readStrip(
    down: SafeTensor,
    { from, count }: { from: number; count: number },
    strip: Uint8Array,
  ): void {
    const { hiddenSize: d, intermediateSize: n } = this.#config;
    const rowBytes = count * floatByteLength(down);
    if (count === n) return this.#weights.readBytes(down, { from: 0, length: d * n }, strip);
    for (let row = 0; row < d; row++) {
      const target = strip.subarray(row * rowBytes, (row + 1) * rowBytes);
      this.#weights.readBytes(down, { from: row * n + from, length: count }, target);
    }
  }
}

/** Copies columns of `strip` [length, stride] to rows of `columns` [count, length], whatever the numbers are. */
function transpose(
  tensor: SafeTensor,
  strip: Uint8Array<ArrayBuffer>,
  { from, count, stride, length }: { from: number; count: number; stride: number; length: number },
  columns: Uint8Array<ArrayBuffer>,
): void {
  const Words = floatByteLength(tensor) === 4 ? Uint32Array : Uint16Array;
  const source = new Words(strip.buffer);
  const target = new Words(columns.buffer);
  const edge = 16; // Squares of this edge keep to few cache lines on either side.
  for (let blockRow = 0; blockRow < length; blockRow += edge) {
    const rowEnd = Math.min(length, blockRow + edge);
    for (let column = 0; column < count; column++) {
      const inTarget = column * length;
      let inSource = blockRow * stride + from + column;
      for (let row = blockRow; row < rowEnd; row++) {
        target[inTarget + row] = source[inSource];
        inSource += stride;
      }
    }
  }
}

function rowsPerChunk(cols: number): number {
  return Math.max(8, Math.floor(CHUNK_NUMBERS / cols / 8) * 8);
}

/** Bytes of `length` numbers as plain rows; only blocks need a multiple of 32. */
function numbersByteLength(dtype: Quantization, length: number): number {
  return isBlocked(dtype) ? vectorByteLength(dtype, length) : length * (dtype === "f32" ? 4 : 2);
}

function unstorable(
  tensor: SafeTensor,
  quantization: Quantization,
  index: number,
  value: number,
): ModelFileError {
  const byteOffset = tensor.byteOffset + index * floatByteLength(tensor);
  return new ModelFileError(`${quantization} cannot hold the number ${value}`, {
    path: tensor.source.path,
    field: tensor.name,
    byteOffset,
  });
}
