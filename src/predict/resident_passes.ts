import type { LayerSlots } from "../cache/layer_slots.ts";
import { LAYER, PREDICTOR } from "../pipeline/statistics.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/** Passes of a layer of a stream whose neurons all lie in their slots, in neuron order: nothing of it is read. */
export class ResidentPasses {
  readonly #seat: PredictorSeat;
  readonly #neuronsPerPass: number;
  readonly passesPerLayer: number;
  /** All neurons. */
  readonly #all: Int32Array;

  constructor(seat: PredictorSeat) {
    const { passNeuronsMax, batchPassNeuronsMax, sizes } = seat.options;
    this.#seat = seat;
    this.#all = Int32Array.from({ length: sizes.intermediateSize }, (_, neuron) => neuron);
    this.#neuronsPerPass = Math.min(passNeuronsMax, batchPassNeuronsMax);
    this.passesPerLayer = Math.ceil(sizes.intermediateSize / this.#neuronsPerPass);
  }

  /** Hands pass number `index` of the layer to the lanes; the next pass's arrays must be free. */
  publish(slots: LayerSlots, index: number): void {
    const { statistics } = this.#seat, first = index * this.#neuronsPerPass;
    const neurons = this.#all.subarray(first, first + this.#neuronsPerPass);
    slots.statistics[LAYER.listed] += neurons.length;
    statistics[PREDICTOR.passes]++;
    publishResident(this.#seat, slots, neurons, index === this.passesPerLayer - 1);
  }
}

/** Hands neurons of a layer that is in memory as a whole to the lanes, as the next pass, whose arrays must be free. All are hits. */
export function publishResident(
  { passes, readPlan }: Pick<PredictorSeat, "passes" | "readPlan">,
  slots: LayerSlots,
  list: Int32Array,
  isLast: boolean,
): void {
  const { addresses, neurons, order } = passes.arrays(slots.arena), count = list.length;
  for (let i = 0; i < count; i++) {
    const neuron = list[i];
    neurons[i] = neuron;
    addresses[i] = slots.addressOf(neuron, neuron);
    order[i] = i;
  }
  slots.statistics[LAYER.hits] += count;
  passes.publish({ count, hitCount: count, isLast, tickets: readPlan.ticketCount });
}
