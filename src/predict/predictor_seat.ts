import { ReadPlan } from "../cache/read_plan.ts";
import { UringReader } from "../flash/uring_reader.ts";
import { Control } from "../pipeline/control.ts";
import type { PipelineOptions } from "../pipeline/options.ts";
import { PassWriter } from "../pipeline/pass_ring.ts";
import { sharedClock, Trace } from "../pipeline/trace.ts";
import type { Clock } from "../pipeline/trace.ts";

/** The predictor's place in the pipeline: what its parts share. */
export class PredictorSeat {
  readonly options: PipelineOptions;
  readonly control: Control;
  /** The only reader, if it is not a worker of its own. */
  readonly reader?: UringReader;
  readonly readPlan: ReadPlan;
  readonly passes: PassWriter;
  /** Its numbers; see `PREDICTOR`. */
  readonly statistics: Float64Array;
  readonly clock: Clock;
  readonly trace?: Trace;
  /** Of each arena and position: u32[intermediateSize / 32], the late look's answer, written by the lanes. */
  readonly lateMasks: Uint32Array[][];

  constructor(options: PipelineOptions) {
    const control = new Control(options.control);
    this.options = options;
    this.control = control;
    if (options.inlineReader) this.reader = new UringReader(options.inlineReader);
    this.clock = sharedClock(options.timeOrigin);
    this.readPlan = new ReadPlan(control, options.flash.readPlan, this.reader, this.clock);
    this.passes = new PassWriter(control, options);
    this.statistics = control.statistics(control.shape.laneCount);
    if (options.trace) this.trace = new Trace(new Float64Array(options.trace));
    const { arenas, sizes, positionsMax } = options;
    const maskWords = Math.ceil(sizes.intermediateSize / 32);
    this.lateMasks = arenas.map(({ memory: { buffer }, plan: { mask, strides } }) =>
      Array.from(
        { length: positionsMax },
        (_, position) => new Uint32Array(buffer, mask + position * strides.mask, maskWords),
      )
    );
  }
}
