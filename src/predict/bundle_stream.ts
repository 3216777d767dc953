import type { LayerFlash } from "../pipeline/options.ts";
import { isBlocked } from "../format/layout.ts";
import { NeuronOrder } from "../format/neuron_order.ts";
import { LAYER, PREDICTOR } from "../pipeline/statistics.ts";
import type { PredictorSeat } from "./predictor_seat.ts";
import type { StagingBuffer } from "./staging.ts";

/** Neurons of a chunk, at most: with a position in front it stays a whole number. */
const PLACES_MAX = 2 ** 26;

/**
 * Layers that are not resident, read whole: chunks of neighbouring bundles go to staging buffers in the layer's arena. One chunk is
 * one read; one pass has one chunk or several. Who runs the stream says where and when each is read, and when it is published.
 *
 *   chunk c: bundles from c % chunksPerLayer * neuronsPerChunk on, of layer number c / chunksPerLayer % count of those
 *
 * Where neurons lie in another order on flash, a chunk has the neurons that lie there, if the order of additions is free (q8, q4).
 * Else it has neighbouring neurons, which are read one by one (merged where they are near), each to a place of its own in the
 * staging buffer and with a flag of its own, as columns are added in neuron order.
 */
export class BundleStream {
  readonly chunksPerLayer: number;
  readonly #seat: PredictorSeat;
  /** Each layer's numbers; see `LAYER`. */
  readonly #layerStatistics: Float64Array[];
  /** Whether neurons of a chunk lie apart on flash. */
  readonly #isScattered: boolean;
  /** Where neurons lie in another order: the neuron at each position, of each layer. */
  readonly #neuronAt: (Int32Array | undefined)[];
  /** Indices of the layers that are read. */
  readonly #layers: number[];
  /** Of each chunk (a ring, longer than what is under way): where it is, and how many tickets will have landed when it has. */
  readonly #addresses: Float64Array;
  readonly #flags: Int32Array;
  readonly #tickets: Int32Array;
  /** Reads of a scattered chunk, in the order of the file: position and neuron in one number. */
  readonly #scattered: Float64Array;
  /** What is read next: reused, so that a read allocates nothing. */
  readonly #record = { byteOffset: 0, byteLength: 0 };

  constructor(seat: PredictorSeat) {
    const { flash, sizes, ffnQuantization } = seat.options;
    this.#seat = seat;
    this.#layerStatistics = flash.layers.map((_, layer) => seat.control.layerStatistics(layer));
    const { chunkCount, neuronsPerChunk } = flash.staging;
    this.chunksPerLayer = Math.ceil(sizes.intermediateSize / neuronsPerChunk);
    this.#isScattered = flash.layers.some(({ positionOf }) => positionOf !== undefined) &&
      !isBlocked(ffnQuantization);
    this.#neuronAt = flash.layers.map(({ positionOf }) =>
      positionOf && new NeuronOrder(positionOf).positionOf
    );
    this.#layers = flash.layers.flatMap(({ isResident }, layer) => isResident ? [] : [layer]);
    const ring = Math.max(chunkCount, this.chunksPerStep);
    this.#addresses = new Float64Array(ring);
    this.#flags = new Int32Array(ring);
    this.#tickets = new Int32Array(ring);
    this.#scattered = new Float64Array(neuronsPerChunk);
  }

  /** Chunks of a step. */
  get chunksPerStep(): number {
    return this.chunksPerLayer * this.#layers.length;
  }

  layerOf(chunk: number): number {
    return this.#layers[Math.floor(chunk / this.chunksPerLayer) % this.#layers.length];
  }

  /** The first chunk of a step that is of layer `layer` or of one after it. */
  firstChunkOf(layer: number): number {
    return this.chunksPerLayer * this.#layers.filter((index) => index < layer).length;
  }

  /** Begins the read of a chunk to a staging buffer that is free. */
  read(chunk: number, { address, flag }: StagingBuffer): void {
    const { control, readPlan, options } = this.#seat, { flash } = options;
    const place = chunk % this.#tickets.length, firstFlag = control.layout.flags + flag;
    this.#addresses[place] = address;
    this.#flags[place] = flag;
    for (let i = 0; i < flash.staging.flagsPerChunk; i++) {
      Atomics.store(control.words, firstFlag + i, 0);
    }
    const layer = flash.layers[this.layerOf(chunk)];
    readPlan.begin("late", layer.arena);
    if (this.#isScattered && layer.positionOf) this.#addScattered(chunk, layer);
    else this.#addWhole(chunk, layer);
    readPlan.finish();
    this.#tickets[place] = readPlan.ticketCount;
  }

  /** Hands the chunks `from` up to `to`, of one layer, to the lanes as the next pass, whose arrays must be free. */
  publish(from: number, to: number): void {
    const { passes, options, statistics } = this.#seat;
    const layerIndex = this.layerOf(from), layer = options.flash.layers[layerIndex];
    const { addresses, neurons, order, flags } = passes.arrays(layer.arena);
    const isScattered = this.#isScattered && layer.positionOf !== undefined;
    let count = 0;
    for (let chunk = from; chunk < to; chunk++) {
      const flag = this.#flagOf(chunk), inChunk = this.countOf(chunk);
      for (let i = 0; i < inChunk; i++, count++) {
        neurons[count] = this.neuronIn(chunk, i);
        addresses[count] = this.addressIn(chunk, i);
        order[count] = count;
        flags[count] = isScattered ? flag + i : flag;
      }
    }
    const isLast = to % this.chunksPerLayer === 0;
    const ofLayer = this.#layerStatistics[layerIndex];
    ofLayer[LAYER.listed] += count;
    ofLayer[LAYER.lateMisses] += count;
    statistics[PREDICTOR.passes]++;
    const tickets = this.#tickets[(to - 1) % this.#tickets.length];
    passes.publish({ count, hitCount: 0, isLast, tickets });
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
    const buffer = this.#bufferOf(chunk), first = this.#firstOf(chunk);
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
    return this.#flags[chunk % this.#flags.length];
  }

  #bufferOf(chunk: number): number {
    return this.#addresses[chunk % this.#addresses.length];
  }

  #addWhole(chunk: number, layer: LayerFlash): void {
    const { readPlan, options } = this.#seat, { strideBytes } = options.flash;
    const record = this.#record;
    record.byteOffset = layer.byteOffset + this.#firstOf(chunk) * strideBytes;
    record.byteLength = this.countOf(chunk) * strideBytes;
    readPlan.add(record, this.#bufferOf(chunk), this.#flagOf(chunk));
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
      const target = this.#bufferOf(chunk) + place * staging.placeByteLength;
      readPlan.add(record, target, this.#flagOf(chunk) + place);
    }
  }
}
