import type { LayerSlots } from "../cache/layer_slots.ts";
import { PASS_COUNT, passIndex } from "../pipeline/control.ts";
import { BundleStream } from "./bundle_stream.ts";
import { LentPools } from "./lent_pools.ts";
import type { PredictorSeat } from "./predictor_seat.ts";
import { ResidentPasses } from "./resident_passes.ts";
import { stagingBuffers } from "./staging.ts";
import type { StagingBuffer } from "./staging.ts";
import { WarmLayer } from "./warm_layer.ts";

/** Tickets under way, at most: more do not make a disk faster. */
const TICKETS_MAX = 32;
/** Shorter steps leave some of what layers had in their slots unnamed, and do not bring it back: they borrow none. */
const LENDING_POSITIONS = 32;

/** Chunks whose reads share buffers, which they take in turns. */
interface Stretch {
  from: number;
  to: number;
  buffers: StagingBuffer[];
  /** Whose slots the buffers are. */
  lent?: LentPools;
}

/**
 * A step of many positions: together they name most neurons of a layer, so each layer is read whole, in the order of the
 * file, as far ahead of the lanes as there are buffers; lanes skip what a position did not name. What the last positions used most
 * stays: it is copied from the staging buffers to the layer's slots, so that the tokens that follow find a warm cache. Layers that
 * are resident are not read: their passes come in between.
 *
 *   chunk  0 ...          kept ...           published ...     issued ...         total
 *          copied, free   lanes are with it  being read        waits for buffers
 */
export class PromptStream {
  readonly #seat: PredictorSeat;
  readonly #stream: BundleStream;
  readonly #resident: ResidentPasses;
  readonly #layers: LayerSlots[];
  readonly #warm: WarmLayer;
  /** Of each arena. */
  readonly #own: StagingBuffer[][];
  readonly #pools: LentPools[];
  #stretches: Stretch[] = [];
  #step = 0;
  #positions = 0;
  /** Chunks read (or being read), handed to the lanes, and done with. */
  #issued = 0;
  #published = 0;
  #kept = 0;
  /** The layer whose passes go out, and how many have if it is resident. */
  #layer = 0;
  #residentPasses = 0;
  /** The first pass whose chunks are not kept yet, and where the chunks of those under way end. */
  #pass = 0;
  readonly #ends = new Int32Array(PASS_COUNT);

