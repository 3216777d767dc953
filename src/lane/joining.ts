import { applyNorm } from "../norm.ts";
import type { WeightPair } from "../pipeline/options.ts";
import type { LaneArena } from "./lane_arena.ts";
import type { LaneSeat } from "./lane_seat.ts";

/**
 * How a half of a layer, attention or FFN, comes to the residual stream x; see `BLOCKS` in models/config.ts. Each lane brings its
 * columns.
 */
export class Joining {
  /** Whether a half may be added to x as it is, wherever it comes from. */
  readonly isPlain: boolean;
  readonly #seat: LaneSeat;
  readonly #arena: LaneArena;

  constructor(seat: LaneSeat, arena: LaneArena) {
    const { block, scales } = seat.options.sizes;
    this.#seat = seat;
    this.#arena = arena;
    this.isPlain = block !== "after" && block !== "both" && scales.residual === 1;
  }

  /**
   * This lane's columns of `projected` are there, rows of a half's results: adds them to x.
   *
   * @param norm `after`: of x and the half together; `both`: of the half
   */
  join(norm: WeightPair | null, positions: number): void {
    const { block, scales } = this.#seat.options.sizes, { from, to } = this.#seat.columns;
    const { kernels, plan } = this.#arena, { hidden } = plan.strides;
    if (block === "after" || block === "both") return this.#joinNormed(norm!, positions);
    for (let row = 0; row < positions * hidden; row += hidden) {
      const x = plan.residual + row, half = plan.projected + row;
      if (scales.residual === 1) kernels.add(x, half, from, to);
      else kernels.addScaled(x, half, scales.residual, from, to);
    }
  }

  /** A norm needs all columns: lanes meet before it. */
  #joinNormed(norm: WeightPair, positions: number): void {
    const { sizes } = this.#seat.options, { from, to } = this.#seat.columns;
    const { kernels, plan } = this.#arena, { hidden } = plan.strides;
    const isAfter = sizes.block === "after", { normed } = this.#arena.inputs(positions);
    for (let row = 0; isAfter && row < positions * hidden; row += hidden) {
      kernels.add(plan.projected + row, plan.residual + row, from, to);
    }
    this.#seat.meet("what is normed");
    this.#seat.eachPosition(positions, (position) => {
      const row = position * hidden;
      applyNorm(kernels, sizes.norm, plan.projected + row, norm, normed + row, sizes.hiddenSize);
    });
    if (positions > 1) this.#seat.meet("what was normed");
    for (let row = 0; row < positions * hidden; row += hidden) {
      const x = plan.residual + row;
      if (isAfter) kernels.copy(x + 4 * from, normed + row + 4 * from, 4 * (to - from));
      else kernels.add(x, normed + row, from, to);
    }
  }
}
