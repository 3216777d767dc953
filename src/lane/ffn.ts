import { activationKinds } from "../activation.ts";
import type { ActivationKinds } from "../activation.ts";
import { PICKED_MIN } from "../arena.ts";
import { bundleKernels } from "../kernels.ts";
import { hasResidentRows } from "../pipeline/options.ts";
import { PassReader } from "../pipeline/pass_ring.ts";
import { LANE } from "../pipeline/statistics.ts";
import type { Step } from "../pipeline/step.ts";
import { Expander } from "./expander.ts";
import type { Entries, Rows } from "./expander.ts";
import { Joining } from "./joining.ts";
import type { LaneArena } from "./lane_arena.ts";
import { LateLook } from "./late_look.ts";
import type { Observer } from "./observer.ts";
import type { LaneSeat } from "./lane_seat.ts";

/**
 * Entries of a pass that all positions compute before the next ones. Of fewer a position has named too few for the kernel to be
 * fast; with more, lanes begin later with what has landed.
 */
const GROUP = PICKED_MIN;

/**
 * residual += down(ReLU(up(norm(residual)))) of the neurons that the late look names, which the predictor hands over in
 * passes; in the layers of one arena. Lanes split up dots by neuron and down sums by column. Of several positions each computes
 * the neurons that its own look named.
 */
export class Ffn {
  readonly #seat: LaneSeat;
  readonly #arena: LaneArena;
  readonly #lateLook: LateLook;
  readonly #pass: PassReader;
  readonly #observer?: Observer;
  readonly #joining: Joining;
  readonly #kinds: ActivationKinds;
  /** Neurons of an expert; 0 without experts. */
  readonly #neuronsPerExpert: number;
  /** The kernels that read bundles as they are stored. */
  readonly #stored: ReturnType<typeof bundleKernels>;
  /** Where bundles are stored without their zeros and steps may have several positions. */
  readonly #expander?: Expander;
  /** Entries that are computed together, at most. */
  readonly #group: number;

  /**
   * @param pass the lane's only one: passes are counted through all arenas
   * @param observer lane 0's
   */
  constructor(seat: LaneSeat, arena: LaneArena, pass: PassReader, observer?: Observer) {
    this.#seat = seat;
    this.#arena = arena;
    this.#lateLook = new LateLook(seat, arena);
    this.#pass = pass;
    this.#observer = observer;
    this.#joining = new Joining(seat, arena);
    const { experts, intermediateSize } = seat.options.sizes;
    this.#stored = bundleKernels(arena.kernels, seat.options);
    const { isPruned, positionsMax } = seat.options;
    if (isPruned && positionsMax > 1) this.#expander = expanderOf(seat, arena);
    this.#group = this.#expander?.plan.count ?? GROUP;
    this.#kinds = activationKinds(seat.options.sizes);
    this.#neuronsPerExpert = experts ? intermediateSize / experts.count : 0;
  }

  /** The FFN's input is there, `normed` and `prepared`: decides which neurons are computed, and the predictor hears of it. */
  look(layer: number, step: Step): void {
    if (step.wantsObservation) this.#observer?.seeFfnInput(this.#arena, layer, step);
    // Before the mask, with which the predictor hears that it is there.
    this.#seat.showInput(this.#arena, layer + 1, step.positions);
    this.#lateLook.look(layer, step.positions);
  }

  /** Computes what the look named. */
  compute(layer: number, { positions }: Step): void {
    do {
      this.#takePass(layer);
      this.#computePass(layer, positions);
    } while (!this.#pass.isLast);
    this.#addSum(layer, positions);
  }

  #takePass(layer: number): void {
    const { clock, statistics, trace } = this.#seat;
    const began = clock();
    this.#pass.take(layer, this.#arena.index);
    const ended = clock();
    statistics[LANE.waitPredictorMs] += ended - began;
    trace?.span("wait: predictor", began, ended, layer);
  }

