import type { ScratchPlan } from "../arena.ts";
import { instantiateKernels } from "../kernels.ts";
import type { Kernels } from "../kernels.ts";
import { Barrier } from "../pipeline/barrier.ts";
import { Control } from "../pipeline/control.ts";
import type { PipelineOptions } from "../pipeline/options.ts";
import { LANE } from "../pipeline/statistics.ts";
import { sharedClock, Trace } from "../pipeline/trace.ts";
import type { Clock } from "../pipeline/trace.ts";

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
  readonly kernels: Kernels;
  /** Addresses that this lane has for itself. */
  readonly scratch: ScratchPlan;
  /** Its columns of the residual stream. */
  readonly columns: Share;
  /** Its numbers; see `LANE`. */
  readonly statistics: Float64Array;
  readonly clock: Clock;
  readonly trace?: Trace;
  readonly #barrier: Barrier;

  constructor(options: PipelineOptions, index: number) {
    const control = new Control(options.control);
    const { laneCount } = control.shape;
    this.index = index;
    this.options = options;
    this.control = control;
    this.kernels = instantiateKernels(options.kernels, options.arena);
    this.scratch = options.plan.lanes[index];
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

  /** Waits for all lanes; `what` names the place. */
  meet(what: string): void {
    if (this.control.shape.laneCount === 1) return;
    const began = this.clock();
    this.#barrier.meet(what);
    const ended = this.clock();
    this.statistics[LANE.waitLanesMs] += ended - began;
    this.trace?.span("wait: lanes", began, ended);
  }
}
