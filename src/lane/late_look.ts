import { activationKinds } from "../activation.ts";
import type { ActivationKinds } from "../activation.ts";
import { LOOK_POSITIONS } from "../arena.ts";
import { TILE_ROWS } from "../format/layout.ts";
import type { BitPlanes } from "../predict/bit_planes_look.ts";
import type { LowRank } from "../predict/low_rank_look.ts";
import { hasResidentRows } from "../pipeline/options.ts";
import type { Router } from "../predict/router_look.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import type { LaneArena } from "./lane_arena.ts";
import type { LaneSeat, Share } from "./lane_seat.ts";

/**
 * Decides which neurons are computed, from the FFN's input; the lanes share its rows. The last lane to finish hands the
 * mask to the predictor. In `dense` nothing is to be decided.
 */
export class LateLook {
  readonly #seat: LaneSeat;
  readonly #arena: LaneArena;
  readonly #neurons: Share;
  readonly #maskReady: Sequence;
  readonly #kinds: ActivationKinds;

  constructor(seat: LaneSeat, arena: LaneArena) {
    this.#seat = seat;
    this.#arena = arena;
    this.#neurons = seat.shareOf(seat.options.sizes.intermediateSize, 32);
    this.#kinds = activationKinds(seat.options.sizes);
    this.#maskReady = seat.control.sequence("maskReady");
  }

  /** The FFN's inputs are there: `normed` and `prepared` of each position. */
  look(layer: number, positions: number): void {
    const { clock, trace, options } = this.#seat;
    if (options.mode === "dense") return;
    const began = clock();
    if (hasResidentRows(options.mode)) this.#lookExactly(layer, positions);
    else this.#predict(layer, positions);
    this.#handIn();
    trace?.span("late look", began, clock(), layer);
    // A stream of bundles does not wait for masks, of which lanes need each other's parts.
    if (positions > 1) this.#seat.meet("the late looks of a layer");
  }

