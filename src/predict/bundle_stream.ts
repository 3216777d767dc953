import type { LayerFlash } from "../pipeline/options.ts";
import { isBlocked } from "../format/layout.ts";
import { NeuronOrder } from "../format/neuron_order.ts";
import { LAYER, PREDICTOR } from "../pipeline/statistics.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/** Neurons of a chunk, at most: with a position in front it stays a whole number. */
const PLACES_MAX = 2 ** 26;

/**
 * Layers that are not resident read whole: chunks of neighbouring bundles go to the staging buffers of the layer's arena. One chunk is one read and
 * one pass; who runs the stream says which chunk is read and published when.
 *
 *   chunk c: bundles from c % chunksPerLayer * neuronsPerChunk on,
 *            of the layer number c / chunksPerLayer % count among the `count` layers that are not resident,
 *            in staging buffer c % chunkCount, behind landing flag staging.flag + c % chunkCount
 *
 * Where neurons lie in another order on flash, a chunk has the neurons that lie there, if the order of additions is free (q8, q4).
 * Else it has neighbouring neurons, which are read one by one (merged where they are near), each to a place of its own in the
 * staging buffer and with a flag of its own, as columns are added in neuron order.
 */
export class BundleStream {
  readonly chunksPerLayer: number;
  /** Staging buffers. */
  readonly bufferCount: number;
  readonly #seat: PredictorSeat;
  /** Each layer's numbers; see `LAYER`. */
  readonly #layerStatistics: Float64Array[];
  /** Whether neurons of a chunk lie apart on flash. */
  readonly #isScattered: boolean;
  /** Where neurons lie in another order: the neuron at each position, of each layer. */
  readonly #neuronAt: (Int32Array | undefined)[];
  /** Indices of the layers that are read. */
  readonly #layers: number[];
  /** Of each staging buffer: how many tickets will have landed when its chunk has, and the pass that its chunk is. */
  readonly #tickets: Int32Array;
  readonly #passes: Int32Array;
  /** Reads of a scattered chunk, in the order of the file: position and neuron in one number. */
  readonly #scattered: Float64Array;
  /** What is read next: reused, so that a read allocates nothing. */
  readonly #record = { byteOffset: 0, byteLength: 0 };

