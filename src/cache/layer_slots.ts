import type { Control } from "../pipeline/control.ts";
import { NeuronOrder } from "../format/neuron_order.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { PipelineOptions } from "../pipeline/options.ts";
import { NeuronCache } from "./neuron_cache.ts";
import { makePolicy } from "./policies.ts";
import type { PolicyFactory } from "./policy.ts";
import type { ReadPlan } from "./read_plan.ts";

/** Slots of a layer, at most: with a position in front it stays a whole number. */
const SLOTS_MAX = 2 ** 26;

/** What it must know of the pipeline. */
export type SlotsOptions =
  & Pick<PipelineOptions, "flash" | "policy">
  & {
    arenas: { memory: { buffer: ArrayBufferLike } }[];
    sizes: Pick<ModelConfig, "intermediateSize">;
  };

/**
 * One layer's neurons: which are in its slots (`cache`), where a slot's bytes lie, and where they come from. A slot takes
 * whole blocks of the disk, so a record lies in it at the offset that it has in its first block:
 *
 *   flash | ...      |record        |      |          slot |....|record        |...|
 *         | block    | block    | block    |               | block    | block      |
 */
export class LayerSlots {
  readonly layer: number;
  /** Index of the arena that its slots lie in. */
  readonly arena: number;
  readonly cache: NeuronCache;
  /** All of the layer's neurons lie in their slots from the start. */
  readonly isResident: boolean;
  /** Landing flag of slot 0, counted from the first flag. */
  readonly flag: number;
  /** Where slot 0 lies in the arena. */
  readonly address: number;
  /** The layer's numbers; see `LAYER`. */
  readonly statistics: Float64Array;
  readonly #readPlan: ReadPlan;
  /** More than 1 if records are read in pieces. */
  readonly ticketsPerRead: number;
  /** All of its arena. */
  readonly #bytes: Uint8Array;
  readonly #slotByteLength: number;
  /** The first record in the file, and from record to record. */
  readonly #byteOffset: number;
  readonly #strideBytes: number;
  readonly #blockByteLength: number;
  /** Of the first record in its block, and from record to record. */
  readonly #firstPhase: number;
  readonly #stridePhase: number;
  /** Where each neuron's record lies among those of the layer, if that is not the order of the neurons. */
  readonly #positionOf?: Int32Array;
  readonly #neuronAt?: Int32Array;
  /** Reads that wait for their turn in the order of the file: position and slot in one number. */
  readonly #waiting: Float64Array;
  #waitingCount = 0;
  /** What is read next: reused, so that a read allocates nothing. */
  readonly #record: { byteOffset: number; byteLength: number };

  /** @param make another policy than the one that the options name */
  constructor(
    control: Control,
    options: SlotsOptions,
    readPlan: ReadPlan,
    layer: number,
    make: PolicyFactory = (shape) => makePolicy(options.policy, shape),
  ) {
    const { flash, sizes } = options, neuronCount = sizes.intermediateSize;
    const { arena, slots, byteOffset, slotCount, isResident, flag, positionOf } =
      flash.layers[layer];
    const range = { count: slotCount, flagWord: control.layout.flags + flag };
    const policy = make({ slotCount, neuronCount });
    this.layer = layer;
    this.arena = arena;
    this.cache = new NeuronCache(neuronCount, range, policy, control.words);
    this.isResident = isResident;
    if (isResident) this.cache.fillCompletely();
    this.flag = flag;
    this.statistics = control.layerStatistics(layer);
    this.#readPlan = readPlan;
    this.ticketsPerRead = flash.readsPerRecord;
    this.#bytes = new Uint8Array(options.arenas[arena].memory.buffer);
    this.address = slots;
    this.#slotByteLength = flash.slotByteLength;
    this.#byteOffset = byteOffset + flash.record.offset;
    this.#strideBytes = flash.strideBytes;
    this.#blockByteLength = flash.readPlan.blockByteLength;
    this.#firstPhase = this.#byteOffset % this.#blockByteLength;
    this.#stridePhase = this.#strideBytes % this.#blockByteLength;
    this.#positionOf = positionOf;
    if (positionOf) this.#neuronAt = new NeuronOrder(positionOf).positionOf;
    this.#waiting = new Float64Array(positionOf ? slotCount : 0);
    this.#record = { byteOffset: 0, byteLength: flash.record.byteLength };
  }

  /** Adds the neuron's record to the read plan's batch, neuron after neuron; `finishReads` ends the batch. */
  read(neuron: number, slot: number): void {
    if (this.#positionOf === undefined) return this.#readPosition(neuron, slot);
    this.#waiting[this.#waitingCount++] = this.#positionOf[neuron] * SLOTS_MAX + slot;
  }

  /** Hands the batch over: in the order of the file, as the read plan merges neighbours. */
  finishReads(): void {
    if (this.#waitingCount > 0) {
      const waiting = this.#waiting.subarray(0, this.#waitingCount).sort();
      for (let i = 0; i < waiting.length; i++) {
        const position = Math.floor(waiting[i] / SLOTS_MAX);
        this.#readPosition(position, waiting[i] - position * SLOTS_MAX);
      }
      this.#waitingCount = 0;
    }
    this.#readPlan.finish();
  }

  #readPosition(position: number, slot: number): void {
    this.#record.byteOffset = this.#byteOffset + position * this.#strideBytes;
    const address = this.address + slot * this.#slotByteLength;
    const flag = this.flag + slot, pieces = this.ticketsPerRead;
    if (pieces > 1) this.#readPlan.addPieces(this.#record, address, flag, pieces);
    else this.#readPlan.add(this.#record, address, flag);
  }

  /** Copies the neuron's record from `address` of the arena to its slot. */
  fill(neuron: number, slot: number, address: number, byteLength: number): void {
    const target = this.addressOf(neuron, slot);
    this.#bytes.copyWithin(target, address, address + byteLength);
    this.cache.land(slot);
  }

  /** Adds one read of `count` bundles that lie side by side, to a block-aligned `target` of its own. */
  readRun(run: { first: number; count: number }, target: number, flag: number): void {
    const record = {
      byteOffset: this.#byteOffset + run.first * this.#strideBytes,
      byteLength: run.count * this.#strideBytes,
    };
    this.#readPlan.add(record, target, flag);
  }

  /** The neuron whose record lies at `position`. */
  neuronAt(position: number): number {
    return this.#neuronAt === undefined ? position : this.#neuronAt[position];
  }

  /** Address of the neuron's record in a run that was read to `target` from position `first` on. */
  addressInRun(first: number, neuron: number, target: number): number {
    return target + this.#phaseOf(first) + (this.#at(neuron) - first) * this.#strideBytes;
  }

  /** Address of the neuron's record in its slot. In a resident layer every neuron has the slot of its number. */
  addressOf(neuron: number, slot: number): number {
    return this.address + slot * this.#slotByteLength + this.#phaseOf(this.#at(neuron));
  }

  /** Where the record at `position` begins in its first block. Of small numbers: remainders of large ones take long. */
  #phaseOf(position: number): number {
    return (this.#firstPhase + position * this.#stridePhase) % this.#blockByteLength;
  }

  #at(neuron: number): number {
    return this.#positionOf === undefined ? neuron : this.#positionOf[neuron];
  }
}
