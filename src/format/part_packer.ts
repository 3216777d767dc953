import type { ModelConfig } from "../../models/config.ts";
import type { TensorNames } from "../../models/family.ts";
import { residentTensors } from "../../models/tensors.ts";
import type { ResidentTensor } from "../../models/tensors.ts";
import {
  blockLength,
  floatByteLength,
  storedByteLength,
  toFloats,
} from "../checkpoint/checkpoint.ts";
import type { Checkpoint, NumberRange } from "../checkpoint/checkpoint.ts";
import { TensorFinder } from "../checkpoint/find_tensors.ts";
import type { FoundTensor } from "../checkpoint/find_tensors.ts";
import type { SourceTensor } from "../checkpoint/source_tensor.ts";
import { ModelFileError } from "../errors.ts";
import type { ByteSource } from "./byte_source.ts";
import type { FlashPart } from "./flash_writer.ts";
import {
  bundleByteLength,
  type BundleForm,
  bundleVectors,
  type Capacities,
  isBlocked,
  matrixByteLength,
  type Quantization,
  vectorByteLength,
} from "./layout.ts";
import { copyStored, isStoredAs } from "./copy_stored.ts";
import { countStored, storeSparse } from "./sparse_vectors.ts";
import { findUnstorable, type RowPlace, storeRows, tileRows } from "./quantize.ts";

/** Of n neurons: rows of a bundle, [n, d] (the gate's first, if there is one), and its columns, [d, n]. */
interface FfnTensors {
  readonly rows: readonly FoundTensor[];
  readonly down: FoundTensor;
}

