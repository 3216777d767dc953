import type { ModelConfig, ModelFamily, ResidentTensor } from "../../models/family.ts";
import { ModelFileError } from "../errors.ts";
import type { FlashPart } from "./flash_writer.ts";
import {
  bundleByteLength,
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
  #resident = new Map<string, { tensor: ResidentTensor; source: SafeTensor }>();
  #ffn: { up: SafeTensor; down: SafeTensor }[] = [];

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
    const used = new Set(family.ignoredSources(config));
    const find = (name: string, shape: readonly number[]) => {
      const source = findSource(weights, family, name, shape);
      used.add(source.name);
      return source;
    };
    for (const tensor of family.residentTensors(config, quantization)) {
      this.#resident.set(tensor.name, { tensor, source: find(tensor.sourceName, tensor.shape) });
    }
    const { hiddenSize: d, intermediateSize: n } = config;
    for (let layer = 0; layer < config.numLayers; layer++) {
      const { up, down } = family.ffnSource(layer);
      this.#ffn.push({ up: find(up, [n, d]), down: find(down, [d, n]) });
    }
    this.ignoredTensors = [...weights.tensors.keys()].filter((name) => !used.has(name));
  }

  /** The bytes of a part. Each piece is valid only until the next is asked for. */
  *bytesOf(part: FlashPart): Generator<Uint8Array> {
    if (part.kind === "bundles") yield* this.#bundles(part.layerIndex);
    else {
      const { tensor, source } = this.#resident.get(part.tensor.name)!;
      yield* this.#tensor(tensor, source);
    }
  }

  *#tensor({ dtype, layout, shape }: ResidentTensor, source: SafeTensor): Generator<Uint8Array> {
    const rowCount = shape.length === 1 ? 1 : shape[0];
    const cols = shape[shape.length - 1];
    const chunkRows = Math.min(rowCount, rowsPerChunk(cols));
    const values = new Float32Array(chunkRows * cols);
    const rowBytes = new Uint8Array(chunkRows * numbersByteLength(dtype, cols));
    const tiles = new Uint8Array(layout === "tiled" ? matrixByteLength(dtype, chunkRows, cols) : 0);
    for (let row = 0; row < rowCount; row += chunkRows) {
      const rows = Math.min(chunkRows, rowCount - row);
      const range = { from: row * cols, length: rows * cols };
      this.#weights.readFloats(source, range, values);
      const bad = findUnstorable(dtype, values, range.length);
      if (bad >= 0) throw unstorable(source, dtype, range.from + bad, values[bad]);
      storeRows(dtype, values, { rows, cols }, rowBytes);
      if (layout === "tiled") {
        tileRows(dtype, rowBytes, { rows, cols }, tiles);
        yield tiles.subarray(0, matrixByteLength(dtype, rows, cols));
      } else yield rowBytes.subarray(0, rows * numbersByteLength(dtype, cols));
    }
  }

  *#bundles(layerIndex: number): Generator<Uint8Array> {
    const { hiddenSize: d, intermediateSize: n } = this.#config;
    const { up, down } = this.#ffn[layerIndex];
    const stripMax = Math.floor(this.#stripBytesMax / (d * floatByteLength(down)));
    const stripCount = Math.min(n, Math.max(1, stripMax));
    const pieceCount = Math.min(stripCount, rowsPerChunk(d));
    const strip = new Uint8Array(stripCount * d * floatByteLength(down));
    const columns = new Uint8Array(pieceCount * d * floatByteLength(down));
    const values = new Float32Array(pieceCount * d);
    const bundles = new Uint8Array(pieceCount * bundleByteLength(this.#ffnQuantization, d));
    for (let from = 0; from < n; from += stripCount) {
      const count = Math.min(stripCount, n - from);
      this.#readStrip(down, { from, count }, strip);
      for (let piece = 0; piece < count; piece += pieceCount) {
        const rows = Math.min(pieceCount, count - piece);
        const range = { from: (from + piece) * d, length: rows * d };
        this.#weights.readFloats(up, range, values);
        this.#store(up, values, rows, bundles, "up", (index) => range.from + index);
        transpose(down, strip, { from: piece, count: rows, stride: count, length: d }, columns);
        toFloats(down.dtype, columns, rows * d, values);
        const indexOf = (index: number) => (index % d) * n + from + piece + Math.floor(index / d);
        this.#store(down, values, rows, bundles, "down", indexOf);
        yield bundles.subarray(0, rows * bundleByteLength(this.#ffnQuantization, d));
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

  /** Stores f32[rows][d] as the up or down halves of bundles. */
  #store(
    source: SafeTensor,
    values: Float32Array,
    rows: number,
    bundles: Uint8Array,
    half: "up" | "down",
    indexOf: (index: number) => number,
  ): void {
    const { hiddenSize: d } = this.#config;
    const quantization = this.#ffnQuantization;
    const bad = findUnstorable(quantization, values, rows * d);
    if (bad >= 0) throw unstorable(source, quantization, indexOf(bad), values[bad]);
    const byteOffset = half === "up" ? 0 : vectorByteLength(quantization, d);
    const byteStride = bundleByteLength(quantization, d);
    storeRows(quantization, values, { rows, cols: d }, bundles, { byteOffset, byteStride });
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

function findSource(
  weights: Safetensors,
  family: ModelFamily,
  name: string,
  shape: readonly number[],
): SafeTensor {
  const tensor = family.prefixes.map((prefix) => weights.tensors.get(prefix + name)).find(Boolean);
  if (tensor === undefined) {
    const place = { path: weights.sources[0].path, field: name, byteOffset: 8 };
    throw new ModelFileError(`tensor ${name} is missing`, place);
  }
  floatByteLength(tensor);
  if (String(tensor.shape) !== String(shape)) {
    const problem = `tensor ${tensor.name} has shape [${tensor.shape}], expected [${shape}]`;
    const { source: { path }, byteOffset } = tensor;
    throw new ModelFileError(problem, { path, field: `${tensor.name}.shape`, byteOffset });
  }
  return tensor;
}

function rowsPerChunk(cols: number): number {
  return Math.max(8, Math.floor(CHUNK_NUMBERS / cols / 8) * 8);
}

/** Bytes of `length` numbers as plain rows; only q8 needs a multiple of 32. */
function numbersByteLength(dtype: Quantization, length: number): number {
  return dtype === "q8" ? vectorByteLength(dtype, length) : length * (dtype === "f32" ? 4 : 2);
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