  #predict(layer: number, positions: number): void {
    const predictor = this.#seat.options.weights.layers[layer].predictor!;
    if (predictor.kind === "low-rank") this.#lookLowRank(predictor, positions);
    else if (predictor.kind === "bit-planes") this.#lookBitPlanes(predictor, positions);
    else this.#route(predictor, positions);
  }

  /** mask = scores + bias > 0, of one position; `row`: where its scores are. */
  #threshold(bias: number, position: number, row: number): void {
    const { kernels, plan } = this.#arena, { from, to } = this.#neurons, { strides } = plan;
    const scores = plan.scores + row * strides.scores, mask = plan.mask + position * strides.mask;
    kernels.thresholdMask(scores, bias, mask, from, to);
  }

  /** scores = B (A x), in q8; B is read once for some positions. */
  #lookLowRank({ rank, a, b, bias }: LowRank & { bias: number }, positions: number): void {
    const { sizes, ffnQuantization } = this.#seat.options;
    const { plan, kernels } = this.#arena, { strides } = plan, prepare = kernels.prepare.q8;
    const inputs = this.#arena.inputs(positions), d = sizes.hiddenSize;
    // The FFN input in q8's preparation goes where only the low-rank product needs it.
    const isPrepared = ffnQuantization === "q8";
    const prepared = isPrepared ? inputs.prepared : inputs.lookPrepared;
    if (!isPrepared) {
      this.#seat.eachPosition(positions, (position) => {
        const input = inputs.normed + position * strides.hidden;
        prepare(input, prepared + position * strides.prepared, d);
      });
      if (positions > 1) this.#seat.meet("the predictor's input");
    }
    const lowRank = { address: plan.lowRank, stride: strides.lowRank };
    this.#arena.multiply(
      "q8",
      { weight: a, bias: 0 },
      { address: prepared, stride: strides.prepared },
      lowRank,
      { positions, ...this.#seat.shareOf(rank, 8), cols: d },
    );
    this.#seat.meet("the predictor's first product");
    const x = { address: inputs.lowRankPrepared, stride: strides.lowRankPrepared };
    this.#seat.eachPosition(positions, (position) => {
      const input = lowRank.address + position * lowRank.stride;
      prepare(input, x.address + position * x.stride, rank);
    });
    if (positions > 1) this.#seat.meet("the predictor's second input");
    const y = { address: plan.scores, stride: strides.scores };
    for (let first = 0; first < positions; first += LOOK_POSITIONS) {
      const count = Math.min(LOOK_POSITIONS, positions - first);
      const some = { address: x.address + first * x.stride, stride: x.stride };
      const range = { positions: count, ...this.#neurons, cols: rank };
      this.#arena.multiply("q8", { weight: b, bias: 0 }, some, y, range);
      for (let row = 0; row < count; row++) this.#threshold(bias, first + row, row);
    }
  }

  /** scores = rowScale * (planes (x - mean)), in integers. */
  #lookBitPlanes(
    { bits, planes, rowScales, mean, bias }: BitPlanes & { bias: number },
    positions: number,
  ): void {
    const { kernels, plan } = this.#arena, { strides } = plan;
    const { from, to } = this.#neurons, d = this.#seat.options.sizes.hiddenSize;
    const { normed, lookPrepared } = this.#arena.inputs(positions);
    this.#seat.eachPosition(positions, (position) => {
      const tables = lookPrepared + position * strides.prepared;
      kernels.preparePlanes(normed + position * strides.hidden, mean, tables, d);
    });
    if (positions > 1) this.#seat.meet("the predictor's input");
    for (let position = 0; position < positions; position++) {
      const tables = lookPrepared + position * strides.prepared;
      kernels.planeScores(planes, tables, rowScales, plan.scores, from, to, bits, d);
      this.#threshold(bias, position, 0);
    }
  }

  /**
   * Names the neurons of the experts that the router chooses, and leaves what their results are multiplied by. Each lane chooses for
   * itself, and marks its own neurons.
   */
  #route(router: Router, positions: number): void {
    const { weight, dtype, count, perToken, each, isNormalized } = router;
    const { kernels, plan, scratch } = this.#arena, { strides } = plan;
    const { normed, lookPrepared } = this.#arena.inputs(positions), { from, to } = this.#neurons;
    const d = this.#seat.options.sizes.hiddenSize, { shares, chosen } = scratch;
    this.#seat.eachPosition(positions, (position) => {
      const input = normed + position * strides.hidden;
      kernels.prepare[dtype](input, lookPrepared + position * strides.prepared, d);
    });
    if (positions > 1) this.#seat.meet("the router's input");
    this.#arena.multiply(
      dtype,
      { weight, bias: 0 },
      { address: lookPrepared, stride: strides.prepared },
      { address: plan.routed, stride: strides.experts },
      { positions, ...this.#seat.shareOf(count, TILE_ROWS), cols: d },
    );
    this.#seat.meet("the router's products");
    for (let position = 0; position < positions; position++) {
      const mask = plan.mask + position * strides.mask, row = position * strides.experts;
      kernels.chooseExperts(plan.routed + row, count, perToken, chosen);
      kernels.markExperts(chosen, perToken, each, mask, from, to);
      if (this.#seat.index !== 0) continue;
      kernels.copy(shares, plan.routed + row, 4 * count);
      kernels.softmax(shares, count);
      const weights = plan.expertWeights + row;
      kernels.weighExperts(shares, count, chosen, perToken, isNormalized ? 1 : 0, weights);
    }
  }

  /** Activations of all neurons, from the resident rows that decide, small ones cut; mask = those that are not zero. */
  #lookExactly(layer: number, positions: number): void {
    const { sizes, weights, ffnQuantization, cuts } = this.#seat.options;
    const { gateBias, upBias } = weights.layers[layer], { first, threshold } = this.#kinds;
    const cut = cuts?.[layer] ?? 0;
    const { kernels, plan } = this.#arena, { strides } = plan;
    const { prepared } = this.#arena.inputs(positions), { from, to } = this.#neurons;
    const { residentUp } = plan.layers[layer - plan.range.from];
    this.#arena.multiply(
      ffnQuantization,
      { weight: residentUp, bias: sizes.ffn.isGated ? gateBias : upBias },
      { address: prepared, stride: strides.prepared },
      { address: plan.scores, stride: strides.scores },
      { positions, from, to, cols: sizes.hiddenSize },
    );
    for (let position = 0; position < positions; position++) {
      const scores = plan.scores + position * strides.scores;
      const mask = plan.mask + position * strides.mask;
      kernels.activeMask(scores, mask, from, to, first, threshold, cut);
    }
  }

  #handIn(): void {
    const { words, layout, shape } = this.#seat.control;
    if (Atomics.add(words, layout.maskArrived, 1) + 1 < shape.laneCount) return;
    Atomics.store(words, layout.maskArrived, 0);
    this.#maskReady.advance();
  }
}
