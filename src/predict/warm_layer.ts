import type { LayerSlots } from "../cache/layer_slots.ts";
import { NO_LIST } from "../cache/neuron_cache.ts";
import { bitsOf } from "./mask.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/** Positions in which a neuron's use comes to count half. */
const HALF_LIFE = 32;
/** The policy hears of the uses of so many last positions. */
const POSITIONS_TOLD = 16;
/** Weights are sorted as whole numbers, with the neuron behind. */
const WEIGHT_STEPS = 1024, NEURONS_MAX = 2 ** 26;

/** Fills a layer's slots with what a prompt's last positions used most. */
export class WarmLayer {
  readonly #seat: PredictorSeat;
  readonly #named: Int32Array;
  readonly #weights: Float64Array;
  readonly #sorted: Float64Array;
  /** Neurons that shall have a slot and have none. */
  readonly #isWanted: Uint8Array;
  /** Lists of its own: below `NO_LIST`, counting down. */
  readonly #eviction = { passesDone: 0, list: NO_LIST, desperate: false };
  #slots!: LayerSlots;
  #step = 0;
  #positions = 0;

  constructor(seat: PredictorSeat) {
    const n = seat.options.sizes.intermediateSize;
    this.#seat = seat;
    this.#named = new Int32Array(n);
    this.#weights = new Float64Array(n);
    this.#sorted = new Float64Array(n);
    this.#isWanted = new Uint8Array(n);
  }

  /** The lanes are done with a pass of the layer, so its masks are there: chooses what shall stay. */
  choose(slots: LayerSlots, step: number, positions: number): void {
    this.#slots = slots;
    this.#step = step;
    this.#positions = positions;
    this.#weigh();
    const wanted = this.#sorted.subarray(0, this.#listWeights()).sort();
    const { cache } = slots, from = Math.max(0, wanted.length - cache.limit);
    this.#isWanted.fill(0);
    this.#eviction.list = (this.#eviction.list - 1) | 0;
    for (let i = from; i < wanted.length; i++) {
      const neuron = wanted[i] % NEURONS_MAX, slot = cache.find(neuron);
      if (slot < 0) this.#isWanted[neuron] = 1;
      // What is there already must not make room for the others.
      else cache.want(slot, step, this.#eviction.list);
    }
  }

  wants(neuron: number): boolean {
    return this.#isWanted[neuron] === 1;
  }

  /** Copies the neuron's record from `address` to a slot, if there is one to be had. */
  keep(neuron: number, address: number): void {
    const slots = this.#slots, { passes, options } = this.#seat;
    this.#eviction.passesDone = passes.done;
    const slot = slots.cache.admit(neuron, this.#step, this.#eviction);
    if (slot < 0) return;
    slots.fill(neuron, slot, address, options.flash.record.byteLength);
  }

  /** All chunks of the layer went by: tells the policy what the last positions used. */
  finish(): void {
    const { cache } = this.#slots, { done } = this.#seat.passes;
    const masks = this.#seat.lateMasks[this.#slots.arena];
    const first = Math.max(0, this.#positions - POSITIONS_TOLD);
    for (let position = first; position < this.#positions; position++) {
      const step = (this.#step + position) | 0;
      const count = bitsOf(masks[position], this.#named);
      for (let i = 0; i < count; i++) {
        const slot = cache.find(this.#named[i]);
        if (slot >= 0) cache.use(slot, step, done);
      }
      cache.endStep(step, done);
    }
  }

  /** How often each neuron was named, the last positions most. */
  #weigh(): void {
    const masks = this.#seat.lateMasks[this.#slots.arena], weights = this.#weights;
    const decay = 2 ** (-1 / HALF_LIFE);
    weights.fill(0);
    for (let position = this.#positions - 1, weight = 1; position >= 0; position--) {
      const count = bitsOf(masks[position], this.#named);
      for (let i = 0; i < count; i++) weights[this.#named[i]] += weight;
      weight *= decay;
    }
  }

  /** Lists the neurons that were named, to be sorted by weight; returns how many. */
  #listWeights(): number {
    let count = 0;
    for (let neuron = 0; neuron < this.#weights.length; neuron++) {
      const weight = this.#weights[neuron];
      if (weight === 0) continue;
      this.#sorted[count++] = Math.ceil(weight * WEIGHT_STEPS) * NEURONS_MAX + neuron;
    }
    return count;
  }
}
