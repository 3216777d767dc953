import { EigenvalueDecomposition, Matrix } from "ml-matrix";
import { seededRandom } from "../random.ts";
import { cholesky, solveLowerRows } from "./cholesky.ts";
import { columnsOf, multiplyTransposed, rowsOf } from "./matrix_product.ts";

/** Up to this size all eigenvectors are computed at once (0.05 s at 256); beyond it only those wanted, by iteration. */
const DIRECT_SIZE_MAX = 512;
const EXTRA_VECTORS = 16;
const ITERATIONS = 8;

/**
 * The eigenvectors of the `count` largest eigenvalues of a symmetric matrix f64[size][size] without large negative
 * eigenvalues, as rows f64[count][size], largest eigenvalue first.
 *
 * Beyond 512 columns: randomized subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4), which finds the
 * leading space well and its last few vectors roughly, as is enough for a low-rank predictor.
 */
export function topEigenvectors(
  matrix: Float64Array,
  { size, count }: { size: number; count: number },
): Float64Array {
  if (!(count >= 1 && count <= size)) {
    throw new RangeError(`Cannot find ${count} eigenvectors of a matrix of ${size} columns`);
  }
  const blockCount = count + EXTRA_VECTORS;
  if (size <= DIRECT_SIZE_MAX || blockCount >= size) return direct(matrix, size, count);

  const random = seededRandom(1);
  let block = new Float64Array(blockCount * size).map(() => random() - 0.5);
  let image = new Float64Array(blockCount * size);
  for (let iteration = 0; iteration < ITERATIONS; iteration++) {
    multiplyTransposed(rowsOf(block, blockCount, size), rowsOf(matrix, size, size), image, {
      depth: size,
    });
    orthonormalizeRows(image, blockCount, size);
    [block, image] = [image, block];
  }
  multiplyTransposed(rowsOf(block, blockCount, size), rowsOf(matrix, size, size), image, {
    depth: size,
  });
  const small = new Float64Array(blockCount * blockCount);
  multiplyTransposed(rowsOf(image, blockCount, size), rowsOf(block, blockCount, size), small, {
    depth: size,
  });
  const mix = direct(small, blockCount, count);
  const vectors = new Float64Array(count * size);
  multiplyTransposed(rowsOf(mix, count, blockCount), columnsOf(block, size), vectors, {
    depth: blockCount,
  });
  return vectors;
}

/** All eigenvectors by tridiagonal reduction and QL, of which the last (largest) are kept. */
function direct(matrix: Float64Array, size: number, count: number): Float64Array {
  const { eigenvectorMatrix } = new EigenvalueDecomposition(
    Matrix.from1DArray(size, size, matrix),
    { assumeSymmetric: true },
  );
  const vectors = new Float64Array(count * size);
  for (let v = 0; v < count; v++) {
    for (let k = 0; k < size; k++) {
      vectors[v * size + k] = eigenvectorMatrix.get(k, size - 1 - v);
    }
  }
  return vectors;
}

/** Rows become orthonormal: with Y Y^T = L L^T, they are the rows of L^-1 Y. */
function orthonormalizeRows(rows: Float64Array, count: number, size: number): void {
  // Twice, since one pass loses half of the digits where rows are nearly parallel.
  for (let pass = 0; pass < 2; pass++) {
    const gram = new Float64Array(count * count);
    multiplyTransposed(rowsOf(rows, count, size), rowsOf(rows, count, size), gram, { depth: size });
    let trace = 0;
    for (let i = 0; i < count; i++) trace += gram[i * count + i];
    for (let i = 0; i < count; i++) gram[i * count + i] += 1e-14 * trace;
    solveLowerRows(cholesky(gram, count), rows, { size: count, width: size });
  }
}
