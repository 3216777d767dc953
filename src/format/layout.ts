import type { ModelConfig } from "../../models/config.ts";

/**
 * Where numbers lie inside a matrix and inside a bundle, in bytes: the one place that packer, kernels' callers and
 * inspector agree on. Everything is little-endian.
 *
 * A resident matrix (`rows` x `cols`) is tiled into blocks of 8 rows x 32 columns, so that a
 * matrix-vector product reads one sequential stream (docs/model_format.md). Blocks of the same 8 rows follow each
 * other from left to right; rows are padded with zeros to a multiple of 8.
 *
 *   f32 block, 1024 bytes: | row 0: 32 f32 | row 1 | ... | row 7 |
 *   f16 block,  512 bytes: | row 0: 32 f16 | row 1 | ... | row 7 |
 *   q8  block,  272 bytes: | 8 f16 scales | row 0: 32 i8 | ... | row 7 |
 *   q4  block,  144 bytes: | 8 f16 scales | columns 0..3: 16 bytes | columns 4..7 | ... | columns 28..31 |
 *       four columns: | rows 0, 1: 4 bytes, one a column, row 0 in its low nibble | rows 2, 3 | 4, 5 | 6, 7 |
 *
 * A bundle is the record of one neuron on flash, two vectors or, with a gate, three:
 *
 *   | up row | down column |     | gate row | up row | down column |
 *
 *   f32, f16: d numbers
 *   q8:       d/32 f16 scales, d i8
 *   q4:       d/32 f16 scales, d/32 x 16 bytes; byte j of a block: column j in its low nibble, column j + 16 in its high one
 *
 * Bundles of a pruned model may be stored without the zeros, f16 and q8: each vector has a bitmap, and room for as many
 * numbers as the vector of its kind that has most, its capacity (sparse_vectors.ts):
 *
 *   f16: d/8 bytes of bits, f16 x capacity
 *   q8:  d/32 f16 scales, d/8 bytes of bits, i8 x capacity
 */

/**
 * How numbers of weights are stored. `q8`: blocks of 32 signed bytes with one f16 scale. `q4`: blocks of 32 numbers of
 * -8 to 7, as nibbles of 0 to 15, with one f16 scale.
 */
export type Quantization = "f32" | "f16" | "q8" | "q4";

/** Those whose bundles can be stored without their zeros. */
export type PrunableQuantization = "f16" | "q8";

export const QUANTIZATIONS: readonly Quantization[] = ["f32", "f16", "q8", "q4"];

/** Neurons of a layer, at most, in q8 and q4: carries of exact sums would leave the highest digit (kernels/sparse/grid.ts). */
export const EXACT_NEURONS_MAX = 65_536;

/** What forbids that so many neurons of a layer are added for a position, or null. */
export function problemWithNeurons(
  quantization: Quantization,
  { intermediateSize, experts }: Pick<ModelConfig, "intermediateSize" | "experts">,
): string | null {
  const share = experts ? experts.perToken / experts.count : 1, count = share * intermediateSize;
  if (!isBlocked(quantization) || count <= EXACT_NEURONS_MAX) return null;
  return `${quantization} holds at most ${EXACT_NEURONS_MAX} neurons a layer, not ${count}`;
}

/** Whether numbers come in blocks of 32 with one scale. */
export function isBlocked(quantization: Quantization): quantization is "q8" | "q4" {
  return quantization === "q8" || quantization === "q4";
}

/** Rows of a tile, and columns of a tile or of a block. */
export const TILE_ROWS = 8;
export const TILE_COLS = 32;

const TILE_BYTES: Record<Quantization, number> = { f32: 1024, f16: 512, q8: 272, q4: 144 };
const VECTOR_BYTES_PER_BLOCK: Record<Quantization, number> = {
  f32: 128,
  f16: 64,
  q8: 34,
  q4: 18,
};

/** Rows of a group of bit planes. */
export const PLANE_ROWS = 16;

/** Bytes of one tile of 8 x 32 weights. */
export function tileByteLength(quantization: Quantization): number {
  return TILE_BYTES[quantization];
}

/** Bytes of a tiled matrix; rows are padded to a multiple of 8, `cols` must be a multiple of 32. */
export function matrixByteLength(quantization: Quantization, rows: number, cols: number): number {
  if (cols % TILE_COLS !== 0) {
    throw new RangeError(
      `Cannot tile a matrix whose columns are no multiple of ${TILE_COLS}: received ${cols}`,
    );
  }
  return Math.ceil(rows / TILE_ROWS) * (cols / TILE_COLS) * TILE_BYTES[quantization];
}

/** Bytes of one row (or column) of `length` weights inside a bundle; `length` must be a multiple of 32. */
export function vectorByteLength(quantization: Quantization, length: number): number {
  if (length % TILE_COLS !== 0) {
    throw new RangeError(
      `Cannot store a vector whose length is no multiple of ${TILE_COLS}: received ${length}`,
    );
  }
  return (length / TILE_COLS) * VECTOR_BYTES_PER_BLOCK[quantization];
}

/** A view of `length` numbers of f32 or f16; `byteOffset` is a multiple of their size. */
export function floatsAt(
  dtype: "f32" | "f16",
  buffer: ArrayBufferLike,
  byteOffset: number,
  length: number,
): Float32Array | Float16Array {
  return dtype === "f16"
    ? new Float16Array(buffer, byteOffset, length)
    : new Float32Array(buffer, byteOffset, length);
}

/**
 * Numbers of each vector of a bundle that are stored, in the order of the vectors: even ones, so that every vector begins at
 * a multiple of 2. `null`: all numbers are stored, zeros too.
 */
export type Capacities = readonly number[] | null;

/** What bundles of a file are. */
export interface BundleForm {
  readonly quantization: Quantization;
  readonly hiddenSize: number;
  readonly isGated: boolean;
  readonly capacities: Capacities;
}

export function isPrunable(quantization: Quantization): quantization is PrunableQuantization {
  return quantization === "f16" || quantization === "q8";
}

/** Bytes of a vector of `length` numbers of which `capacity` are stored, with a bitmap that says which. */
export function sparseVectorByteLength(
  quantization: Quantization,
  length: number,
  capacity: number,
): number {
  const numberBytes = quantization === "q8" ? 1 : 2;
  return sparseNumbersAt(quantization, length) + capacity * numberBytes;
}

/** Bytes in front of the numbers of such a vector: scales, if there are any, and the bitmap. */
export function sparseNumbersAt(quantization: Quantization, length: number): number {
  return (quantization === "q8" ? length / 16 : 0) + length / 8;
}

/** Bytes of each vector of a bundle: the gate's row if there is one, the up row, the down column. */
export function bundleVectors(
  { quantization, hiddenSize, isGated, capacities }: BundleForm,
): number[] {
  return capacities
    ? capacities.map((capacity) => sparseVectorByteLength(quantization, hiddenSize, capacity))
    : Array<number>(isGated ? 3 : 2).fill(vectorByteLength(quantization, hiddenSize));
}

/** Bytes of a bundle: the gate's row if there is one, the up row and the down column of one neuron, each `hiddenSize` = d long. */
export function bundleByteLength(
  quantization: Quantization,
  hiddenSize: number,
  isGated = false,
  capacities: Capacities = null,
): number {
  return bundleVectors({ quantization, hiddenSize, isGated, capacities })
    .reduce((sum, byteLength) => sum + byteLength, 0);
}
