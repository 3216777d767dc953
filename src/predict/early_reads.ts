import type { LayerSlots } from "../cache/layer_slots.ts";
import { NO_LIST } from "../cache/neuron_cache.ts";
import { PREDICTOR } from "../pipeline/statistics.ts";
import { bitsOf } from "./mask.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/** Fewer reads than this are not chosen by how sure they are: neighbours, which are one read, count for more. */
const CHOSEN_MIN = 32;

/** How sure an early look is of each neuron: score + bias, f32[intermediateSize] each. */
export interface EarlyScores {
  scores: Float32Array;
  bias: Float32Array;
}

/** Starts the reads of what an early look names and is not there, as many as find room: those it is surest of. */
export class EarlyReads {
  readonly #seat: Pick<PredictorSeat, "readPlan" | "passes" | "statistics">;
  /** Neurons named, then those of them that are missing, then those that are read. */
  readonly #list: Int32Array;
  readonly #margins: Float32Array;
  readonly #eviction = { passesDone: 0, list: NO_LIST, desperate: false };

  constructor(
    seat: Pick<PredictorSeat, "readPlan" | "passes" | "statistics">,
    neuronCount: number,
  ) {
    this.#seat = seat;
    this.#list = new Int32Array(neuronCount);
    this.#margins = new Float32Array(neuronCount);
  }

  /**
   * Starts at most `limit` reads; returns how many.
   *
   * @param sureness undefined: nothing is known of it, and the first neurons go first
   */
  start(
    mask: Uint32Array,
    slots: LayerSlots,
    step: number,
    { limit = Infinity, sureness }: { limit?: number; sureness?: EarlyScores } = {},
  ): number {
    const missCount = this.#keepMissing(mask, step, slots);
    if (missCount === 0) return 0;
    const rings = Math.floor(this.#seat.readPlan.earlyRoom / slots.ticketsPerRead);
    const room = Math.min(rings, slots.cache.limit >> 1, limit);
    const count = Math.min(missCount, room);
    if (sureness && count < missCount && count >= CHOSEN_MIN) {
      this.#keepSurest(missCount, count, sureness);
    }
    const issued = this.#startReads(step, slots, count);
    const { statistics } = this.#seat;
    statistics[PREDICTOR.earlyIssued] += issued;
    statistics[PREDICTOR.earlyDropped] += missCount - issued;
    return issued;
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

  /** Leaves the surest `count` of the list's first `missCount` neurons, in their order. */
  #keepSurest(missCount: number, count: number, { scores, bias }: EarlyScores): void {
    const list = this.#list, margins = this.#margins.subarray(0, missCount);
    for (let i = 0; i < missCount; i++) margins[i] = scores[list[i]] + bias[list[i]];
    const least = count === 0 ? Infinity : margins.sort()[missCount - count];
    let kept = 0;
    for (let i = 0; i < missCount && kept < count; i++) {
      if (scores[list[i]] + bias[list[i]] >= least) list[kept++] = list[i];
    }
  }

  /** Reads the first `count` of the list, as many as find slots; the others wait for the late look. */
  #startReads(step: number, slots: LayerSlots, count: number): number {
    const { readPlan, passes } = this.#seat;
    const { cache } = slots, list = this.#list, eviction = this.#eviction;
    let issued = 0;
    eviction.passesDone = passes.done;
    readPlan.begin("early", slots.arena);
    while (issued < count) {
      const slot = cache.admit(list[issued], step, eviction);
      if (slot < 0) break;
      slots.read(list[issued], slot);
      issued++;
    }
    slots.finishReads();
    readPlan.ring();
    return issued;
  }
}
