/**
 * C = A B^T for matrices that lie in memory as rows or as columns: the one hot loop of calibration.
 *
 * Operands are copied block by block into small f64 panels, four rows side by side, so that the inner loop reads two
 * streams and keeps 16 sums in registers (about 5 GFLOP/s on one core; plain loops over f32 arrays reach 1 to 2).
 *
 *   panel of A: | a0[0] a1[0] a2[0] a3[0] | a0[1] a1[1] ... |     4 rows x depth
 */

const ROWS = 4;
const BLOCK_ROWS = 256;
const BLOCK_DEPTH = 256;

/** Numbers that a product reads: element (row, k) is at `values[offset + row * rowStride + k * depthStride]`. */
export interface Operand {
  values: Float32Array | Float64Array;
  rows: number;
  offset?: number;
  rowStride: number;
  depthStride: number;
}

export interface ProductOptions {
  /** Length of the dot products. */
  depth: number;
  /** Distance between rows of the target; `b.rows` unless told. */
  targetStride?: number;
  /** Adds to the target instead of overwriting it. */
  accumulate?: boolean;
  /** Computes only what lies on or above the diagonal, a little more than half of a symmetric product. */
  upperOnly?: boolean;
}

/** A view of a row-major matrix [rows][depth] as an operand. */
export function rowsOf(
  values: Float32Array | Float64Array,
  rows: number,
  depth: number,
  offset = 0,
): Operand {
  return { values, rows, offset, rowStride: depth, depthStride: 1 };
}

/** A view of the transpose of a row-major matrix [depth][rows]: its columns are the operand's rows. */
export function columnsOf(values: Float32Array | Float64Array, rows: number): Operand {
  return { values, rows, rowStride: 1, depthStride: rows };
}

/** Writes A B^T, [a.rows][b.rows], to `target`. Sums of up to 256 products are f64. */
export function multiplyTransposed(
  a: Operand,
  b: Operand,
  target: Float32Array | Float64Array,
  options: ProductOptions,
): void {
  const { depth, targetStride = b.rows, accumulate = false, upperOnly = false } = options;
  const panelA = new Float64Array(ROWS * BLOCK_DEPTH);
  const panelB = new Float64Array(BLOCK_ROWS * BLOCK_DEPTH);
  const sums = new Float64Array(ROWS * ROWS);
  for (let j0 = 0; j0 < b.rows; j0 += BLOCK_ROWS) {
    const blockRows = Math.min(BLOCK_ROWS, b.rows - j0);
    for (let k0 = 0; k0 < depth; k0 += BLOCK_DEPTH) {
      const blockDepth = Math.min(BLOCK_DEPTH, depth - k0);
      for (let j = 0; j < blockRows; j += ROWS) {
        pack(b, j0 + j, k0, blockDepth, panelB, j * blockDepth);
      }
      const add = accumulate || k0 > 0;
      const iEnd = upperOnly ? Math.min(a.rows, j0 + blockRows) : a.rows;
      for (let i = 0; i < iEnd; i += ROWS) {
        pack(a, i, k0, blockDepth, panelA, 0);
        const jStart = upperOnly ? Math.max(0, (i - j0) & -ROWS) : 0;
        for (let j = jStart; j < blockRows; j += ROWS) {
          tile(panelA, panelB, j * blockDepth, blockDepth, sums);
          store(sums, target, targetStride, add, i, j0 + j, a.rows, b.rows);
        }
      }
    }
  }
}

/** Copies four rows of an operand into a panel; rows beyond the end become zeros. */
function pack(
  operand: Operand,
  row: number,
  k0: number,
  depth: number,
  panel: Float64Array,
  panelOffset: number,
): void {
  const { values, rowStride, depthStride, offset = 0 } = operand;
  for (let r = 0; r < ROWS; r++) {
    const present = row + r < operand.rows;
    let from = offset + (row + r) * rowStride + k0 * depthStride;
    for (let k = 0; k < depth; k++, from += depthStride) {
      panel[panelOffset + k * ROWS + r] = present ? values[from] : 0;
    }
  }
}

/** The 16 dot products of four packed rows with four others. */
function tile(
  a: Float64Array,
  b: Float64Array,
  bOffset: number,
  depth: number,
  sums: Float64Array,
): void {
  let c00 = 0, c01 = 0, c02 = 0, c03 = 0;
  let c10 = 0, c11 = 0, c12 = 0, c13 = 0;
  let c20 = 0, c21 = 0, c22 = 0, c23 = 0;
  let c30 = 0, c31 = 0, c32 = 0, c33 = 0;
  const end = depth * ROWS;
  for (let p = 0, q = bOffset; p < end; p += ROWS, q += ROWS) {
    const b0 = b[q], b1 = b[q + 1], b2 = b[q + 2], b3 = b[q + 3];
    let x = a[p];
    c00 += x * b0, c01 += x * b1, c02 += x * b2, c03 += x * b3;
    x = a[p + 1];
    c10 += x * b0, c11 += x * b1, c12 += x * b2, c13 += x * b3;
    x = a[p + 2];
    c20 += x * b0, c21 += x * b1, c22 += x * b2, c23 += x * b3;
    x = a[p + 3];
    c30 += x * b0, c31 += x * b1, c32 += x * b2, c33 += x * b3;
  }
  sums[0] = c00, sums[1] = c01, sums[2] = c02, sums[3] = c03;
  sums[4] = c10, sums[5] = c11, sums[6] = c12, sums[7] = c13;
  sums[8] = c20, sums[9] = c21, sums[10] = c22, sums[11] = c23;
  sums[12] = c30, sums[13] = c31, sums[14] = c32, sums[15] = c33;
}

function store(
  sums: Float64Array,
  target: Float32Array | Float64Array,
  stride: number,
  add: boolean,
  row: number,
  col: number,
  rows: number,
  cols: number,
): void {
  const rowCount = Math.min(ROWS, rows - row), colCount = Math.min(ROWS, cols - col);
  for (let r = 0; r < rowCount; r++) {
    let to = (row + r) * stride + col;
    for (let c = 0; c < colCount; c++, to++) {
      target[to] = add ? target[to] + sums[r * ROWS + c] : sums[r * ROWS + c];
    }
  }
}