  constructor(seat: PredictorSeat, layers: LayerSlots[]) {
    this.#seat = seat;
    this.#stream = new BundleStream(seat);
    this.#resident = new ResidentPasses(seat);
    this.#layers = layers;
    this.#warm = new WarmLayer(seat);
    const { arenas } = seat.options;
    this.#own = arenas.map((_, arena) => stagingBuffers(seat.options, arena));
    this.#pools = arenas.map((_, arena) =>
      new LentPools(seat, layers.filter((slots) => slots.arena === arena && !slots.isResident))
    );
  }

  /** Runs a step of `positions`, the first of which is number `step` of all. */
  run(step: number, positions: number): void {
    const { passes, readPlan } = this.#seat, total = this.#stream.chunksPerStep;
    this.#step = step;
    this.#positions = positions;
    this.#stretches = this.#divide(positions);
    this.#issued = this.#published = this.#kept = 0;
    this.#layer = this.#residentPasses = 0;
    this.#pass = passes.number;
    while (this.#layer < this.#layers.length || this.#pass !== passes.number) {
      this.#keepDone();
      this.#read(total);
      readPlan.ring();
      if (this.#publish()) continue;
      if (readPlan.underWay > 0) readPlan.awaitLanding();
      else if (this.#pass !== passes.number) passes.awaitDone(this.#pass);
    }
  }

  /** The chunks of each arena: those of the layers that lend have its own buffers, those before them have the lent ones. */
  #divide(positions: number): Stretch[] {
    const stream = this.#stream;
    return this.#own.flatMap((own, arena) => {
      const { range } = this.#seat.options.arenas[arena].plan, lent = this.#pools[arena];
      const from = stream.firstChunkOf(range.from), to = stream.firstChunkOf(range.to);
      if (positions < LENDING_POSITIONS || !lent.lend(own.length)) {
        return [{ from, to, buffers: own }];
      }
      const middle = stream.firstChunkOf(lent.firstLayer);
      return [
        { from, to: middle, buffers: lent.buffers, lent },
        { from: middle, to, buffers: own },
      ];
    });
  }

  #stretchOf(chunk: number): Stretch {
    let i = 0;
    while (chunk >= this.#stretches[i].to) i++;
    return this.#stretches[i];
  }

  /** Takes what is worth keeping out of the chunks that all lanes are through with; their buffers are free then. */
  #keepDone(): void {
    const { done } = this.#seat.passes;
    while (this.#pass !== this.#seat.passes.number && ((done - this.#pass) | 0) >= 0) {
      const end = this.#ends[passIndex(this.#pass)];
      for (; this.#kept < end; this.#kept++) this.#keep(this.#kept);
      this.#pass = (this.#pass + 1) | 0;
    }
  }

  #keep(chunk: number): void {
    const stream = this.#stream, place = chunk % stream.chunksPerLayer;
    const slots = this.#layers[stream.layerOf(chunk)], warm = this.#warm;
    if (place === 0) warm.choose(slots, this.#step, this.#positions);
    const count = stream.countOf(chunk);
    for (let i = 0; i < count; i++) {
      const neuron = stream.neuronIn(chunk, i);
      if (warm.wants(neuron)) warm.keep(neuron, stream.addressIn(chunk, i));
    }
    if (place === stream.chunksPerLayer - 1) warm.finish();
    const { to, lent } = this.#stretchOf(chunk);
    if (chunk === to - 1) lent?.giveBack();
  }

  /** Begins reads, as far as buffers are free. */
  #read(total: number): void {
    const { readPlan } = this.#seat;
    for (; this.#issued < total && readPlan.underWay < TICKETS_MAX; this.#issued++) {
      const { from, buffers } = this.#stretchOf(this.#issued), at = this.#issued - from;
      if (at >= buffers.length && this.#kept <= this.#issued - buffers.length) return;
      this.#stream.read(this.#issued, buffers[at % buffers.length]);
    }
  }

  /** Hands the next pass to the lanes; false if its chunks are not being read yet, or there is no room for it. */
  #publish(): boolean {
    const { passes } = this.#seat, from = this.#published;
    if (((passes.number - this.#pass) | 0) >= PASS_COUNT) return false;
    if (this.#layers[this.#layer]?.isResident) return this.#publishResident();
    if (from >= this.#issued) return false;
    const to = this.#passEnd(from);
    if (to > this.#issued) return false;
    this.#ends[passIndex(passes.number)] = to;
    this.#stream.publish(from, to);
    this.#published = to;
    if (to % this.#stream.chunksPerLayer === 0) this.#layer++;
    return true;
  }

  #publishResident(): boolean {
    const { passes } = this.#seat, resident = this.#resident;
    this.#ends[passIndex(passes.number)] = this.#published;
    resident.publish(this.#layers[this.#layer], this.#residentPasses++);
    if (this.#residentPasses === resident.passesPerLayer) {
      this.#layer++;
      this.#residentPasses = 0;
    }
    return true;
  }

  /** As many neurons as a pass may have, of one layer, and so few that the next chunks can be read meanwhile. */
  #passEnd(from: number): number {
    const { batchPassNeuronsMax, flash } = this.#seat.options, { chunksPerLayer } = this.#stream;
    const most = Math.floor(batchPassNeuronsMax / flash.staging.neuronsPerChunk);
    const count = Math.min(most, Math.ceil(this.#stretchOf(from).buffers.length / 3));
    return Math.min(from + count, (Math.floor(from / chunksPerLayer) + 1) * chunksPerLayer);
  }
}
