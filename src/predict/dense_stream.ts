import { BundleStream } from "./bundle_stream.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/**
 * Dense from flash: what will be read is known, so chunks stream through the staging buffers as far ahead as these reach, past the
 * end of a step too.
 */
export class DenseStream {
  readonly #seat: PredictorSeat;
  readonly #stream: BundleStream;

  constructor(seat: PredictorSeat) {
    this.#seat = seat;
    this.#stream = new BundleStream(seat);
  }

  /** Runs until the pipeline stops (`PipelineStoppedError`). */
  run(): never {
    const { passes, readPlan } = this.#seat, stream = this.#stream;
    let issued = 0;
    for (let chunk = 0;; chunk++) {
      passes.awaitArraysIdle();
      // A buffer is free again when the pass that lay in it is done.
      while (((issued - passes.done) | 0) <= stream.bufferCount) stream.read(issued++);
      readPlan.ring();
      stream.publish(chunk);
    }
  }
}
