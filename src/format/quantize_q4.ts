import { TILE_COLS, TILE_ROWS } from "./layout.ts";

/**
 * q4, for each block of 32 numbers: m is the first of those with the largest magnitude. Four scales, f16(f32(m / -8)) and
 * by -8.5, -7.5 and -7, are tried; the one with the least squared error is stored (of equals the first; a fifth try gains nothing, four make
 * the error 8 % smaller than one). A number is that
 * of -8 to 7 nearest to value / scale (ties to even) with the scale *as stored*, plus 8. A scale of zero stores eights.
 * So numbers that are q4 already, and reach -8, -7 or 7, come back as they are.
 */

/** Copying between row bytes and tiles: see `tileRows`. */
export interface TileMove {
  rowBytes: Uint8Array;
  tiles: Uint8Array;
  toTiles: boolean;
  rowAt?: Int32Array;
}

/** Reads a row back into `values` from `first` on. */
export function loadRowQ4(
  scales: Float16Array,
  nibbles: Uint8Array,
  values: Float32Array,
  first: number,
): void {
  for (let index = 0; index < nibbles.length; index++) {
    const scale = scales[index >> 4], col = first + index + (index & ~15);
    values[col] = ((nibbles[index] & 15) - 8) * scale;
    values[col + 16] = ((nibbles[index] >> 4) - 8) * scale;
  }
}

/**
 * As moveTiles, for q4, whose tiles have four columns of two rows in each four bytes (layout.ts). A word of row bytes has
 * two columns in its low nibbles, and two that come 16 later in its high ones.
 */
export function moveTilesQ4(
  { rows, cols }: { rows: number; cols: number },
  { rowBytes, tiles, toTiles, rowAt }: TileMove,
): void {
  const blocks = cols / TILE_COLS;
  const rowWordCount = blocks * 9, tileWordCount = 72;
  const rowWords = new Uint16Array(rowBytes.buffer, rowBytes.byteOffset, rows * rowWordCount);
  const tileWords = new Uint16Array(
    tiles.buffer,
    tiles.byteOffset,
    rowAt ? tiles.byteLength / 2 : Math.ceil(rows / TILE_ROWS) * blocks * tileWordCount,
  );
  if (toTiles && !rowAt && rows % TILE_ROWS !== 0) tileWords.fill(0);
  for (let row = 0; row < rows; row++) {
    const matrixRow = rowAt ? rowAt[row] : row, line = matrixRow % TILE_ROWS;
    const shift = (line & 1) * 4, keep = 0xf0f0 >> shift; // The other row's nibbles.
    let tile = (matrixRow - line) / TILE_ROWS * blocks * tileWordCount;
    let inRow = row * rowWordCount + blocks;
    for (let block = 0; block < blocks; block++, tile += tileWordCount) {
      const scale = row * rowWordCount + block;
      if (toTiles) tileWords[tile + line] = rowWords[scale];
      else rowWords[scale] = tileWords[tile + line];
      // Columns 4 i to 4 i + 3 of all rows are eight words, of which this row shares two with its neighbour.
      let early = tile + 8 + (line & 6);
      for (let word = 0; word < 8; word++, inRow++) {
        const late = early + 32;
        if (toTiles) {
          const pair = rowWords[inRow];
          tileWords[early] = (tileWords[early] & keep) | ((pair & 0x0f0f) << shift);
          tileWords[late] = (tileWords[late] & keep) | (((pair >> 4) & 0x0f0f) << shift);
        } else {
          const low = (tileWords[early] >> shift) & 0x0f0f;
          rowWords[inRow] = low | (((tileWords[late] >> shift) & 0x0f0f) << 4);
        }
        early += (word & 1) === 0 ? 1 : 7;
      }
    }
  }
}
