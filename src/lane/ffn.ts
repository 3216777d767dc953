import { PassReader } from "../pipeline/pass_ring.ts";
import { LANE } from "../pipeline/statistics.ts";
import { LateLook } from "./late_look.ts";
import type { LaneSeat } from "./lane_seat.ts";

/**
 * residual += down(ReLU(up(norm(residual)))) of the neurons that the late look names, which the predictor hands over in
 * passes. Lanes split up dots by neuron and down sums by column.
 */
export class Ffn {
  readonly #seat: LaneSeat;
  readonly #lateLook: LateLook;
  readonly #pass: PassReader;

  constructor(seat: LaneSeat) {
    this.#seat = seat;
    this.#lateLook = new LateLook(seat);
    this.#pass = new PassReader(seat.control, seat.options, seat.index);
  }

  /** @param observation where lane 0 writes down what the layer saw, if it is wanted; else 0 */
  compute(layer: number, observation: number): void {
    this.#norm(layer, observation);
    this.#lateLook.look(layer);
    do {
      this.#takePass(layer);
      this.#computePass(layer);
    } while (!this.#pass.isLast);
    this.#addSum(layer);
  }

  /** Each lane norms for itself: cheaper than meeting. Leaves the FFN's input in `normed` and `prepared`. */
  #norm(layer: number, observation: number): void {
    const { kernels, scratch, options } = this.#seat;
    const { sizes, weights, plan, ffnQuantization } = options;
    const { hiddenSize: d, layerNormEpsilon } = sizes;
    const { weight, bias } = weights.layers[layer].ffnNorm;
    kernels.layerNorm(plan.residual, weight, bias, scratch.normed, d, layerNormEpsilon);
    if (observation !== 0) {
      const at = observation + layer * 8 * d;
      kernels.copy(at, plan.layerInput[layer & 1], 4 * d);
      kernels.copy(at + 4 * d, scratch.normed, 4 * d);
    }
    kernels.prepare[ffnQuantization](scratch.normed, scratch.prepared, d);
  }

  #takePass(layer: number): void {
    const { clock, statistics, trace } = this.#seat;
    const began = clock();
    this.#pass.take(layer);
    const ended = clock();
    statistics[LANE.waitPredictorMs] += ended - began;
    trace?.span("wait: predictor", began, ended, layer);
  }

  #computePass(layer: number): void {
    const { options } = this.#seat;
    if (this.#pass.count > 0) {
      if (options.mode === "exact") this.#takeActivations();
      else this.#computeUp(layer);
      this.#seat.meet("the activations of a pass");
      this.#computeDown();
    }
    this.#pass.finish();
  }

  /** Dots of the up rows: this lane's hits, then this lane's groups of misses as they land. */
  #computeUp(layer: number): void {
    const { clock, trace, kernels, scratch, statistics, options } = this.#seat;
    const { sizes, weights, ffnQuantization } = options;
    const { count, hitCount } = this.#pass;
    const { addresses, neurons, order, activations } = this.#pass.plan;
    const up = kernels.up[ffnQuantization], { prepared } = scratch;
    const bias = weights.layers[layer].upBias, d = sizes.hiddenSize;
    const compute = (from: number, to: number): number =>
      from < to ? up(addresses, neurons, order, from, to, 0, prepared, bias, activations, d) : 0;
    const began = clock();
    const hits = this.#seat.shareOf(hitCount, 4);
    const activeHits = compute(hits.from, hits.to);
    trace?.span("up hits", began, clock(), hits.to - hits.from);
    const misses = this.#seat.shareOf(count - hitCount, 4);
    let active = activeHits;
    for (let from = hitCount + misses.from; from < hitCount + misses.to; from += 4) {
      const to = Math.min(from + 4, hitCount + misses.to);
      this.#awaitLanded(from, to);
      active += compute(from, to);
    }
    statistics[LANE.activeHits] += activeHits;
    statistics[LANE.active] += active;
  }

  /** `exact` knows the activations already; the down columns must be there. */
  #takeActivations(): void {
    const { index, kernels, statistics, options } = this.#seat;
    const { count, hitCount } = this.#pass;
    const { neurons, activations } = this.#pass.plan;
    const { from, to } = this.#seat.shareOf(count, 4);
    kernels.gather(options.plan.scores, neurons, activations, from, to);
    if (index === 0) {
      statistics[LANE.activeHits] += hitCount;
      statistics[LANE.active] += count;
    }
    this.#awaitLanded(hitCount, count);
  }

  /** Waits until the misses `from` to `to` of the pass's order have landed. */
  #awaitLanded(from: number, to: number): void {
    if (this.#pass.haveLanded(from, to)) return;
    const { clock, statistics, trace } = this.#seat;
    const began = clock();
    this.#pass.awaitLanded(from, to);
    const ended = clock();
    statistics[LANE.waitFlashMs] += ended - began;
    trace?.span("wait: flash", began, ended, to - from);
  }

  /** Adds the down columns of active neurons, in neuron order, to this lane's part of the sum. */
  #computeDown(): void {
    const { clock, trace, kernels, columns, options } = this.#seat;
    const { sizes, plan, ffnQuantization, mode, flash } = options;
    const { addresses, activations } = this.#pass.plan, { count } = this.#pass;
    const downOffset = mode === "exact" ? 0 : flash.record.byteLength / 2;
    const began = clock();
    kernels.down[ffnQuantization](
      addresses,
      downOffset,
      activations,
      count,
      plan.accumulator,
      columns.from,
      columns.to,
      sizes.hiddenSize,
    );
    trace?.span("down", began, clock(), count);
  }

  /** residual += sum of the columns + bias; it is the next layer's input, and the early look's. */
  #addSum(layer: number): void {
    const { kernels, columns, options } = this.#seat;
    const { sizes, weights, plan, ffnQuantization } = options;
    const { from, to } = columns, { downBias } = weights.layers[layer];
    const { accumulator, residual } = plan;
    kernels.finishDown[ffnQuantization](
      accumulator,
      downBias,
      residual,
      from,
      to,
      sizes.hiddenSize,
    );
    const input = plan.layerInput[(layer + 1) & 1];
    kernels.copy(input + 4 * from, plan.residual + 4 * from, 4 * (to - from));
    this.#seat.meet("the end of a layer");
  }
}
