import {
  floatsAt,
  isBlocked,
  type Quantization,
  TILE_COLS,
  TILE_ROWS,
  tileByteLength,
  vectorByteLength,
} from "./layout.ts";
import { loadRowQ4, moveTilesQ4, type TileMove } from "./quantize_q4.ts";
import { RowQuantizer } from "./row_quantizer.ts";

/**
 * Numbers to bytes and back: rows of f32 become the row bytes of a bundle (`storeRows`), and row bytes become the tiles
 * of a resident matrix (`tileRows`); `loadRows` and `untileRows` are their twins. Layouts are drawn in layout.ts.
 *
 * q8, for each block of 32 numbers: scale = f16(f32(largest magnitude / 127)); number = round to nearest, ties to
 * even, of value / scale with the scale *as stored*, clamped to -127..127. A scale of zero stores zeros.
 * q4: see quantize_q4.ts. Kernels do both (kernels/quantize/).
 */

/** Where rows lie among other bytes: row r begins at `byteOffset + r * byteStride`. Both are multiples of 2 (f32: 4). */
export interface RowPlace {
  readonly byteOffset: number;
  readonly byteStride: number;
}

/** Largest magnitude that each kind of number can hold once rounded. */
const LARGEST: Record<Quantization, number> = {
  f32: 3.4028234663852886e38,
  f16: 65519.99,
  q8: 65504 * 127,
  q4: 65504 * 7,
};

/** Index of the first of `count` values that `quantization` cannot hold (not finite, or too large), or -1. */
export function findUnstorable(
  quantization: Quantization,
  values: Float32Array,
  count: number,
): number {
  const largest = LARGEST[quantization];
  for (let index = 0; index < count; index++) {
    if (!(Math.abs(values[index]) <= largest)) return index;
  }
  return -1;
}

/** Stores `values`, f32[rows][cols], as row bytes in `target`. `cols` is a multiple of 32. */
export function storeRows(
  quantization: Quantization,
  values: Float32Array,
  { rows, cols }: { rows: number; cols: number },
  target: Uint8Array,
  place: RowPlace = { byteOffset: 0, byteStride: vectorByteLength(quantization, cols) },
): void {
  for (let row = 0; row < rows; row++) {
    const start = target.byteOffset + place.byteOffset + row * place.byteStride;
    if (isBlocked(quantization)) {
      const numbers = values.subarray(row * cols, (row + 1) * cols);
      quantizerFor(cols).store(quantization, numbers, target, start - target.byteOffset);
    } else {
      const numbers = floatsAt(quantization, target.buffer, start, cols);
      numbers.set(values.subarray(row * cols, (row + 1) * cols));
    }
  }
}

/** Reads rows back into f32[rows][cols]: the twin of `storeRows`. */
export function loadRows(
  quantization: Quantization,
  source: Uint8Array,
  { rows, cols }: { rows: number; cols: number },
  values: Float32Array,
  place: RowPlace = { byteOffset: 0, byteStride: vectorByteLength(quantization, cols) },
): void {
  for (let row = 0; row < rows; row++) {
    const start = source.byteOffset + place.byteOffset + row * place.byteStride;
    if (isBlocked(quantization)) {
      const scales = new Float16Array(source.buffer, start, cols / TILE_COLS);
      const at = start + cols / 16, first = row * cols;
      if (quantization === "q8") {
        const numbers = new Int8Array(source.buffer, at, cols);
        for (let col = 0; col < cols; col++) {
          values[first + col] = numbers[col] * scales[col >> 5];
        }
      } else loadRowQ4(scales, new Uint8Array(source.buffer, at, cols / 2), values, first);
    } else {
      values.set(floatsAt(quantization, source.buffer, start, cols), row * cols);
    }
  }
}

/**
 * Rearranges row bytes (as `storeRows` makes them, without gaps) into tiles of 8 x 32. When `rows` is no multiple of
 * 8, the last tiles are filled up with zeros. Both arrays begin at a multiple of 2 bytes.
 *
 * With `rowAt`, row i of the source becomes row `rowAt[i]` of a matrix whose tiles all lie in `target`; nothing else of
 * it is written.
 */
export function tileRows(
  quantization: Quantization,
  source: Uint8Array,
  { rows, cols }: { rows: number; cols: number },
  target: Uint8Array,
  rowAt?: Int32Array,
): void {
  const move = { rowBytes: source, tiles: target, toTiles: true, rowAt };
  moveTiles(quantization, { rows, cols }, move);
}

/** Rearranges tiles into row bytes: the twin of `tileRows`. */
export function untileRows(
  quantization: Quantization,
  source: Uint8Array,
  { rows, cols }: { rows: number; cols: number },
  target: Uint8Array,
): void {
  moveTiles(quantization, { rows, cols }, { rowBytes: target, tiles: source, toTiles: false });
}

/** This thread's, as large as the longest rows so far. */
let quantizer: RowQuantizer | undefined;

function quantizerFor(cols: number): RowQuantizer {
  if (quantizer === undefined || quantizer.colsMax < cols) quantizer = new RowQuantizer(cols);
  return quantizer;
}

/** Copies between row bytes and tiles, in whole words: nothing here looks at a number's value. */
function moveTiles(
  quantization: Quantization,
  { rows, cols }: { rows: number; cols: number },
  { rowBytes, tiles, toTiles, rowAt }: TileMove,
): void {
  if (quantization === "q4") {
    return moveTilesQ4({ rows, cols }, { rowBytes, tiles, toTiles, rowAt });
  }
  const rowWords = new Uint16Array(
    rowBytes.buffer,
    rowBytes.byteOffset,
    rows * vectorByteLength(quantization, cols) / 2,
  );
  const blocks = cols / TILE_COLS;
  const tileWordCount = tileByteLength(quantization) / 2;
  const tileWords = new Uint16Array(
    tiles.buffer,
    tiles.byteOffset,
    rowAt ? tiles.byteLength / 2 : Math.ceil(rows / TILE_ROWS) * blocks * tileWordCount,
  );
  if (toTiles && !rowAt && rows % TILE_ROWS !== 0) tileWords.fill(0);
  const scaleWordCount = quantization === "q8" ? 1 : 0;
  const runWordCount = tileWordCount / TILE_ROWS - scaleWordCount; // One row of one tile.
  const rowWordCount = blocks * (runWordCount + scaleWordCount);
  for (let row = 0; row < rows; row++) {
    const matrixRow = rowAt ? rowAt[row] : row, line = matrixRow % TILE_ROWS;
    let tile = (matrixRow - line) / TILE_ROWS * blocks * tileWordCount;
    let inRow = row * rowWordCount + blocks * scaleWordCount;
    for (let block = 0; block < blocks; block++) {
      const inTile = tile + TILE_ROWS * scaleWordCount + line * runWordCount;
      if (toTiles) {
        for (let word = 0; word < runWordCount; word++) {
          tileWords[inTile + word] = rowWords[inRow + word];
        }
        if (scaleWordCount === 1) tileWords[tile + line] = rowWords[row * rowWordCount + block];
      } else {
        for (let word = 0; word < runWordCount; word++) {
          rowWords[inRow + word] = tileWords[inTile + word];
        }
        if (scaleWordCount === 1) rowWords[row * rowWordCount + block] = tileWords[tile + line];
      }
      tile += tileWordCount;
      inRow += runWordCount;
    }
  }
}
