import type { LayerSlots } from "../cache/layer_slots.ts";
import type { Auditor } from "../audit/auditor.ts";
import type { NeuronCache } from "../cache/neuron_cache.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import { LAYER, PREDICTOR } from "../pipeline/statistics.ts";
import { bitsOf } from "./mask.ts";
import type { PredictorSeat } from "./predictor_seat.ts";
import { publishResident } from "./resident_passes.ts";

/** After so many misses a reader in this thread begins their reads, so that the disk does not wait for the end of the list: 2^n. */
const BEGUN = 32;

/** What it needs of the predictor's place. */
export interface PassSeat
  extends
    Pick<PredictorSeat, "control" | "passes" | "readPlan" | "statistics" | "clock" | "trace"> {
  readonly options: { sizes: { intermediateSize: number }; passNeuronsMax: number };
}

/**
 * Makes passes of the late look's answer: each neuron's slot, a read for each that has none, and the order in which
 * lanes compute. A list that is longer than the slots are goes out in several passes.
 */
export class PassBuilder {
  readonly #seat: PassSeat;
  readonly #audit?: Auditor;
  readonly #landed: Sequence;
  /** The list at hand, in neuron order, and how much of it has gone out. */
  readonly #list: Int32Array;
  #listCount = 0;
  /** Time in which it waited for lanes or slots. */
  waitMs = 0;
  #at = 0;
  /** Misses of the pass at hand: their places in it, and their landing flags. */
  readonly #misses: Int32Array;
  readonly #missFlags: Int32Array;
  /** `list` is the number of the list at hand. */
  readonly #eviction = { passesDone: 0, list: 0, desperate: false };

  /** @param audit counts what lanes made of the passes, if it is on */
  constructor(seat: PassSeat, audit?: Auditor) {
    const { sizes, passNeuronsMax } = seat.options;
    this.#seat = seat;
    this.#audit = audit;
    this.#landed = seat.control.sequence("landed");
    this.#list = new Int32Array(sizes.intermediateSize);
    this.#misses = new Int32Array(passNeuronsMax);
    this.#missFlags = new Int32Array(passNeuronsMax);
  }

  /**
   * Publishes the neurons of `mask` as list number `list`; returns how many there are. A reader in this thread has begun the last
   * reads then, and must be kept going.
   *
   * @param neuronsMax of a pass; default: as many as its arrays hold
   */
  publish(
    mask: Uint32Array,
    slots: LayerSlots,
    step: number,
    list: number,
    neuronsMax = this.#seat.options.passNeuronsMax,
  ): number {
    const { passes, readPlan, statistics, clock } = this.#seat;
    this.#listCount = bitsOf(mask, this.#list);
    this.#at = 0;
    this.#eviction.list = list;
    slots.statistics[LAYER.listed] += this.#listCount;
    if (!slots.isResident) this.#want(slots.cache, step, list);
    do {
      const began = clock();
      passes.awaitArrays();
      this.waitMs += clock() - began;
      this.#audit?.countPasses(passes.done);
      if (slots.isResident) this.#publishResident(slots, neuronsMax);
      else this.#publishPass(slots, step, neuronsMax);
      statistics[PREDICTOR.passes]++;
      if (this.#at < this.#listCount) slots.cache.endPass();
      // Lanes get their list before readers are woken.
      readPlan.ring();
      if (this.#at === this.#listCount) break;
      readPlan.settle();
    } while (true);
    return this.#listCount;
  }

  /** What is there and wanted should not make room for what is not there. */
  #want(cache: NeuronCache, step: number, list: number): void {
    for (let i = 0; i < this.#listCount; i++) {
      const slot = cache.find(this.#list[i]);
      if (slot >= 0) cache.want(slot, step, list);
    }
  }

  /** Of a layer that is in memory as a whole nothing is to be kept. */
  #publishResident(slots: LayerSlots, neuronsMax: number): void {
    const from = this.#at, to = Math.min(from + neuronsMax, this.#listCount);
    this.#at = to;
    this.#audit?.published(this.#seat.passes.number, slots.layer, to - from);
    publishResident(this.#seat, slots, this.#list.subarray(from, to), to === this.#listCount);
  }

  /** Fills the next pass with the neurons that come next, as many as find slots, and hands it to the lanes. */
  #publishPass(slots: LayerSlots, step: number, neuronsMax: number): void {
    const { passes, readPlan } = this.#seat;
    const { addresses, neurons, order, flags } = passes.arrays(slots.arena);
    const { cache } = slots, list = this.#list, listCount = this.#listCount;
    const misses = this.#misses, missFlags = this.#missFlags;
    let at = this.#at, count = 0, hitCount = 0, missCount = 0;
    readPlan.begin("late", slots.arena);
    for (; at < listCount && count < neuronsMax; at++, count++) {
      const neuron = list[at];
      const slot = this.#slotOf(neuron, slots, step, count === 0);
      if (slot < 0) break;
      cache.use(slot, step, passes.number);
      if (cache.hasLanded(slot)) order[hitCount++] = count;
      else {
        misses[missCount] = count;
        missFlags[missCount++] = slots.flag + slot;
      }
      neurons[count] = neuron;
      addresses[count] = slots.addressOf(neuron, slot);
    }
    slots.finishReads();
    for (let miss = 0; miss < missCount; miss++) {
      order[hitCount + miss] = misses[miss];
      flags[hitCount + miss] = missFlags[miss];
    }
    this.#at = at;
    this.#audit?.published(passes.number, slots.layer, count);
    const isLast = at === listCount;
    passes.publish({ count, hitCount, isLast, tickets: readPlan.ticketCount });
  }

  /** The neuron's slot: where it is, or where it is read to. -1 if the pass must end first. */
  #slotOf(neuron: number, slots: LayerSlots, step: number, isFirst: boolean): number {
    const { cache, statistics } = slots;
    const found = cache.find(neuron);
    if (found >= 0) {
      const isEarly = cache.admittedStep(found) === step;
      statistics[isEarly ? LAYER.earlyStarted : LAYER.hits]++;
      return found;
    }
    const slot = this.#admit(cache, neuron, step, isFirst);
    if (slot < 0) return -1;
    slots.read(neuron, slot);
    if ((++statistics[LAYER.lateMisses] & (BEGUN - 1)) === 0) this.#seat.readPlan.poll();
    return slot;
  }

  /** A slot for `neuron`; -1 if there is none. The first of a pass waits until it gets one. */
  #admit(cache: NeuronCache, neuron: number, step: number, isFirst: boolean): number {
    const { passes, readPlan, clock, trace } = this.#seat, eviction = this.#eviction;
    for (;;) {
      const landed = this.#landed.value, passBefore = (passes.number - 1) | 0;
      eviction.passesDone = passes.done;
      eviction.desperate = isFirst && eviction.passesDone === passBefore;
      const slot = cache.admit(neuron, step, eviction);
      if (slot >= 0 || !isFirst) return slot;
      if (readPlan.settle() && eviction.desperate) continue;
      const began = clock();
      if (eviction.desperate) this.#landed.waitFor((landed + 1) | 0, "a slot's read to land");
      else passes.awaitDone(passBefore);
      const ended = clock();
      this.waitMs += ended - began;
      trace?.span("wait: slots", began, ended);
    }
  }
}