  #computePass(layer: number, positions: number): void {
    const { options } = this.#seat;
    if (this.#pass.count > 0) {
      if (hasResidentRows(options.mode)) this.#takeActivations(layer, positions);
      else if (positions === 1) this.#computeUp(layer);
      else this.#computeUps(layer, positions);
      this.#seat.meet("the activations of a pass");
      this.#computeDown(positions);
    }
    this.#pass.finish();
  }

  /** Dots of the up rows: this lane's hits, then this lane's groups of misses as they land. */
  #computeUp(layer: number): void {
    const { clock, trace, statistics } = this.#seat;
    const { count, hitCount } = this.#pass;
    const began = clock();
    const hits = this.#seat.shareOf(hitCount, 4);
    const activeHits = this.#up(layer, hits.from, hits.to);
    trace?.span("up hits", began, clock(), hits.to - hits.from);
    const misses = this.#seat.shareOf(count - hitCount, 4);
    let active = activeHits;
    for (let from = hitCount + misses.from; from < hitCount + misses.to; from += 4) {
      const to = Math.min(from + 4, hitCount + misses.to);
      this.#awaitLanded(from, to);
      active += this.#up(layer, from, to);
    }
    statistics[LANE.activeHits] += activeHits;
    statistics[LANE.active] += active;
    statistics[LANE.computed] += hits.to - hits.from + misses.to - misses.from;
  }

  /** Entries [from, to) of the pass's order, for the only position. Returns how many are active. */
  #up(layer: number, from: number, to: number): number {
    if (from >= to) return 0;
    const { order, activations } = this.#pass.plan, { prepared } = this.#arena.scratch;
    const first = this.#rowsAt(0);
    if (this.#kinds.second === null) {
      return this.#activate(layer, { order, from, to }, { x: prepared, y: activations, first });
    }
    const at = { x: prepared, y: activations, position: 0, first, ups: this.#upRows };
    let active = 0;
    for (; from < to; from += GROUP) {
      const group = { order, from, to: Math.min(from + GROUP, to) };
      active += this.#activateGated(layer, group, at);
    }
    return active;
  }

  /** Rows of the pass as they are stored. */
  #rowsAt(offset: number): Rows {
    return { addresses: this.#pass.plan.addresses, offset, dots: this.#stored.up };
  }

  /** Up rows behind gates. */
  get #upRows(): Rows {
    return this.#rowsAt(this.#seat.options.flash.record.upOffset);
  }

  /** Rows that decide, for several positions, of at most `#group` entries. */
  #sharedFirstRows(entries: Entries): Rows {
    const { addresses } = this.#pass.plan;
    return this.#expander?.rows(addresses, entries, 0, 0) ?? this.#rowsAt(0);
  }

  /** Up rows behind gates, for several positions, of at most `#group` entries. */
  #sharedUpRows(entries: Entries): Rows {
    const { addresses } = this.#pass.plan, { upOffset } = this.#seat.options.flash.record;
    return this.#expander?.rows(addresses, entries, upOffset, 1) ?? this.#upRows;
  }

  /** Activations of entries of the pass, from the row that decides. Returns how many are not zero. */
  #activate(
    layer: number,
    { order, from, to }: Entries,
    { x, y, first: { addresses, offset, dots } }: { x: number; y: number; first: Rows },
  ): number {
    const { sizes, weights } = this.#seat.options;
    const { gateBias, upBias } = weights.layers[layer], { first, threshold, second } = this.#kinds;
    const { neurons } = this.#pass.plan, d = sizes.hiddenSize;
    const bias = second === null ? upBias : gateBias;
    return dots(addresses, neurons, order, from, to, offset, x, bias, y, d, first, threshold);
  }

  /** The same with a gate: where it is not zero, times the up row's product. At most `#group` entries. */
  #activateGated(
    layer: number,
    entries: Entries,
    at: { x: number; y: number; position: number; first: Rows; ups: Rows },
  ): number {
    this.#activate(layer, entries, at);
    return this.#multiplyUp(layer, entries, at);
  }

  /** Gates that are not zero become their product with the up row's. Returns how many are still not zero. */
  #multiplyUp(
    layer: number,
    { order, from, to }: Entries,
    { x, y, position, ups }: { x: number; y: number; position: number; ups: Rows },
  ): number {
    const { sizes, weights } = this.#seat.options;
    const { kernels, picked } = this.#arena, { upBias } = weights.layers[layer];
    const { neurons } = this.#pass.plan;
    const count = kernels.pickActive(order, from, to, y, picked), d = sizes.hiddenSize;
    const { addresses, offset, dots } = ups, kind = this.#kinds.second!;
    const active = dots(addresses, neurons, picked, 0, count, offset, x, upBias, y, d, kind, 0);
    const each = this.#neuronsPerExpert, { plan } = this.#arena;
    if (each > 0) { // Experts count as much as the router says.
      const weights = plan.expertWeights + position * plan.strides.experts;
      kernels.scaleByExpert(y, neurons, picked, 0, count, weights, each);
    }
    return active;
  }

  /** The same for several positions: group after group, so that each bundle is fetched from memory once. */
  #computeUps(layer: number, positions: number): void {
    const { clock, trace, statistics } = this.#seat, { count, hitCount } = this.#pass;
    const began = clock();
    const hits = this.#seat.shareOf(hitCount, 4), misses = this.#seat.shareOf(count - hitCount, 4);
    let activeHits = 0, active = 0;
    const group = this.#group;
    for (let from = hits.from; from < hits.to; from += group) {
      activeHits += this.#ups(layer, from, Math.min(from + group, hits.to), positions);
    }
    for (let from = hitCount + misses.from; from < hitCount + misses.to; from += group) {
      const to = Math.min(from + group, hitCount + misses.to);
      this.#awaitLanded(from, to);
      active += this.#ups(layer, from, to, positions);
    }
    statistics[LANE.activeHits] += activeHits;
    statistics[LANE.active] += activeHits + active;
    trace?.span("up of several", began, clock(), count);
  }

  /** Entries [from, to) of the pass's order, for each position that named them; zero for the others. */
  #ups(layer: number, from: number, to: number, positions: number): number {
    const { statistics, options: { mode } } = this.#seat, isAll = mode === "dense";
    const { kernels, plan, picked } = this.#arena, { strides } = plan;
    const { neurons, order, activations } = this.#pass.plan;
    const { prepared } = this.#arena.inputs(positions), all = { order, from, to };
    const first = this.#sharedFirstRows(all);
    const ups = this.#kinds.second === null ? null : this.#sharedUpRows(all);
    let active = 0;
    for (let position = 0; position < positions; position++) {
      const x = prepared + position * strides.prepared;
      const y = activations + position * strides.activations;
      const mask = plan.mask + position * strides.mask;
      const entries = isAll ? all : {
        order: picked,
        from: 0,
        to: kernels.pickNamed(order, from, to, neurons, mask, picked, y),
      };
      statistics[LANE.computed] += entries.to - entries.from;
      if (entries.from === entries.to) continue;
      active += ups
        ? this.#activateGated(layer, entries, { x, y, position, first, ups })
        : this.#activate(layer, entries, { x, y, first });
    }
    return active;
  }

  /** The look knows what decides already: activations, or gates. What is read of the neurons must be there. */
  #takeActivations(layer: number, positions: number): void {
    const { index, statistics } = this.#seat, { kernels, plan } = this.#arena, { strides } = plan;
    const { count, hitCount } = this.#pass;
    const { neurons, activations } = this.#pass.plan;
    const { from, to } = this.#seat.shareOf(count, 4);
    for (let position = 0; position < positions; position++) {
      const scores = plan.scores + position * strides.scores;
      kernels.gather(scores, neurons, activations + position * strides.activations, from, to);
    }
    if (index === 0) {
      statistics[LANE.activeHits] += hitCount;
      statistics[LANE.active] += count;
      statistics[LANE.computed] += count;
    }
    this.#awaitLanded(hitCount, count);
    if (this.#kinds.second === null) return;
    const { prepared } = this.#arena.inputs(positions);
    for (let first = from; first < to; first += this.#group) {
      const entries = { order: 0, from: first, to: Math.min(first + this.#group, to) };
      const ups = positions > 1 ? this.#sharedUpRows(entries) : this.#upRows;
      for (let position = 0; position < positions; position++) {
        const x = prepared + position * strides.prepared;
        const y = activations + position * strides.activations;
        this.#multiplyUp(layer, entries, { x, y, position, ups });
      }
    }
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

  /** Adds the down columns of active neurons, in the order of the pass, to this lane's part of the sums. */
  #computeDown(positions: number): void {
    const { clock, trace, columns, options } = this.#seat;
    const { sizes, flash } = options, { scratch, plan: { accumulator, strides } } = this.#arena;
    const { addresses, activations } = this.#pass.plan, { count } = this.#pass;
    const { downOffset } = flash.record;
    const { down } = this.#stored, { from, to } = columns, d = sizes.hiddenSize;
    const began = clock();
    if (this.#expander && positions > 1) this.#addExpanded(this.#expander, positions);
    else {
      for (let position = 0; position < positions; position++) {
        const a = activations + position * strides.activations;
        const sum = accumulator + position * strides.accumulator;
        down(addresses, downOffset, a, count, sum, from, to, d, scratch.downScratch);
      }
    }
    trace?.span("down", began, clock(), count);
  }

  /** The same with columns that are stored without their zeros: group after group of those that any position adds. */
  #addExpanded(expander: Expander, positions: number): void {
    const { columns, options } = this.#seat, { ffnQuantization, sizes, flash } = options;
    const { kernels, scratch, plan: { accumulator, strides } } = this.#arena;
    const { addresses, activations } = this.#pass.plan, { count } = this.#pass;
    const { active, plan: { active: order } } = expander, { from, to } = columns;
    if (from === to) return;
    const down = kernels.down[ffnQuantization], d = sizes.hiddenSize;
    const part = { offset: flash.record.downOffset, place: 0, from, to } as const;
    const stride = strides.activations;
    const all = kernels.pickAny(count, activations, stride, positions, order);
    for (let first = 0; first < all; first += this.#group) {
      const group = { order, from: first, to: Math.min(first + this.#group, all) };
      const expanded = expander.columns(addresses, group, part);
      // Nobody adds what lies between those.
      const begin = active[first], length = active[group.to - 1] + 1 - begin;
      for (let position = 0; position < positions; position++) {
        const a = activations + position * stride + 4 * begin;
        const sum = accumulator + position * strides.accumulator;
        down(expanded + 4 * begin, 0, a, length, sum, from, to, d, scratch.downScratch);
      }
    }
  }

  /** The sum of the columns + bias comes to the residual stream. */
  #addSum(layer: number, positions: number): void {
    const { columns, options } = this.#seat, { from, to } = columns;
    const { sizes, weights, ffnQuantization } = options;
    const { downBias, ffnNorm, ffnOutputNorm } = weights.layers[layer], { isPlain } = this.#joining;
    const { kernels, plan } = this.#arena, { accumulator, strides } = plan;
    const finish = kernels.finishDown[ffnQuantization];
    for (let position = 0; position < positions; position++) {
      const sum = accumulator + position * strides.accumulator;
      const target = (isPlain ? plan.residual : plan.projected) + position * strides.hidden;
      if (!isPlain) kernels.zero(target + 4 * from, 4 * (to - from));
      finish(sum, downBias, target, from, to, sizes.hiddenSize);
    }
    if (!isPlain) this.#joining.join(sizes.block === "after" ? ffnNorm : ffnOutputNorm, positions);
    this.#seat.meet("the end of a layer");
  }
}

function expanderOf({ options }: LaneSeat, { scratch, kernels, buffer }: LaneArena): Expander {
  const { ffnQuantization, sizes: { hiddenSize }, passNeuronsMax } = options;
  const quantization = ffnQuantization === "q8" ? "q8" : "f16";
  return new Expander(scratch.expansion, {
    kernels,
    buffer,
    quantization,
    hiddenSize,
    entriesMax: passNeuronsMax,
  });
}
