import { FitMemory } from "../fit/fit_memory.ts";
import type { Block } from "../fit/fit_memory.ts";
import { Matmul } from "../fit/matmul.ts";
import { loadKernelModule } from "../kernels.ts";
import type { Blueprint } from "./blueprint.ts";
import { randomFor } from "./noise.ts";

/** Numbers made at a time. */
const CHUNK_NUMBERS = 1 << 20;

/** Rows of a matrix of so many columns that are made at a time: a multiple of 8. */
export function chunkRows(cols: number): number {
  return Math.max(8, Math.floor(CHUNK_NUMBERS / cols / 8) * 8);
}

/** Some rows of a matrix that are being made. */
export interface Chunk {
  readonly rowFrom: number;
  readonly rows: number;
  readonly cols: number;
}

/** Where rows of weights are made: a product's sides, and its result, to which noise is added. */
export class WeightDesk {
  readonly blueprint: Blueprint;
  /** f32[rows][depth], f32[depth][d] and f32[rows][d] */
  readonly left: Block;
  readonly right: Block;
  readonly values: Block;
  readonly #matmul: Matmul;
  #rightHolds = "";

  constructor(blueprint: Blueprint) {
    const { config: { hiddenSize: d }, layout } = blueprint;
    const depth = Math.max(layout.identityAt + layout.identitySize, layout.latentSize);
    const rows = chunkRows(d);
    const length = Matmul.length + rows * depth + depth * d + rows * d + 1024;
    // The plain build gives the same bits in any runtime.
    const memory = new FitMemory(loadKernelModule("plain"), 4 * length);
    this.blueprint = blueprint;
    this.#matmul = new Matmul(memory);
    this.left = memory.floats(rows * depth);
    this.right = memory.floats(depth * d);
    this.values = memory.floats(rows * d);
  }

  /** Fills `right`, unless it holds this already. */
  hold(what: string, fill: () => void): void {
    if (this.#rightHolds === what) return;
    this.#rightHolds = what;
    fill();
  }

  /** values = left x right. */
  multiply({ rows, cols, depth }: { rows: number; cols: number; depth: number }): void {
    this.#matmul.multiply({
      rows,
      cols,
      depth,
      left: { address: this.left.address, stride: depth },
      right: { address: this.right.address, stride: cols },
      target: { address: this.values.address, stride: cols },
    });
  }

  /** Adds noise to each row of `values`, drawn by the keys of the row. */
  addNoise(
    { rows, cols, deviation }: { rows: number; cols: number; deviation: number },
    keysOf: (row: number) => number[],
  ): void {
    const { noise, seed } = this.blueprint, values = this.values.values;
    for (let row = 0; row < rows; row++) {
      const random = randomFor(seed, ...keysOf(row));
      noise.add(values, { from: row * cols, length: cols, deviation }, random);
    }
  }
}
