import type { KernelModule } from "../kernels.ts";
import { FitMemory } from "./fit_memory.ts";
import type { Block } from "./fit_memory.ts";
import { BLOCK_POSITIONS } from "./judge.ts";
import type { Scorer } from "./judge.ts";
import { Matmul } from "./matmul.ts";

/** A low-rank predictor without thresholds; A and B are exactly what q8 stores. */
export interface LowRankStart {
  rank: number;
  /** f32[rank][d] */
  a: Float32Array;
  /** f32[n][rank] */
  b: Float32Array;
  /** f32[n] each */
  offset: Float32Array;
  earlyOffset: Float32Array;
}

/** Scores B (A x) of many positions, in f32. */
export class LowRankScorer implements Scorer {
  readonly offset: Float32Array;
  readonly earlyOffset: Float32Array;
  readonly #sizes: { d: number; n: number; rank: number };
  readonly #matmul: Matmul;
  readonly #inputs: Block;
  readonly #hidden: Block;
  readonly #scores: Block;
  readonly #a: Block;
  readonly #b: Block;

  constructor(kernels: KernelModule, { rank, a, b, offset, earlyOffset }: LowRankStart) {
    const d = a.length / rank, n = offset.length;
    const memory = new FitMemory(kernels, LowRankScorer.byteLength({ d, n, rank }));
    this.offset = offset;
    this.earlyOffset = earlyOffset;
    this.#sizes = { d, n, rank };
    this.#matmul = new Matmul(memory);
    this.#inputs = memory.floats(BLOCK_POSITIONS * d);
    this.#hidden = memory.floats(BLOCK_POSITIONS * rank);
    this.#scores = memory.floats(BLOCK_POSITIONS * n);
    this.#a = memory.floats(rank * d);
    this.#b = memory.floats(n * rank);
    this.#a.values.set(a);
    this.#b.values.set(b);
  }

  static byteLength({ d, n, rank }: { d: number; n: number; rank: number }): number {
    const numbers = BLOCK_POSITIONS * (d + rank + n) + rank * (d + n) + Matmul.length;
    return 4 * numbers + 4096;
  }

  scores(inputs: Float32Array, rows: number): Float32Array {
    const { d, n, rank } = this.#sizes;
    this.#inputs.values.set(inputs);
    this.#matmul.multiply({
      rows,
      cols: rank,
      depth: d,
      left: { address: this.#inputs.address, stride: d },
      right: { address: this.#a.address, stride: d, transposed: true },
      target: { address: this.#hidden.address, stride: rank },
    });
    this.#matmul.multiply({
      rows,
      cols: n,
      depth: rank,
      left: { address: this.#hidden.address, stride: rank },
      right: { address: this.#b.address, stride: rank, transposed: true },
      target: { address: this.#scores.address, stride: n },
    });
    return this.#scores.values;
  }
}