  constructor(seat: PredictorSeat) {
    const { flash, sizes, ffnQuantization } = seat.options;
    this.#seat = seat;
    this.#layerStatistics = flash.layers.map((_, layer) => seat.control.layerStatistics(layer));
    const { chunkCount, neuronsPerChunk } = flash.staging;
    this.bufferCount = chunkCount;
    this.chunksPerLayer = Math.ceil(sizes.intermediateSize / neuronsPerChunk);
    this.#isScattered = flash.layers.some(({ positionOf }) => positionOf !== undefined) &&
      !isBlocked(ffnQuantization);
    this.#neuronAt = flash.layers.map(({ positionOf }) =>
      positionOf && new NeuronOrder(positionOf).positionOf
    );
    this.#layers = flash.layers.flatMap(({ isResident }, layer) => isResident ? [] : [layer]);
    this.#tickets = new Int32Array(chunkCount);
    this.#passes = new Int32Array(chunkCount);
    this.#scattered = new Float64Array(neuronsPerChunk);
  }

  /** Chunks of a step. */
  get chunksPerStep(): number {
    return this.chunksPerLayer * this.#layers.length;
  }

  layerOf(chunk: number): number {
    return this.#layers[Math.floor(chunk / this.chunksPerLayer) % this.#layers.length];
  }

  /** Begins the read of a chunk; its staging buffer must be free. */
  read(chunk: number): void {
    const { control, readPlan, options } = this.#seat, { flash } = options;
    const firstFlag = control.layout.flags + this.#flagOf(chunk);
    for (let i = 0; i < flash.staging.flagsPerChunk; i++) {
      Atomics.store(control.words, firstFlag + i, 0);
    }
    const layer = flash.layers[this.layerOf(chunk)];
    readPlan.begin("late", layer.arena);
    if (this.#isScattered && layer.positionOf) this.#addScattered(chunk, layer);
    else this.#addWhole(chunk, layer);
    readPlan.finish();
    this.#tickets[chunk % this.bufferCount] = readPlan.ticketCount;
  }

  /** Hands the chunk to the lanes as the next pass, whose arrays must be free. */
  publish(chunk: number): void {
    const { passes, options, statistics } = this.#seat;
    const layerIndex = this.layerOf(chunk), layer = options.flash.layers[layerIndex];
    const { addresses, neurons, order, flags } = passes.arrays(layer.arena);
    const first = this.#firstOf(chunk), count = this.countOf(chunk), flag = this.#flagOf(chunk);
    const isScattered = this.#isScattered && layer.positionOf !== undefined;
    for (let i = 0; i < count; i++) {
      neurons[i] = this.neuronIn(chunk, i);
      addresses[i] = this.addressIn(chunk, i);
      order[i] = i;
      flags[i] = isScattered ? flag + i : flag;
    }
    const isLast = first + count === options.sizes.intermediateSize;
    const ofLayer = this.#layerStatistics[layerIndex];
    ofLayer[LAYER.listed] += count;
    ofLayer[LAYER.lateMisses] += count;
    statistics[PREDICTOR.passes]++;
    const tickets = this.#tickets[chunk % this.bufferCount];
    this.#passes[chunk % this.bufferCount] = passes.number;
    passes.publish({ count, hitCount: 0, isLast, tickets });
  }

  /** Whether lanes are done with a chunk that was published, so that its staging buffer is free. */
  isDone(chunk: number): boolean {
    return ((this.#seat.passes.done - this.#passes[chunk % this.bufferCount]) | 0) >= 0;
  }

  /** Neurons of a chunk: the last of a layer may be shorter. */
  countOf(chunk: number): number {
    const { flash, sizes } = this.#seat.options;
    return Math.min(flash.staging.neuronsPerChunk, sizes.intermediateSize - this.#firstOf(chunk));
  }

  /** The neuron at place `i` of a chunk. */
  neuronIn(chunk: number, i: number): number {
    const at = this.#firstOf(chunk) + i;
    if (this.#isScattered) return at;
    return this.#neuronAt[this.layerOf(chunk)]?.[at] ?? at;
  }

  /** Address of its record, in the arena of its layer. */
  addressIn(chunk: number, i: number): number {
    const { flash } = this.#seat.options, layer = flash.layers[this.layerOf(chunk)];
    const { blockByteLength } = flash.readPlan, { offset } = flash.record;
    const buffer = this.#bufferAt(chunk, layer), first = this.#firstOf(chunk);
    if (this.#isScattered && layer.positionOf) {
      const at = layer.byteOffset + layer.positionOf[first + i] * flash.strideBytes;
      return buffer + i * flash.staging.placeByteLength + at % blockByteLength + offset;
    }
    const phase = (layer.byteOffset + first * flash.strideBytes) % blockByteLength;
    return buffer + phase + i * flash.strideBytes + offset;
  }

  #firstOf(chunk: number): number {
    return (chunk % this.chunksPerLayer) * this.#seat.options.flash.staging.neuronsPerChunk;
  }

  #flagOf(chunk: number): number {
    const { flag, flagsPerChunk } = this.#seat.options.flash.staging;
    return flag + (chunk % this.bufferCount) * flagsPerChunk;
  }

  #bufferAt(chunk: number, { arena }: LayerFlash): number {
    const { arenas, flash } = this.#seat.options;
    return arenas[arena].plan.staging + (chunk % this.bufferCount) * flash.staging.chunkByteLength;
  }

  #addWhole(chunk: number, layer: LayerFlash): void {
    const { readPlan, options } = this.#seat, { strideBytes } = options.flash;
    const record = this.#record;
    record.byteOffset = layer.byteOffset + this.#firstOf(chunk) * strideBytes;
    record.byteLength = this.countOf(chunk) * strideBytes;
    readPlan.add(record, this.#bufferAt(chunk, layer), this.#flagOf(chunk));
  }

  #addScattered(chunk: number, layer: LayerFlash): void {
    const { readPlan, options } = this.#seat, { strideBytes, staging } = options.flash;
    const first = this.#firstOf(chunk), count = this.countOf(chunk), record = this.#record;
    const reads = this.#scattered.subarray(0, count);
    for (let i = 0; i < count; i++) reads[i] = layer.positionOf![first + i] * PLACES_MAX + i;
    reads.sort();
    record.byteLength = strideBytes;
    for (let i = 0; i < count; i++) {
      const position = Math.floor(reads[i] / PLACES_MAX), place = reads[i] % PLACES_MAX;
      record.byteOffset = layer.byteOffset + position * strideBytes;
      const target = this.#bufferAt(chunk, layer) + place * staging.placeByteLength;
      readPlan.add(record, target, this.#flagOf(chunk) + place);
    }
  }
}
