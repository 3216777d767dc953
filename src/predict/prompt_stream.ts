import type { LayerSlots } from "../cache/layer_slots.ts";
import { BundleStream } from "./bundle_stream.ts";
import type { PredictorSeat } from "./predictor_seat.ts";
import { ResidentPasses } from "./resident_passes.ts";
import { WarmLayer } from "./warm_layer.ts";

/**
 * A step of many positions: together they name most neurons of a layer, so each layer is read whole, in the order of the
 * file, while the one before is computed; lanes skip what a position did not name. What the last positions used most stays: it is
 * copied from the staging buffers to the layer's slots, so that the tokens that follow find a warm cache. Layers that are resident are not
 * read.
 */
export class PromptStream {
  readonly #seat: PredictorSeat;
  readonly #stream: BundleStream;
  readonly #resident: ResidentPasses;
  readonly #layers: LayerSlots[];
  readonly #warm: WarmLayer;

  constructor(seat: PredictorSeat, layers: LayerSlots[]) {
    this.#seat = seat;
    this.#stream = new BundleStream(seat);
    this.#resident = new ResidentPasses(seat);
    this.#layers = layers;
    this.#warm = new WarmLayer(seat);
  }

  /** Runs a step of `positions`, the first of which is number `step` of all. */
  run(step: number, positions: number): void {
    const { passes, readPlan } = this.#seat, stream = this.#stream, resident = this.#resident;
    const total = stream.chunksPerStep;
    let issued = 0, published = 0, kept = 0;
    const keepDone = () => {
      for (; kept < published && stream.isDone(kept); kept++) this.#keep(kept, step, positions);
    };
    for (const slots of this.#layers) {
      const count = slots.isResident ? resident.passesPerLayer : stream.chunksPerLayer;
      for (let index = 0; index < count; index++) {
        passes.awaitArrays();
        keepDone();
        while (issued < total && issued < kept + stream.bufferCount) stream.read(issued++);
        readPlan.ring();
        if (slots.isResident) resident.publish(slots, index);
        else stream.publish(published++);
        readPlan.settle();
      }
    }
    passes.awaitDone((passes.number - 1) | 0);
    keepDone();
  }

  /** The pass of a chunk is done: takes what is worth keeping out of its staging buffer, which is free then. */
  #keep(chunk: number, step: number, positions: number): void {
    const stream = this.#stream, place = chunk % stream.chunksPerLayer;
    const slots = this.#layers[stream.layerOf(chunk)], warm = this.#warm;
    if (place === 0) warm.choose(slots, step, positions);
    const count = stream.countOf(chunk);
    for (let i = 0; i < count; i++) {
      const neuron = stream.neuronIn(chunk, i);
      if (warm.wants(neuron)) warm.keep(neuron, stream.addressIn(chunk, i));
    }
    if (place === stream.chunksPerLayer - 1) warm.finish();
  }
}