/** Of a matrix that may be pruned so many numbers are read, and so many of those must be zero at least. */
const SAMPLE_NUMBERS = 1 << 16, ZEROS_MIN = 0.2;

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
  #weights: Checkpoint;
  #config: ModelConfig;
  #ffnQuantization: Quantization;
  /** Of bundles that are stored without their zeros: see `storeWithoutZeros`. */
  #capacities: Capacities = null;
  #stripBytesMax: number;
  #stored = new Uint8Array(0);
  #resident = new Map<string, { tensor: ResidentTensor; found: FoundTensor }>();
  /** Of each layer its FFN, or those of its experts. */
  #ffn: FfnTensors[][] = [];

  /** Finds every tensor and checks its type and shape, so that nothing is missing hours later. */
  constructor({ weights, names, config, quantization, ffnQuantization, stripBytesMax }: {
    weights: Checkpoint;
    names: TensorNames;
    config: ModelConfig;
    quantization: Quantization;
    ffnQuantization: Quantization;
    stripBytesMax: number;
  }) {
    this.#weights = weights;
    this.#config = config;
    this.#ffnQuantization = ffnQuantization;
    this.#stripBytesMax = stripBytesMax;
    const finder = new TensorFinder(weights, names, config);
    for (const tensor of residentTensors(config, quantization)) {
      this.#resident.set(tensor.name, { tensor, found: finder.find(tensor.name, tensor.shape) });
    }
    const { hiddenSize: d, intermediateSize: n, ffn: { isGated }, experts } = config;
    const parts = isGated ? ["gate", "up"] : ["up"], count = experts?.count ?? 1;
    for (let layer = 0; layer < config.numLayers; layer++) {
      const ffns = Array.from({ length: count }, (_, expert) => {
        const place = experts ? `experts.${expert}.` : "";
        const find = (name: string, shape: number[]) =>
          finder.find(`layers.${layer}.ffn.${place}${name}.weight`, shape);
        const rows = parts.map((part) => find(part, [n / count, d]));
        return { rows, down: find("down", [d, n / count]) };
      });
      this.#ffn.push(ffns);
    }
    this.ignoredTensors = finder.unused();
  }

  /** Parts in the order in which the checkpoint's files have what they are made of: so each file is read from front to back. */
  inSourceOrder(parts: readonly FlashPart[]): FlashPart[] {
    const { sources } = this.#weights;
    const placeOf = (part: FlashPart) => {
      const last = (a: SourceTensor, b: SourceTensor) => comparePlaces(sources, a, b) < 0 ? b : a;
      return { part, last: this.sourcesOf(part).reduce(last) };
    };
    return parts.map(placeOf).sort((a, b) => comparePlaces(sources, a.last, b.last))
      .map(({ part }) => part);
  }

  /** What of the checkpoint a part is made of. */
  sourcesOf(part: FlashPart): SourceTensor[] {
    if (part.kind === "tensor") return [this.#resident.get(part.tensor.name)!.found.source];
    // Experts may be stacked to one tensor.
    return [
      ...new Set(
        this.#ffn[part.layerIndex].flatMap(({ rows, down }) =>
          [...rows, down].map(({ source }) => source)
        ),
      ),
    ];
  }

  /** Whether so many numbers of a layer are zero that bundles could be smaller without them: of one that a few numbers are read of. */
  get looksPruned(): boolean {
    const [{ rows, down }] = this.#ffn[this.#ffn.length >> 1];
    return [...rows, down].some(({ source }) => {
      const block = blockLength(source), most = Math.min(SAMPLE_NUMBERS, source.length);
      const length = Math.floor(most / block) * block;
      const values = new Float32Array(length);
      this.#weights.readFloats(source, { from: 0, length }, values);
      return values.filter((value) => value === 0).length >= ZEROS_MIN * length;
    });
  }

  /**
   * Makes all bundles to count what of them is not zero: yields the layer whenever others may have their turn, and returns the most of each
   * vector.
   */
  *countStored(): Generator<number, number[]> {
    const form = this.#form(null), most = bundleVectors(form).map(() => 0);
    const byteLength = bundleVectors(form).reduce((sum, bytes) => sum + bytes, 0);
    for (const [layer, ffns] of this.#ffn.entries()) {
      for (const ffn of ffns) {
        for (const bundles of this.#bundles(ffn)) {
          countStored(form, bundles, bundles.byteLength / byteLength, most);
          yield layer;
        }
      }
    }
    return most;
  }

  /** From now on bundles are without their zeros. */
  storeWithoutZeros(capacities: readonly number[]): void {
    this.#capacities = capacities;
  }

  #form(capacities: Capacities): BundleForm {
    const { hiddenSize, ffn: { isGated } } = this.#config;
    return { quantization: this.#ffnQuantization, hiddenSize, isGated, capacities };
  }

  /** Bundles as the file has them. */
  *#asStored(ffn: FfnTensors): Generator<Uint8Array> {
    if (!this.#capacities) return yield* this.#bundles(ffn);
    const byteLength = ({ quantization, hiddenSize, isGated, capacities }: BundleForm) =>
      bundleByteLength(quantization, hiddenSize, isGated, capacities);
    const form = this.#form(this.#capacities), stride = byteLength(form);
    const strideWithZeros = byteLength(this.#form(null));
    let stored = new Uint8Array(0);
    for (const bundles of this.#bundles(ffn)) {
      const count = bundles.byteLength / strideWithZeros;
      if (stored.byteLength < count * stride) stored = new Uint8Array(count * stride);
      storeSparse(form, bundles, count, stored);
      yield stored.subarray(0, count * stride);
    }
  }

  /** The bytes of a part, whose sources are loaded. Each piece is valid only until the next is asked for. */
  *bytesOf(part: FlashPart): Generator<Uint8Array> {
    if (part.kind === "bundles") {
      for (const ffn of this.#ffn[part.layerIndex]) yield* this.#asStored(ffn);
    } else {
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
      const place = { byteOffset: 0, byteStride: numbersByteLength(dtype, cols) };
      this.#store(found, { from: row, rows, cols }, dtype, { values, target: rowBytes, place });
      if (layout === "tiled") {
        tileRows(dtype, rowBytes, { rows, cols }, tiles);
        yield tiles.subarray(0, matrixByteLength(dtype, rows, cols));
      } else yield rowBytes.subarray(0, rows * numbersByteLength(dtype, cols));
    }
  }

  /** Stores rows of ours as `dtype`: numbers that are so already as they are, others by their values, f32[rows][cols]. */
  #store(
    found: FoundTensor,
    { from, rows, cols }: { from: number; rows: number; cols: number },
    dtype: Quantization,
    { values, target, place }: { values: Float32Array; target: Uint8Array; place: RowPlace },
  ): void {
    const numbers = { from: from * cols, length: rows * cols };
    if (found.offset === 0 && isStoredAs(found.source, dtype)) {
      const byteLength = storedByteLength(found.source, numbers.length);
      if (this.#stored.byteLength < byteLength) this.#stored = new Uint8Array(byteLength);
      for (const { part, at } of pieces(found, numbers)) {
        const piece = this.#stored.subarray(storedByteLength(found.source, at));
        this.#weights.readBytes(found.source, part, piece);
      }
      if (copyStored(dtype, this.#stored, { rows, cols }, target, place)) return;
    }
    this.#read(found, numbers, values, dtype);
    storeRows(dtype, values, { rows, cols }, target, place);
  }

  /** Reads numbers of ours, wherever their rows lie in the checkpoint. Throws for what `dtype` cannot hold. */
  #read(
    found: FoundTensor,
    numbers: NumberRange,
    values: Float32Array,
    dtype: Quantization,
  ): void {
    const { source, offset } = found;
    for (const { part, at } of pieces(found, numbers)) {
      const target = values.subarray(at);
      this.#weights.readFloats(source, part, target);
      if (offset !== 0) { for (let i = 0; i < part.length; i++) target[i] += offset; }
      const bad = findUnstorable(dtype, target, part.length);
      if (bad >= 0) throw unstorable(source, dtype, part.from + bad, target[bad]);
    }
  }

  *#bundles({ rows: rowSources, down: { source: down, runs } }: FfnTensors): Generator<Uint8Array> {
    const { hiddenSize: d } = this.#config, n = down.shape.at(-1)!, dtype = this.#ffnQuantization;
    const [{ from: firstRow }] = runs;
    // Blocks are taken apart as they are read: their numbers stand in a strip as f32.
    const numberBytes = floatByteLength(down) ?? 4, block = blockLength(down);
    const stripMax = Math.floor(this.#stripBytesMax / (d * numberBytes) / block) * block;
    const stripCount = Math.min(n, Math.max(block, stripMax));
    const pieceCount = Math.min(stripCount, rowsPerChunk(d));
    const strip = new Uint8Array(stripCount * d * numberBytes);
    const columns = new Uint8Array(pieceCount * d * numberBytes);
    const values = new Float32Array(pieceCount * d);
    const byteStride = bundleByteLength(dtype, d, rowSources.length > 1),
      vector = vectorByteLength(dtype, d);
    const bundles = new Uint8Array(pieceCount * byteStride);
    for (let from = 0; from < n; from += stripCount) {
      const count = Math.min(stripCount, n - from);
      this.#readStrip(down, firstRow, { from, count }, strip);
      for (let piece = 0; piece < count; piece += pieceCount) {
        const rows = Math.min(pieceCount, count - piece), shape = { rows, cols: d };
        for (const [index, source] of rowSources.entries()) {
          const place = { byteOffset: index * vector, byteStride };
          const range = { from: from + piece, rows, cols: d };
          this.#store(source, range, dtype, { values, target: bundles, place });
        }
        const columnsOfStrip = { from: piece, count: rows, stride: count, length: d };
        transpose(numberBytes, strip, columnsOfStrip, columns);
        const place = { byteOffset: rowSources.length * vector, byteStride };
        const isCopied = block === 1 && isStoredAs(down, dtype) &&
          copyStored(dtype, columns, shape, bundles, place);
        if (!isCopied) {
          toFloats(block > 1 ? "F32" : down.dtype, columns, rows * d, values);
          const bad = findUnstorable(dtype, values, rows * d);
          if (bad >= 0) {
            const index = (firstRow + bad % d) * n + from + piece + Math.floor(bad / d);
            throw unstorable(down, dtype, index, values[bad]);
          }
          storeRows(dtype, values, shape, bundles, place);
        }
        yield bundles.subarray(0, rows * byteStride);
      }
    }
  }

  /**
   * Reads columns `from` to `from + count` of d rows of `down` [rows, n]: `strip` becomes [d, count], as stored, or f32 of
   * blocks.
   */
  #readStrip(
    down: SourceTensor,
    firstRow: number,
    { from, count }: { from: number; count: number },
    strip: Uint8Array<ArrayBuffer>,
  ): void {
    const { hiddenSize: d } = this.#config, n = down.shape.at(-1)!;
    const numberBytes = floatByteLength(down), first = firstRow * n;
    if (numberBytes === null) {
      const floats = new Float32Array(strip.buffer);
      for (let row = 0; row < d; row++) {
        const range = { from: first + row * n + from, length: count };
        this.#weights.readFloats(down, range, floats.subarray(row * count, (row + 1) * count));
      }
      return;
    }
    const rowBytes = count * numberBytes;
    if (count === n) return this.#weights.readBytes(down, { from: first, length: d * n }, strip);
    for (let row = 0; row < d; row++) {
      const target = strip.subarray(row * rowBytes, (row + 1) * rowBytes);
      this.#weights.readBytes(down, { from: first + row * n + from, length: count }, target);
    }
  }
}

/** Where numbers of ours lie in the checkpoint: `part` of its tensor becomes what begins at number `at`. */
function* pieces(
  { source, runs }: FoundTensor,
  { from, length }: NumberRange,
): Generator<{ part: NumberRange; at: number }> {
  // Of a vector a row is a number.
  const cols = source.shape.length === 1 ? 1 : source.shape.at(-1)!;
  let first = 0, at = 0;
  for (const run of runs) {
    const count = run.count * cols, begin = Math.max(from, first);
    const end = Math.min(from + length, first + count);
    if (begin < end) {
      yield { part: { from: run.from * cols + begin - first, length: end - begin }, at };
      at += end - begin;
    }
    first += count;
  }
}

/** By file, and by place in the file. */
function comparePlaces(
  sources: readonly ByteSource[],
  a: SourceTensor,
  b: SourceTensor,
): number {
  return sources.indexOf(a.source) - sources.indexOf(b.source) || a.byteOffset - b.byteOffset;
}

/** Copies columns of `strip` [length, stride] to rows of `columns` [count, length], whatever the numbers are. */
function transpose(
  numberBytes: 2 | 4,
  strip: Uint8Array<ArrayBuffer>,
  { from, count, stride, length }: { from: number; count: number; stride: number; length: number },
  columns: Uint8Array<ArrayBuffer>,
): void {
  const Words = numberBytes === 4 ? Uint32Array : Uint16Array;
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
  tensor: SourceTensor,
  quantization: Quantization,
  index: number,
  value: number,
): ModelFileError {
  const block = blockLength(tensor), first = index - index % block;
  const byteOffset = tensor.byteOffset + storedByteLength(tensor, first);
  return new ModelFileError(`${quantization} cannot hold the number ${value}`, {
    path: tensor.source.path,
    field: tensor.name,
    byteOffset,
  });
}
