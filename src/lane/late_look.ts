import { activationKinds } from "../activation.ts";
import type { ActivationKinds } from "../activation.ts";
import { LOOK_POSITIONS } from "../arena.ts";
import type { InputsPlan } from "../arena.ts";
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
  /** u32[experts of a position]: those that were chosen last. */
  readonly #chosen: Uint32Array;
  /** [positions][experts]: whether a position has an expert, in `exact`. */
  readonly #has: Uint8Array;

  constructor(seat: LaneSeat, arena: LaneArena) {
    const { sizes: { experts }, positionsMax } = seat.options;
    this.#seat = seat;
    this.#arena = arena;
    this.#chosen = new Uint32Array(arena.buffer, arena.scratch.chosen, experts?.perToken ?? 0);
    this.#has = new Uint8Array(positionsMax * (experts?.count ?? 0));
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
    else this.#nameExperts(predictor, positions);
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

  /** Names all neurons of the experts that the router chooses; each lane marks its own. */
  #nameExperts(router: Router, positions: number): void {
    const { perToken, each } = router, { from, to } = this.#neurons;
    const { kernels, plan: { mask, strides }, scratch: { chosen } } = this.#arena;
    this.#route(router, positions, (position) => {
      kernels.markExperts(chosen, perToken, each, mask + position * strides.mask, from, to);
    });
  }

  /**
   * Chooses the experts of each position, and leaves what their results are multiplied by. Each lane chooses for itself; `use` finds
   * a position's choice in its scratch.
   */
  #route(router: Router, positions: number, use: (position: number) => void): void {
    const { weight, dtype, count, perToken, isNormalized } = router;
    const { kernels, plan, scratch } = this.#arena, { strides } = plan;
    const { normed, lookPrepared } = this.#arena.inputs(positions);
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
      const row = position * strides.experts;
      kernels.chooseExperts(plan.routed + row, count, perToken, chosen);
      use(position);
      if (this.#seat.index !== 0) continue;
      kernels.copy(shares, plan.routed + row, 4 * count);
      kernels.softmax(shares, count);
      const weights = plan.expertWeights + row;
      kernels.weighExperts(shares, count, chosen, perToken, isNormalized ? 1 : 0, weights);
    }
  }

  /** Activations of all neurons, from the resident rows that decide, small ones cut; mask = those that are not zero. */
  #lookExactly(layer: number, positions: number): void {
    const { predictor } = this.#seat.options.weights.layers[layer];
    const range = { first: 0, count: positions }, inputs = this.#arena.inputs(positions);
    if (predictor?.kind !== "router") return this.#activate(layer, range, this.#neurons, inputs);
    this.#activateExperts(layer, predictor, positions);
  }

  /**
   * The same of the experts that a position has; of the others the mask is empty. Each lane has a part of each expert, so that no
   * choice leaves one idle.
   */
  #activateExperts(layer: number, router: Router, positions: number): void {
    const { count, each } = router, { kernels, plan } = this.#arena, { strides } = plan;
    const has = this.#has, chosen = this.#chosen, share = this.#seat.shareOf(each, 32);
    this.#route(router, positions, (position) => {
      has.fill(0, position * count, (position + 1) * count);
      for (let k = 0; k < chosen.length; k++) has[position * count + chosen[k]] = 1;
    });
    const inputs = this.#arena.inputs(positions);
    for (let expert = 0; expert < count; expert++) {
      const rows = { from: expert * each + share.from, to: expert * each + share.to };
      for (let first = 0, end: number; first < positions; first = end) {
        const isChosen = has[first * count + expert];
        for (end = first + 1; end < positions && has[end * count + expert] === isChosen;) end++;
        if (isChosen === 1) {
          this.#activate(layer, { first, count: end - first }, rows, inputs);
          continue;
        }
        for (let position = first; position < end; position++) {
          const mask = plan.mask + position * strides.mask;
          kernels.zero(mask + rows.from / 8, (rows.to - rows.from) / 8);
          // Of several positions one gathers what another named.
          const scores = plan.scores + position * strides.scores;
          if (positions > 1) kernels.zero(scores + 4 * rows.from, 4 * (rows.to - rows.from));
        }
      }
    }
  }

  /** `scores` become activations of rows [from, to), for some positions; their bits in `mask`: not zero. */
  #activate(
    layer: number,
    { first, count }: { first: number; count: number },
    { from, to }: Share,
    { prepared }: InputsPlan,
  ): void {
    const { sizes, weights, ffnQuantization, cuts } = this.#seat.options;
    const { gateBias, upBias } = weights.layers[layer], { first: kind, threshold } = this.#kinds;
    const cut = cuts?.[layer] ?? 0;
    const { kernels, plan } = this.#arena, { strides } = plan;
    const { residentUp } = plan.layers[layer - plan.range.from];
    this.#arena.multiply(
      ffnQuantization,
      { weight: residentUp, bias: sizes.ffn.isGated ? gateBias : upBias },
      { address: prepared + first * strides.prepared, stride: strides.prepared },
      { address: plan.scores + first * strides.scores, stride: strides.scores },
      { positions: count, from, to, cols: sizes.hiddenSize },
    );
    for (let position = first; position < first + count; position++) {
      const scores = plan.scores + position * strides.scores;
      const mask = plan.mask + position * strides.mask;
      kernels.activeMask(scores, mask, from, to, kind, threshold, cut);
    }
  }

  #handIn(): void {
    const { words, layout, shape } = this.#seat.control;
    if (Atomics.add(words, layout.maskArrived, 1) + 1 < shape.laneCount) return;
    Atomics.store(words, layout.maskArrived, 0);
    this.#maskReady.advance();
  }
}
