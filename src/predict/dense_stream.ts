import type { LayerSlots } from "../cache/layer_slots.ts";
import { BundleStream } from "./bundle_stream.ts";
import type { PredictorSeat } from "./predictor_seat.ts";
import { Rereads } from "./rereads.ts";
import { ResidentPasses } from "./resident_passes.ts";
import { stagingBuffers } from "./staging.ts";
import type { StagingBuffer } from "./staging.ts";

/**
 * Dense from flash: what will be read is known, so chunks of the layers that are not resident stream through the staging buffers as
 * far ahead as these reach, past the end of a step too.
 */
export class DenseStream {
  readonly #seat: PredictorSeat;
  readonly #layers: LayerSlots[];
  readonly #stream: BundleStream;
  readonly #resident: ResidentPasses;
  readonly #rereads?: Rereads;
  /** Of each arena. */
  readonly #buffers: StagingBuffer[][];
  /** Of each buffer's chunk: the pass that it is. */
  readonly #passes: Int32Array;
  /** Chunks whose reads were begun, that were published, and that lanes are done with. */
  #issued = 0;
  #published = 0;
  #freed = 0;

  constructor(seat: PredictorSeat, layers: LayerSlots[]) {
    const { arenas, flash } = seat.options;
    this.#seat = seat;
    this.#layers = layers;
    this.#stream = new BundleStream(seat);
    this.#resident = new ResidentPasses(seat);
    this.#buffers = arenas.map((_, arena) => stagingBuffers(seat.options, arena));
    this.#passes = new Int32Array(flash.staging.chunkCount);
    if (flash.rereads.length > 0) this.#rereads = new Rereads(seat);
  }

  /** Runs until the pipeline stops (`PipelineStoppedError`). */
  run(): never {
    for (;;) for (const slots of this.#layers) this.#publishLayer(slots);
  }

  #publishLayer(slots: LayerSlots): void {
    const { passes } = this.#seat, { isResident } = slots;
    const count = isResident ? this.#resident.passesPerLayer : this.#stream.chunksPerLayer;
    for (let index = 0; index < count; index++) {
      passes.awaitArraysIdle();
      this.#readAhead();
      if (index === 0) this.#rereads?.await(slots.layer);
      if (isResident) this.#resident.publish(slots, index);
      else this.#publishChunk(this.#published++);
    }
  }

  #publishChunk(chunk: number): void {
    this.#passes[chunk % this.#passes.length] = this.#seat.passes.number;
    this.#stream.publish(chunk, chunk + 1);
  }

  /** Begins reads to the buffers that are free again, as the passes that lay in them are done. */
  #readAhead(): void {
    const { passes, readPlan, options } = this.#seat, { layers } = options.flash;
    const bufferCount = this.#passes.length, stream = this.#stream;
    const isDone = (chunk: number) => ((passes.done - this.#passes[chunk % bufferCount]) | 0) >= 0;
    while (this.#freed < this.#published && isDone(this.#freed)) this.#freed++;
    for (; this.#issued < this.#freed + bufferCount; this.#issued++) {
      const { arena } = layers[stream.layerOf(this.#issued)];
      stream.read(this.#issued, this.#buffers[arena][this.#issued % bufferCount]);
    }
    this.#rereads?.readAhead();
    readPlan.ring();
  }
}
