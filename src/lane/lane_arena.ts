import type { ArenaPlan, InputsPlan, ScratchPlan } from "../arena.ts";
import type { Quantization } from "../format/layout.ts";
import { instantiateKernels } from "../kernels.ts";
import type { KernelModule, Kernels } from "../kernels.ts";
import type { ArenaShare } from "../pipeline/options.ts";

/** Rows to multiply: prepared vectors, `stride` bytes from one to the next. */
export interface Rows {
  address: number;
  stride: number;
}

/** What a lane has in one arena: kernels over its memory, and places of its own. */
export class LaneArena {
  readonly index: number;
  readonly buffer: ArrayBufferLike;
  readonly kernels: Kernels;
  readonly plan: ArenaPlan;
  readonly scratch: ScratchPlan;
  /** u32[batchPassNeuronsMax]: entries of a pass that a position computes. */
  readonly picked: number;
  /** Scratch for products of several positions. */
  readonly #products: number;

  constructor({ memory, plan }: ArenaShare, module: KernelModule, index: number, lane: number) {
    this.index = index;
    this.buffer = memory.buffer;
    this.kernels = instantiateKernels(module, memory);
    this.plan = plan;
    this.scratch = plan.lanes[lane];
    this.picked = plan.batch.picked[lane];
    this.#products = plan.batch.products[lane];
  }

  /**
   * Where the rows of a step's inputs lie: a lane's own for one position, as all lanes compute it; shared for several, as each
   * computes some.
   */
  inputs(positions: number): InputsPlan {
    return positions === 1 ? this.scratch : this.plan.batch;
  }

  /** `y[row] = dot(w[row], x) + bias[row]` for rows [from, to) and each of `positions` vectors; see `Kernels.matvec`. */
  multiply(
    quantization: Quantization,
    matrix: { weight: number; bias: number },
    x: Rows,
    y: Rows,
    { positions, from, to, cols }: { positions: number; from: number; to: number; cols: number },
  ): void {
    const { weight, bias } = matrix, { kernels } = this;
    if (positions === 1) {
      kernels.matvec[quantization](weight, x.address, bias, y.address, from, to, cols);
      return;
    }
    kernels.matmat[quantization](
      weight,
      x.address,
      x.stride,
      positions,
      bias,
      y.address,
      y.stride,
      from,
      to,
      cols,
      this.#products,
    );
  }
}
