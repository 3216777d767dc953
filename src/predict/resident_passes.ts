import type { LayerSlots } from "../cache/layer_slots.ts";
import { LAYER, PREDICTOR } from "../pipeline/statistics.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/** Passes of a layer of a stream whose neurons all lie in their slots, in neuron order: nothing of it is read. */
export class ResidentPasses {
  readonly #seat: PredictorSeat;
  readonly #neuronsPerPass: number;
  readonly passesPerLayer: number;

  constructor(seat: PredictorSeat) {
    const { passNeuronsMax, batchPassNeuronsMax, sizes } = seat.options;
    this.#seat = seat;
    this.#neuronsPerPass = Math.min(passNeuronsMax, batchPassNeuronsMax);
    this.passesPerLayer = Math.ceil(sizes.intermediateSize / this.#neuronsPerPass);
  }

  /** Hands pass number `index` of the layer to the lanes; the next pass's arrays must be free. */
  publish(slots: LayerSlots, index: number): void {
    const { passes, options, statistics, readPlan } = this.#seat,
      n = options.sizes.intermediateSize;
    const { addresses, neurons, order } = passes.arrays(slots.arena);
    const first = index * this.#neuronsPerPass, count = Math.min(this.#neuronsPerPass, n - first);
    for (let i = 0; i < count; i++) {
      neurons[i] = first + i;
      addresses[i] = slots.addressOf(first + i, first + i);
      order[i] = i;
    }
    slots.statistics[LAYER.listed] += count;
    slots.statistics[LAYER.hits] += count;
    statistics[PREDICTOR.passes]++;
    const isLast = first + count === n, tickets = readPlan.ticketCount;
    passes.publish({ count, hitCount: count, isLast, tickets });
  }
}
