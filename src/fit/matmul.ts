import type { Block, FitKernels, FitMemory } from "./fit_memory.ts";

/** Blocks of a product whose packed panels stay in the second-level cache. */
const BLOCK_ROWS = 256;
const BLOCK_COLS = 512;
const BLOCK_DEPTH = 256;

/** A matrix in the kernels' memory: element (i, k) is at number `i * stride + k` from `address`. */
export interface Factor {
  address: number;
  stride: number;
  /** Whether rows and columns change places: element (i, k) is at `k * stride + i`. */
  transposed?: boolean;
}

export interface Product {
  rows: number;
  cols: number;
  depth: number;
  /** [rows][depth] */
  left: Factor;
  /** [depth][cols] */
  right: Factor;
  /** f32[rows][stride]; room for `rows` rounded up to 4, `stride` at least `cols` rounded up to 8. */
  target: { address: number; stride: number };
  /** Adds to the target instead of overwriting it. */
  accumulate?: boolean;
}

/**
 * Products of f32 matrices in WASM SIMD (kernels/fit/matmul.ts): 25 to 35 GFLOP/s on one core. The order of additions
 * follows from the shape alone.
 */
export class Matmul {
  readonly #kernels: FitKernels;
  readonly #left: Block;
  readonly #right: Block;

  /** Numbers of memory that it takes. */
  static readonly length: number = (BLOCK_ROWS + BLOCK_COLS) * BLOCK_DEPTH + 64;

  constructor(memory: FitMemory) {
    this.#kernels = memory.kernels;
    this.#left = memory.floats(BLOCK_ROWS * BLOCK_DEPTH);
    this.#right = memory.floats(BLOCK_COLS * BLOCK_DEPTH);
  }

  multiply({ rows, cols, depth, left, right, target, accumulate = false }: Product): void {
    const kernels = this.#kernels, a = this.#left.address, b = this.#right.address;
    for (let k = 0; k < depth; k += BLOCK_DEPTH) {
      const depthNow = Math.min(BLOCK_DEPTH, depth - k);
      for (let col = 0; col < cols; col += BLOCK_COLS) {
        const colsNow = Math.min(BLOCK_COLS, cols - col);
        this.#packRight(right, { k, col, depthNow, colsNow });
        for (let row = 0; row < rows; row += BLOCK_ROWS) {
          const rowsNow = Math.min(BLOCK_ROWS, rows - row);
          this.#packLeft(left, { k, row, depthNow, rowsNow });
          const c = target.address + 4 * (row * target.stride + col);
          const add = accumulate || k > 0 ? 1 : 0;
          kernels.multiplyPacked(a, b, c, rowsNow, colsNow, depthNow, target.stride, add);
        }
      }
    }
  }

  #packLeft(
    { address, stride, transposed }: Factor,
    { k, row, depthNow, rowsNow }: { k: number; row: number; depthNow: number; rowsNow: number },
  ): void {
    const { packRows, packColumns } = this.#kernels, panels = this.#left.address;
    if (transposed) {
      packColumns(address + 4 * (k * stride + row), stride, rowsNow, depthNow, 4, panels);
    } else packRows(address + 4 * (row * stride + k), stride, rowsNow, depthNow, 4, panels);
  }

  #packRight(
    { address, stride, transposed }: Factor,
    { k, col, depthNow, colsNow }: { k: number; col: number; depthNow: number; colsNow: number },
  ): void {
    const { packRows, packColumns } = this.#kernels, panels = this.#right.address;
    if (transposed) {
      packRows(address + 4 * (col * stride + k), stride, colsNow, depthNow, 8, panels);
    } else packColumns(address + 4 * (k * stride + col), stride, colsNow, depthNow, 8, panels);
  }
}
