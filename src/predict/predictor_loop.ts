import { EARLY_POSITIONS } from "../arena.ts";
import { PoolKeeper } from "../cache/pool_keeper.ts";
import { Auditor } from "../audit/auditor.ts";
import { LayerSlots } from "../cache/layer_slots.ts";
import type { PipelineOptions } from "../pipeline/options.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import { PREDICTOR } from "../pipeline/statistics.ts";
import { emptyStep, readStep } from "../pipeline/step.ts";
import { threadCpuMs } from "../runtime.ts";
import { DenseStream } from "./dense_stream.ts";
import { EarlyLook } from "./early_look.ts";
import { PassBuilder } from "./pass_builder.ts";
import { addBits } from "./mask.ts";
import { PromptStream } from "./prompt_stream.ts";
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
  /** What any position of a step names; in `dense`, all. */
  readonly #union: Uint32Array;
  readonly #promptStream?: PromptStream;
  readonly #pools?: PoolKeeper;
  readonly #step = emptyStep();

  constructor(options: PipelineOptions) {
    const seat = new PredictorSeat(options), { control, readPlan } = seat;
    const { flash, sizes, positionsMax } = options;
    this.#seat = seat;
    this.#layers = flash.layers.map((_, layer) =>
      new LayerSlots(control, options, readPlan, layer)
    );
    if (options.earlyLook) this.#earlyLook = new EarlyLook(seat);
    if (options.audit) this.#audit = new Auditor(seat, options.audit);
    this.#passBuilder = new PassBuilder(seat, this.#audit);
    this.#layerReady = control.sequence("layerReady");
    this.#maskReady = control.sequence("maskReady");
    this.#union = new Uint32Array(Math.ceil(sizes.intermediateSize / 32));
    if (options.isPoolShared) this.#pools = new PoolKeeper(seat, this.#layers);
    if (positionsMax > EARLY_POSITIONS && !flash.isResident && options.mode !== "dense") {
      this.#promptStream = new PromptStream(seat, this.#layers);
    }
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
    const { control, options: { mode, flash } } = this.#seat,
      { numLayers } = this.#seat.options.sizes;
    if (mode === "dense") {
      if (!flash.isResident) new DenseStream(this.#seat, this.#layers).run();
      this.#union.fill(0xffffffff);
    }
    // Layers are counted through all steps; positions too, as the cache's time.
    for (let layers = 0, position = 0;; layers = (layers + numLayers) | 0) {
      this.#layerReady.waitIdle((layers + 1) | 0);
      readStep(control, this.#step);
      const { positions } = this.#step;
      this.#pools?.makeRoom(this.#step.position + positions);
      if (positions > EARLY_POSITIONS && this.#promptStream) {
        this.#promptStream.run(position, positions);
      } else this.#serveStep(position, positions, layers);
      position = (position + positions) | 0;
    }
  }

  #serveStep(position: number, positions: number, layers: number): void {
    this.#audit?.beginStep(position);
    for (const slots of this.#layers) this.#serveLayer(position, positions, layers, slots);
    this.#audit?.endStep();
    if (!this.#seat.options.flash.isResident) this.#endStep(position);
  }

  /**
   * Hands the list of a layer over. While its reads are under way, the next layer is looked at early: with the stream as it was
   * before this layer's FFN, which changes it little, so that the disk does not rest until the next layer begins.
   */
  #serveLayer(step: number, positions: number, layers: number, slots: LayerSlots): void {
    const { options, clock, statistics, trace, readPlan } = this.#seat, { layer } = slots;
    const passBuilder = this.#passBuilder;
    // The count of layers is also the number of the layer's list.
    const count = (layers + layer + 1) | 0;
    if (layer === 0) this.#lookEarly(step, positions, slots);
    const waiting = clock();
    if (options.mode !== "dense") this.#await(this.#maskReady, count, layer);
    else this.#await(this.#layerReady, count, layer);
    if (positions === 1) this.#earlyLook?.judge();
    const late = clock(), idleMs = readPlan.settleMs + passBuilder.waitMs;
    const submittedMs = readPlan.submitMs;
    this.#audit?.sample(slots);
    const mask = this.#maskOf(slots, positions);
    const neuronsMax = positions === 1 ? options.passNeuronsMax : options.batchPassNeuronsMax;
    const neuronCount = passBuilder.publish(mask, slots, step, count, neuronsMax);
    // What the predictor reads by itself is not its own work.
    const done = clock() - (readPlan.settleMs + passBuilder.waitMs - idleMs);
    this.#audit?.read();
    const lateMs = done - late, submitMs = readPlan.submitMs - submittedMs;
    statistics[PREDICTOR.lateMs] += lateMs;
    statistics[PREDICTOR.manageMs] += lateMs - submitMs;
    trace?.span("wait: lanes' scores", waiting, late, layer);
    trace?.span("plan late reads", late, done, neuronCount);
    if (layer + 1 < this.#layers.length) this.#lookEarly(step, positions, this.#layers[layer + 1]);
    else readPlan.settle();
  }

  #lookEarly(step: number, positions: number, slots: LayerSlots): void {
    if (!this.#earlyLook || positions > EARLY_POSITIONS || slots.isResident) return;
    const { clock, statistics, trace, readPlan } = this.#seat, earlyLook = this.#earlyLook;
    const began = clock(), elsewhereMs = earlyLook.lookMs + readPlan.submitMs;
    earlyLook.look(step, slots, positions);
    const ended = clock(), earlyMs = ended - began;
    statistics[PREDICTOR.earlyMs] += earlyMs;
    statistics[PREDICTOR.manageMs] += earlyMs -
      (earlyLook.lookMs + readPlan.submitMs - elsewhereMs);
    trace?.span("early look", began, ended, slots.layer);
  }

  /** Waits for lanes; reads go on meanwhile. */
  #await(sequence: Sequence, count: number, layer: number): void {
    while (!sequence.hasReached(count)) {
      if (this.#seat.readPlan.pump()) continue;
      sequence.waitFor(count, `the lanes at layer ${layer}`);
    }
  }

  /** The neurons that any position of the step names in a layer. */
  #maskOf({ arena }: LayerSlots, positions: number): Uint32Array {
    if (this.#seat.options.mode === "dense") return this.#union;
    const masks = this.#seat.lateMasks[arena];
    if (positions === 1) return masks[0];
    const union = this.#union;
    union.set(masks[0]);
    for (let position = 1; position < positions; position++) addBits(union, masks[position]);
    return union;
  }

  /** The token is over: neurons that left the window free their slots. */
  #endStep(step: number): void {
    const { passes, statistics, clock, readPlan, options: { policy } } = this.#seat;
    // A window of no step empties all slots now, those that lanes are about to finish, too.
    if (policy.window === 0) passes.awaitDone((passes.number - 1) | 0);
    const began = clock(), { done } = passes;
    for (const { cache, isResident } of this.#layers) if (!isResident) cache.endStep(step, done);
    statistics[PREDICTOR.manageMs] += clock() - began;
    statistics[PREDICTOR.lookMs] = this.#earlyLook?.lookMs ?? 0;
    statistics[PREDICTOR.submitMs] = readPlan.submitMs;
    statistics[PREDICTOR.cpuMs] = threadCpuMs();
  }
}
