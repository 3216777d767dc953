import type { LayerSlots } from "../cache/layer_slots.ts";
import { NO_LIST } from "../cache/neuron_cache.ts";
import { PREDICTOR } from "../pipeline/statistics.ts";
import { bitsOf } from "./mask.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

type EarlySeat = Pick<PredictorSeat, "readPlan" | "passes" | "statistics" | "clock">;

/** Starts the reads of what an early look names and is not there, as many as find room. */
export class EarlyReads {
  readonly #seat: EarlySeat;
  /** Neurons named, then those of them that are missing. */
  readonly #list: Int32Array;
  readonly #eviction = { passesDone: 0, list: NO_LIST, desperate: false };

  constructor(seat: EarlySeat, neuronCount: number) {
    this.#seat = seat;
    this.#list = new Int32Array(neuronCount);
  }

  start(mask: Uint32Array, slots: LayerSlots, step: number): void {
    const { readPlan, statistics, clock } = this.#seat, began = clock();
    const missCount = this.#keepMissing(mask, step, slots);
    this.#planReads(step, slots, missCount);
    statistics[PREDICTOR.earlyPlanMs] += clock() - began;
    if (missCount > 0) readPlan.ring();
  }

  /** Leaves the named neurons that have no slot in the list; returns how many. */
  #keepMissing(mask: Uint32Array, step: number, { cache }: LayerSlots): number {
    const list = this.#list, count = bitsOf(mask, list);
    let missCount = 0;
    for (let i = 0; i < count; i++) {
      const slot = cache.find(list[i]);
      // What is likely wanted must not make room for what is likely wanted.
      if (slot >= 0) cache.refresh(slot, step);
      else list[missCount++] = list[i];
    }
    return missCount;
  }

  /** Reads as many of them as find room, in rings and slots; the others wait for the late look. */
  #planReads(step: number, slots: LayerSlots, missCount: number): void {
    if (missCount === 0) return;
    const { readPlan, passes, statistics } = this.#seat;
    const { cache } = slots, list = this.#list, eviction = this.#eviction;
    const room = Math.floor(readPlan.earlyRoom / slots.ticketsPerRead);
    const taken = Math.min(missCount, room, cache.limit >> 1);
    let issued = 0;
    eviction.passesDone = passes.done;
    readPlan.begin("early", slots.arena);
    while (issued < taken) {
      const slot = cache.admit(list[issued], step, eviction);
      if (slot < 0) break;
      slots.read(list[issued], slot);
      issued++;
    }
    slots.finishReads();
    statistics[PREDICTOR.earlyIssued] += issued;
    statistics[PREDICTOR.earlyDropped] += missCount - issued;
  }
}
