import { PLANE_ROWS } from "./layout.ts";

/**
 * Rearranges levels into bit planes (layout `planes` of docs/model_format.md): a level is the sum over planes j of
 * 2^j * (bit ? 1 : -1), so it is odd and at most 2^bits - 1 in magnitude.
 *
 * @param levels i8[rows][cols]; rows a multiple of 16, cols of 8
 * @returns u8[rows / 16][bits][cols / 8][16]: bit c of byte r is column 8 * group + c of row r
 */
export function storePlanes(
  levels: Int8Array,
  { rows, cols, bits }: { rows: number; cols: number; bits: number },
): Uint8Array {
  const planes = new Uint8Array(rows * bits * cols / 8);
  const planeBytes = PLANE_ROWS * cols / 8, most = 2 ** bits - 1;
  for (let row = 0; row < rows; row++) {
    const line = row % PLANE_ROWS;
    const at = (row - line) / PLANE_ROWS * bits * planeBytes + line;
    for (let col = 0; col < cols; col++) {
      const number = (levels[row * cols + col] + most) >> 1;
      for (let plane = 0; plane < bits; plane++) {
        const byte = at + plane * planeBytes + PLANE_ROWS * (col >> 3);
        planes[byte] |= ((number >> plane) & 1) << (col & 7);
      }
    }
  }
  return planes;
}
