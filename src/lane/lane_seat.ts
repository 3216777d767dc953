import { EARLY_POSITIONS } from "../arena.ts";
import type { Quantization } from "../format/layout.ts";
import { applyNorm } from "../norm.ts";
import { Barrier } from "../pipeline/barrier.ts";
import { Control } from "../pipeline/control.ts";
import type { PipelineOptions, WeightPair } from "../pipeline/options.ts";
import { LANE } from "../pipeline/statistics.ts";
import { sharedClock, Trace } from "../pipeline/trace.ts";
import type { Clock } from "../pipeline/trace.ts";
import { LaneArena } from "./lane_arena.ts";

/** Part of a range that one lane computes. */
export interface Share {
  from: number;
  to: number;
}

/**
 * A lane's place in the pipeline: what its parts share, where it meets the other lanes, and which part of the work is
 * its own.
 */
export class LaneSeat {
  readonly index: number;
  readonly options: PipelineOptions;
  readonly control: Control;
  /** What it has in each arena. */
  readonly arenas: LaneArena[];
  /** Its columns of the residual stream. */
  readonly columns: Share;
  /** Its numbers; see `LANE`. */
  readonly statistics: Float64Array;
  readonly clock: Clock;
  readonly trace?: Trace;
  /** Whether attention and FFN have inputs of the same time. */
  readonly isParallel: boolean;
  readonly #barrier: Barrier;

  constructor(options: PipelineOptions, index: number) {
    const control = new Control(options.control);
    const { laneCount } = control.shape;
    this.index = index;
    this.options = options;
    this.control = control;
    this.arenas = options.arenas.map((arena, at) =>
      new LaneArena(arena, options.kernels, at, index)
    );
    this.isParallel = options.sizes.block.startsWith("parallel");
    this.columns = this.shareOf(options.sizes.hiddenSize, 32);
    this.statistics = control.statistics(index);
    this.clock = sharedClock(options.timeOrigin);
    if (options.trace) this.trace = new Trace(new Float64Array(options.trace));
    this.#barrier = new Barrier(control.words, control.layout.barrier, laneCount, control.style);
  }

  /** The part of `count` things, in whole units of `unit`, that falls to this lane. */
  shareOf(count: number, unit: number): Share {
    const { index } = this, { laneCount } = this.control.shape;
    const units = Math.ceil(count / unit);
    const from = Math.floor(units * index / laneCount) * unit;
    const to = Math.min(count, Math.floor(units * (index + 1) / laneCount) * unit);
    return { from: Math.min(from, count), to };
  }

  /**
   * Calls `use` with the positions of a step that this lane prepares. One position each lane prepares for itself, which is
   * cheaper than meeting; several are shared out.
   */
  eachPosition(positions: number, use: (position: number) => void): void {
    if (positions === 1) return use(0);
    const { from, to } = this.shareOf(positions, 1);
    for (let position = from; position < to; position++) use(position);
  }

  /**
   * Leaves rows of the residual stream in the arena's `inputs`: normed (`norm` null: as they are), and prepared for the weights that
   * come next. Rows are those from `first` on.
   *
   * @param target where the prepared rows go
   */
  prepareInputs(
    arena: LaneArena,
    norm: WeightPair | null,
    quantization: Quantization,
    { positions, first = 0, target = "prepared", what }: {
      positions: number;
      first?: number;
      target?: "prepared" | "attentionPrepared";
      what: string;
    },
  ): void {
    const { hiddenSize: d, norm: kind } = this.options.sizes;
    const { kernels, plan: { residual, strides } } = arena;
    const inputs = arena.inputs(positions), prepare = kernels.prepare[quantization];
    this.eachPosition(positions, (position) => {
      const source = residual + (first + position) * strides.hidden;
      const normed = inputs.normed + position * strides.hidden;
      if (norm) applyNorm(kernels, kind, source, norm, normed, d);
      else kernels.copy(normed, source, 4 * d);
      prepare(normed, inputs[target] + position * strides.prepared, d);
    });
    if (positions > 1) this.meet(what);
  }

  /**
   * Shows the residual stream to the early look at layer `layer`: this lane's columns, or, where that layer lies in another arena, all of
   * them by lane 0.
   */
  showInput({ index, buffer, kernels, plan }: LaneArena, layer: number, positions: number): void {
    if (!this.options.earlyLook || positions > EARLY_POSITIONS) return;
    const next = this.arenas[index + 1], { hidden } = plan.strides;
    if (layer < plan.range.to) {
      const { from, to } = this.columns, input = plan.layerInput[layer & 1];
      for (let position = 0; position < positions; position++) {
        const at = position * hidden + 4 * from;
        kernels.copy(input + at, plan.residual + at, 4 * (to - from));
      }
    } else if (next && this.index === 0) {
      const length = positions * hidden / 4, input = next.plan.layerInput[layer & 1];
      new Float32Array(next.buffer, input, length).set(
        new Float32Array(buffer, plan.residual, length),
      );
    }
  }

  /** Waits for all lanes; `what` names the place. */
  meet(what: string): void {
    if (this.control.shape.laneCount === 1) return;
    const began = this.clock();
    this.#barrier.meet(what);
    const ended = this.clock();
    this.statistics[LANE.waitLanesMs] += ended - began;
    this.trace?.span("wait: lanes", began, ended);
  }

  /** The same at the end of a step, whose time has been counted. */
  meetUncounted(what: string): void {
    if (this.control.shape.laneCount > 1) this.#barrier.meet(what);
  }
}
