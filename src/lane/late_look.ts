import type { BitPlanes } from "../predict/bit_planes_look.ts";
import type { LowRank } from "../predict/low_rank_look.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import type { LaneSeat, Share } from "./lane_seat.ts";

/**
 * Decides which neurons are computed, from the FFN's input; the lanes share its rows. The last lane to finish hands the
 * mask to the predictor. In `dense` nothing is to be decided.
 */
export class LateLook {
  readonly #seat: LaneSeat;
  readonly #neurons: Share;
  readonly #maskReady: Sequence;

  constructor(seat: LaneSeat) {
    this.#seat = seat;
    this.#neurons = seat.shareOf(seat.options.sizes.intermediateSize, 32);
    this.#maskReady = seat.control.sequence("maskReady");
  }

  /** The FFN's input is in the scratch's `normed` and `prepared`. */
  look(layer: number): void {
    const { clock, trace, options } = this.#seat;
    if (options.mode === "dense") return;
    const began = clock();
    if (options.mode === "exact") this.#lookExactly(layer);
    else this.#predict(layer);
    this.#handIn();
    trace?.span("late look", began, clock(), layer);
  }

  /** mask = scores + bias > 0. */
  #predict(layer: number): void {
    const { kernels, options } = this.#seat, { plan } = options;
    const predictor = options.weights.layers[layer].predictor!;
    if (predictor.kind === "low-rank") this.#scoreLowRank(predictor);
    else this.#scoreBitPlanes(predictor);
    const { from, to } = this.#neurons;
    kernels.thresholdMask(plan.scores, predictor.bias, plan.mask, from, to);
  }

  /** scores = B (A x), in q8. */
  #scoreLowRank({ rank, a, b }: LowRank): void {
    const { kernels, scratch, options } = this.#seat, { sizes, plan, ffnQuantization } = options;
    const matvec = kernels.matvec.q8, prepare = kernels.prepare.q8;
    // The FFN input in q8's preparation goes where only the low-rank product needs it.
    const prepared = ffnQuantization === "q8" ? scratch.prepared : scratch.lookPrepared;
    if (ffnQuantization !== "q8") prepare(scratch.normed, prepared, sizes.hiddenSize);
    const ranks = this.#seat.shareOf(rank, 8);
    matvec(a, prepared, 0, plan.lowRank, ranks.from, ranks.to, sizes.hiddenSize);
    this.#seat.meet("the predictor's first product");
    prepare(plan.lowRank, scratch.lowRankPrepared, rank);
    const { from, to } = this.#neurons;
    matvec(b, scratch.lowRankPrepared, 0, plan.scores, from, to, rank);
  }

  /** scores = rowScale * (planes (x - mean)), in integers. Each lane prepares x for itself: cheaper than meeting. */
  #scoreBitPlanes({ bits, planes, rowScales, mean }: BitPlanes): void {
    const { kernels, scratch, options } = this.#seat, { sizes, plan } = options;
    const { normed, lookPrepared } = scratch, { from, to } = this.#neurons, d = sizes.hiddenSize;
    kernels.preparePlanes(normed, mean, lookPrepared, d);
    kernels.planeScores(planes, lookPrepared, rowScales, plan.scores, from, to, bits, d);
  }

  /** activations = ReLU(up x + bias) of all neurons, from the resident up projection; mask = those above 0. */
  #lookExactly(layer: number): void {
    const { kernels, scratch, options } = this.#seat;
    const { sizes, weights, plan, ffnQuantization } = options;
    const { from, to } = this.#neurons, { upBias } = weights.layers[layer];
    const matvec = kernels.matvec[ffnQuantization], up = plan.residentUp[layer];
    matvec(up, scratch.prepared, upBias, plan.scores, from, to, sizes.hiddenSize);
    kernels.reluMask(plan.scores, plan.mask, from, to);
  }

  #handIn(): void {
    const { words, layout, shape } = this.#seat.control;
    if (Atomics.add(words, layout.maskArrived, 1) + 1 < shape.laneCount) return;
    Atomics.store(words, layout.maskArrived, 0);
    this.#maskReady.advance();
  }
}
