import { PREDICTOR } from "../pipeline/statistics.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/**
 * Dense from flash: what will be read is known, so chunks of neighbouring bundles stream through the staging buffers as
 * far ahead as these reach, past the end of a token too. One chunk is one read and one pass.
 *
 *   chunk c: neurons from c % chunksPerLayer * neuronsPerChunk on, of layer c / chunksPerLayer % numLayers,
 *            in staging buffer c % chunkCount, behind landing flag staging.flag + c % chunkCount
 */
export class DenseStream {
  readonly #seat: PredictorSeat;
  readonly #chunksPerLayer: number;
  /** Chunks that were asked for. */
  #issued = 0;
  /** What is read next: reused, so that a read allocates nothing. */
  readonly #record = { byteOffset: 0, byteLength: 0 };

  constructor(seat: PredictorSeat) {
    const { flash, sizes } = seat.options;
    this.#seat = seat;
    this.#chunksPerLayer = Math.ceil(sizes.intermediateSize / flash.staging.neuronsPerChunk);
  }

  /** Runs until the pipeline stops (`PipelineStoppedError`). */
  run(): never {
    const { passes, readPlan, options } = this.#seat, { chunkCount } = options.flash.staging;
    for (let chunk = 0;; chunk++) {
      passes.awaitArraysIdle();
      // A buffer is free again when the pass that lay in it is done.
      while (((this.#issued - passes.done) | 0) <= chunkCount) this.#read(this.#issued++);
      readPlan.ring();
      this.#publish(chunk);
    }
  }

  #layerOf(chunk: number): number {
    return Math.floor(chunk / this.#chunksPerLayer) % this.#seat.options.sizes.numLayers;
  }

  #firstNeuronOf(chunk: number): number {
    return (chunk % this.#chunksPerLayer) * this.#seat.options.flash.staging.neuronsPerChunk;
  }

  /** Neurons of a chunk that begins with `first`: the last of a layer may be shorter. */
  #neuronCount(first: number): number {
    const { flash, sizes } = this.#seat.options;
    return Math.min(flash.staging.neuronsPerChunk, sizes.intermediateSize - first);
  }

  #byteOffsetOf(chunk: number): number {
    const { layers, strideBytes } = this.#seat.options.flash;
    return layers[this.#layerOf(chunk)].byteOffset + this.#firstNeuronOf(chunk) * strideBytes;
  }

  #read(chunk: number): void {
    const { control, readPlan, options } = this.#seat, { flash, plan } = options;
    const { chunkCount, chunkByteLength, flag } = flash.staging;
    const buffer = chunk % chunkCount, record = this.#record;
    Atomics.store(control.words, control.layout.flags + flag + buffer, 0);
    record.byteOffset = this.#byteOffsetOf(chunk);
    record.byteLength = this.#neuronCount(this.#firstNeuronOf(chunk)) * flash.strideBytes;
    readPlan.begin("late");
    readPlan.add(record, plan.staging + buffer * chunkByteLength, flag + buffer);
    readPlan.finish();
  }

  #publish(chunk: number): void {
    const { passes, options, statistics } = this.#seat, { flash, plan, sizes } = options;
    const { chunkCount, chunkByteLength, flag } = flash.staging;
    const { addresses, neurons, order, flags } = passes.arrays;
    const first = this.#firstNeuronOf(chunk), count = this.#neuronCount(first);
    const buffer = chunk % chunkCount;
    const phase = this.#byteOffsetOf(chunk) % flash.readPlan.blockByteLength;
    const address = plan.staging + buffer * chunkByteLength + phase;
    for (let i = 0; i < count; i++) {
      addresses[i] = address + i * flash.strideBytes;
      neurons[i] = first + i;
      order[i] = i;
      flags[i] = flag + buffer;
    }
    const isLast = first + count === sizes.intermediateSize;
    passes.publish({ count, hitCount: 0, isLast, tickets: chunk + 1 });
    statistics[PREDICTOR.passes]++;
    statistics[PREDICTOR.listed] += count;
    statistics[PREDICTOR.lateMisses] += count;
  }
}
