/** The lower triangle L, f64[size][size], with L L^T = matrix; the matrix must be symmetric and positive definite. */
export function cholesky(matrix: Float64Array, size: number): Float64Array {
  const lower = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * size + j];
      for (let k = 0; k < j; k++) sum -= lower[i * size + k] * lower[j * size + k];
      if (i !== j) {
        lower[i * size + j] = sum / lower[j * size + j];
      } else if (sum > 0) {
        lower[i * size + i] = Math.sqrt(sum);
      } else {
        throw new RangeError(
          `Cannot factor a matrix that is not positive definite: pivot ${i} is ${sum}`,
        );
      }
    }
  }
  return lower;
}

/** Replaces `rows`, f64[size][width], by L^-1 rows (forward substitution, row by row). */
export function solveLowerRows(
  lower: Float64Array,
  rows: Float64Array,
  { size, width }: { size: number; width: number },
): void {
  for (let i = 0; i < size; i++) {
    const row = rows.subarray(i * width, (i + 1) * width);
    for (let k = 0; k < i; k++) subtract(row, rows, k * width, lower[i * size + k]);
    scale(row, 1 / lower[i * size + i]);
  }
}

/** Replaces each row v of `rows`, f64[count][size], by v L^-1: solves y L = v (back substitution). */
export function solveRowsLower(
  lower: Float64Array,
  rows: Float64Array,
  { count, size }: { count: number; size: number },
): void {
  for (let r = 0; r < count; r++) {
    const row = rows.subarray(r * size, (r + 1) * size);
    for (let k = size - 1; k >= 0; k--) {
      const y = row[k] / lower[k * size + k];
      row[k] = y;
      const from = k * size;
      for (let j = 0; j < k; j++) row[j] -= y * lower[from + j];
    }
  }
}

function subtract(row: Float64Array, rows: Float64Array, from: number, factor: number): void {
  for (let c = 0; c < row.length; c++) row[c] -= factor * rows[from + c];
}

function scale(row: Float64Array, factor: number): void {
  for (let c = 0; c < row.length; c++) row[c] *= factor;
}
