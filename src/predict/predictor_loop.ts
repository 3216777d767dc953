import { Auditor } from "../audit/auditor.ts";
import { LayerSlots } from "../cache/layer_slots.ts";
import type { PipelineOptions } from "../pipeline/options.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import { PREDICTOR } from "../pipeline/statistics.ts";
import { DenseStream } from "./dense_stream.ts";
import { EarlyLook } from "./early_look.ts";
import { PassBuilder } from "./pass_builder.ts";
import { PredictorSeat } from "./predictor_seat.ts";

/**
 * The predictor worker's loop. For each layer of each token: an early look, which only starts reads; then, when the
 * lanes have the late look's mask, the list of what is computed: slots of hits, tickets for misses. It owns the neuron
 * cache and the read plan; nobody else writes them.
 */
export class PredictorLoop {
  readonly #seat: PredictorSeat;
  readonly #layers: LayerSlots[];
  readonly #earlyLook?: EarlyLook;
  readonly #audit?: Auditor;
  readonly #passBuilder: PassBuilder;
  readonly #layerReady: Sequence;
  readonly #maskReady: Sequence;
  /** u32[intermediateSize / 32]: the late look's answer, written by the lanes. */
  readonly #lateMask: Uint32Array;

  constructor(options: PipelineOptions) {
    const seat = new PredictorSeat(options), { control, readPlan } = seat;
    const { flash, arena, plan, sizes } = options;
    this.#seat = seat;
    this.#layers = flash.layers.map((_, layer) =>
      new LayerSlots(control, options, readPlan, layer)
    );
    if (options.earlyLook) this.#earlyLook = new EarlyLook(seat);
    if (options.audit) this.#audit = new Auditor(seat, options.audit);
    this.#passBuilder = new PassBuilder(seat, this.#audit);
    this.#layerReady = control.sequence("layerReady");
    this.#maskReady = control.sequence("maskReady");
    const maskWords = Math.ceil(sizes.intermediateSize / 32);
    this.#lateMask = new Uint32Array(arena.buffer, plan.mask, maskWords);
  }

  /** Runs until the pipeline stops (`PipelineStoppedError`). */
  run(): void {
    try {
      this.#serve();
    } finally {
      this.#seat.reader?.close();
    }
  }

  #serve(): never {
    const { mode, flash } = this.#seat.options;
    if (mode === "dense") {
      if (!flash.isResident) new DenseStream(this.#seat).run();
      this.#lateMask.fill(0xffffffff);
    }
    for (let step = 0;; step = (step + 1) | 0) {
      this.#audit?.beginStep(step);
      for (const slots of this.#layers) this.#serveLayer(step, slots);
      this.#audit?.endStep();
      if (!flash.isResident) this.#endStep(step);
    }
  }

  #serveLayer(step: number, slots: LayerSlots): void {
    const { options, clock, statistics, trace } = this.#seat, { layer } = slots;
    // Layers are counted through all steps; the count is also the number of the layer's list.
    const count = (Math.imul(step, this.#layers.length) + layer + 1) | 0;
    const began = clock();
    if (layer === 0) this.#layerReady.waitIdle(count);
    else this.#layerReady.waitFor(count, `the input of layer ${layer}`);
    const early = clock();
    this.#audit?.complete();
    this.#earlyLook?.look(step, slots);
    const waiting = clock();
    if (options.mode !== "dense") this.#maskReady.waitFor(count, `the late look at layer ${layer}`);
    const late = clock();
    this.#audit?.sample(slots);
    const neuronCount = this.#passBuilder.publish(this.#lateMask, slots, step, count);
    // What the predictor reads by itself is not its own work.
    const done = clock() - this.#passBuilder.readMs;
    this.#audit?.read();
    statistics[PREDICTOR.earlyMs] += waiting - early;
    statistics[PREDICTOR.lateMs] += done - late;
    if (!trace) return;
    if (layer !== 0) trace.span("wait: lanes' layer", began, early, layer);
    trace.span("early look", early, waiting, layer);
    trace.span("wait: lanes' scores", waiting, late, layer);
    trace.span("plan late reads", late, done, neuronCount);
  }

  /** The token is over: neurons that left the window free their slots. */
  #endStep(step: number): void {
    const { done } = this.#seat.passes;
    for (const { cache } of this.#layers) cache.endStep(step, done);
  }
}
