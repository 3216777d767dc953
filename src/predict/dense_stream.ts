import { BundleStream } from "./bundle_stream.ts";
import type { PredictorSeat } from "./predictor_seat.ts";
import { stagingBuffers } from "./staging.ts";
import type { StagingBuffer } from "./staging.ts";

/**
 * Dense from flash: what will be read is known, so chunks stream through the staging buffers as far ahead as these reach, past the
 * end of a step too.
 */
export class DenseStream {
  readonly #seat: PredictorSeat;
  readonly #stream: BundleStream;
  /** Of each arena. */
  readonly #buffers: StagingBuffer[][];

  constructor(seat: PredictorSeat) {
    this.#seat = seat;
    this.#stream = new BundleStream(seat);
    this.#buffers = seat.options.arenas.map((_, arena) => stagingBuffers(seat.options, arena));
  }

  /** Runs until the pipeline stops (`PipelineStoppedError`). */
  run(): never {
    const { passes, readPlan, options } = this.#seat, stream = this.#stream;
    const { layers, staging: { chunkCount } } = options.flash;
    let issued = 0;
    for (let chunk = 0;; chunk++) {
      passes.awaitArraysIdle();
      // A buffer is free again when the pass that lay in it is done.
      for (; ((issued - passes.done) | 0) <= chunkCount; issued++) {
        const { arena } = layers[stream.layerOf(issued)];
        stream.read(issued, this.#buffers[arena][issued % chunkCount]);
      }
      readPlan.ring();
      stream.publish(chunk, chunk + 1);
    }
  }
}
