import type { Control } from "../pipeline/control.ts";
import type { PipelineOptions } from "../pipeline/options.ts";
import { NeuronCache } from "./neuron_cache.ts";
import { makePolicy } from "./policies.ts";
import type { ReadPlan } from "./read_plan.ts";

/**
 * One layer's neurons: which are in its slots (`cache`), where a slot's bytes lie, and where they come from. A slot takes
 * whole blocks of the disk, so a record lies in it at the offset that it has in its first block:
 *
 *   flash | ...      |record        |      |          slot |....|record        |...|
 *         | block    | block    | block    |               | block    | block      |
 */
export class LayerSlots {
  readonly layer: number;
  readonly cache: NeuronCache;
  /** Landing flag of slot 0, counted from the first flag. */
  readonly flag: number;
  readonly #readPlan: ReadPlan;
  readonly #address: number;
  readonly #slotByteLength: number;
  /** The first record in the file, and from record to record. */
  readonly #byteOffset: number;
  readonly #strideBytes: number;
  readonly #blockByteLength: number;
  /** What is read next: reused, so that a read allocates nothing. */
  readonly #record: { byteOffset: number; byteLength: number };

  constructor(control: Control, options: PipelineOptions, readPlan: ReadPlan, layer: number) {
    const { flash, plan, sizes } = options, neuronCount = sizes.intermediateSize;
    const { byteOffset, slotCount, flag } = flash.layers[layer];
    const range = { count: slotCount, flagWord: control.layout.flags + flag };
    const policy = makePolicy(options.policy, { slotCount, neuronCount });
    this.layer = layer;
    this.cache = new NeuronCache(neuronCount, range, policy, control.words);
    if (flash.isResident) this.cache.fillCompletely();
    this.flag = flag;
    this.#readPlan = readPlan;
    this.#address = plan.slots[layer];
    this.#slotByteLength = flash.slotByteLength;
    this.#byteOffset = byteOffset + flash.record.offset;
    this.#strideBytes = flash.strideBytes;
    this.#blockByteLength = flash.readPlan.blockByteLength;
    this.#record = { byteOffset: 0, byteLength: flash.record.byteLength };
  }

  /** Adds the neuron's record to the read plan's batch. */
  read(neuron: number, slot: number): void {
    this.#record.byteOffset = this.#byteOffset + neuron * this.#strideBytes;
    const address = this.#address + slot * this.#slotByteLength;
    this.#readPlan.add(this.#record, address, this.flag + slot);
  }

  /** Adds one read of the bundles of `count` neurons that lie side by side, to a block-aligned `target` of its own. */
  readRun(run: { first: number; count: number }, target: number, flag: number): void {
    const record = {
      byteOffset: this.#byteOffset + run.first * this.#strideBytes,
      byteLength: run.count * this.#strideBytes,
    };
    this.#readPlan.add(record, target, flag);
  }

  /** Address of the record that lies `place` behind the `first` of a run that was read to `target`. */
  addressInRun(first: number, place: number, target: number): number {
    const phase = (this.#byteOffset + first * this.#strideBytes) % this.#blockByteLength;
    return target + phase + place * this.#strideBytes;
  }

  /** Address of the neuron's record in its slot. In a resident layer neurons lie side by side, as in the file. */
  addressOf(neuron: number, slot: number): number {
    const phase = (this.#byteOffset + neuron * this.#strideBytes) % this.#blockByteLength;
    return this.#address + slot * this.#slotByteLength + phase;
  }
}
