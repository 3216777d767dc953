import { LAYER, PREDICTOR } from "../pipeline/statistics.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/** Neurons of a chunk, at most: with a position in front it stays a whole number. */
const PLACES_MAX = 2 ** 26;

/**
 * Dense from flash: what will be read is known, so chunks of neighbouring bundles stream through the staging buffers as
 * far ahead as these reach, past the end of a token too. One chunk is one read and one pass.
 *
 *   chunk c: neurons from c % chunksPerLayer * neuronsPerChunk on, of layer c / chunksPerLayer % numLayers,
 *            in staging buffer c % chunkCount, behind landing flag staging.flag + c % chunkCount
 *
 * Where neurons lie in another order on flash, those of a chunk are scattered. They are read one by one (merged where they are
 * near), each to a slot of its own in the staging buffer and with a flag of its own, as columns are added in neuron order.
 */
export class DenseStream {
  readonly #seat: PredictorSeat;
  readonly #chunksPerLayer: number;
  /** Each layer's numbers; see `LAYER`. */
  readonly #layerStatistics: Float64Array[];
  /** Chunks that were asked for. */
  #issued = 0;
  /** Of each staging buffer: how many tickets will have landed when its chunk has. */
  readonly #tickets: Int32Array;
  /** Reads of a scattered chunk, in the order of the file: position and neuron in one number. */
  readonly #scattered: Float64Array;
  /** What is read next: reused, so that a read allocates nothing. */
  readonly #record = { byteOffset: 0, byteLength: 0 };

  constructor(seat: PredictorSeat) {
    const { flash, sizes } = seat.options;
    this.#seat = seat;
    this.#layerStatistics = flash.layers.map((_, layer) => seat.control.layerStatistics(layer));
    const { chunkCount, neuronsPerChunk } = flash.staging;
    this.#chunksPerLayer = Math.ceil(sizes.intermediateSize / neuronsPerChunk);
    this.#tickets = new Int32Array(chunkCount);
    this.#scattered = new Float64Array(neuronsPerChunk);
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
    const { control, readPlan, options } = this.#seat, { flash } = options;
    const { chunkCount, flag, flagsPerChunk } = flash.staging;
    const buffer = chunk % chunkCount;
    const firstFlag = control.layout.flags + flag + buffer * flagsPerChunk;
    for (let i = 0; i < flagsPerChunk; i++) Atomics.store(control.words, firstFlag + i, 0);
    readPlan.begin("late");
    const { positionOf } = flash.layers[this.#layerOf(chunk)];
    if (positionOf) this.#addScattered(chunk, positionOf);
    else this.#addWhole(chunk);
    readPlan.finish();
    this.#tickets[buffer] = readPlan.ticketCount;
  }

  #addWhole(chunk: number): void {
    const { readPlan, options } = this.#seat, { flash, plan } = options;
    const { chunkCount, chunkByteLength, flag, flagsPerChunk } = flash.staging;
    const buffer = chunk % chunkCount, record = this.#record;
    record.byteOffset = this.#byteOffsetOf(chunk);
    record.byteLength = this.#neuronCount(this.#firstNeuronOf(chunk)) * flash.strideBytes;
    readPlan.add(record, plan.staging + buffer * chunkByteLength, flag + buffer * flagsPerChunk);
  }

  #addScattered(chunk: number, positionOf: Int32Array): void {
    const { readPlan, options } = this.#seat, { flash, plan } = options;
    const { chunkCount, chunkByteLength, flag, flagsPerChunk } = flash.staging;
    const first = this.#firstNeuronOf(chunk), count = this.#neuronCount(first);
    const buffer = chunk % chunkCount, record = this.#record;
    const reads = this.#scattered.subarray(0, count);
    for (let i = 0; i < count; i++) reads[i] = positionOf[first + i] * PLACES_MAX + i;
    reads.sort();
    const { byteOffset } = flash.layers[this.#layerOf(chunk)];
    record.byteLength = flash.strideBytes;
    for (let i = 0; i < count; i++) {
      const position = Math.floor(reads[i] / PLACES_MAX), place = reads[i] % PLACES_MAX;
      record.byteOffset = byteOffset + position * flash.strideBytes;
      const target = plan.staging + buffer * chunkByteLength + place * flash.slotByteLength;
      readPlan.add(record, target, flag + buffer * flagsPerChunk + place);
    }
  }

  #publish(chunk: number): void {
    const { passes, options, statistics } = this.#seat, { flash, plan, sizes } = options;
    const { chunkCount, chunkByteLength, flag, flagsPerChunk } = flash.staging;
    const { addresses, neurons, order, flags } = passes.arrays;
    const first = this.#firstNeuronOf(chunk), count = this.#neuronCount(first);
    const buffer = chunk % chunkCount, layer = flash.layers[this.#layerOf(chunk)];
    const { blockByteLength } = flash.readPlan;
    const staging = plan.staging + buffer * chunkByteLength;
    const phase = this.#byteOffsetOf(chunk) % blockByteLength;
    for (let i = 0; i < count; i++) {
      addresses[i] = layer.positionOf
        ? staging + i * flash.slotByteLength +
          (layer.byteOffset + layer.positionOf[first + i] * flash.strideBytes) % blockByteLength
        : staging + phase + i * flash.strideBytes;
      neurons[i] = first + i;
      order[i] = i;
      flags[i] = flag + buffer * flagsPerChunk + (layer.positionOf ? i : 0);
    }
    const isLast = first + count === sizes.intermediateSize;
    const ofLayer = this.#layerStatistics[this.#layerOf(chunk)];
    ofLayer[LAYER.listed] += count;
    ofLayer[LAYER.lateMisses] += count;
    statistics[PREDICTOR.passes]++;
    passes.publish({ count, hitCount: 0, isLast, tickets: this.#tickets[buffer] });
  }
}
