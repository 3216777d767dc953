import type { Control } from "../pipeline/control.ts";
import type { ArenaPlan } from "../arena.ts";
import type { ModelSizes, PipelineOptions } from "../pipeline/options.ts";
import { NeuronCache } from "./neuron_cache.ts";
import { makePolicy } from "./policies.ts";
import type { PolicyFactory } from "./policy.ts";
import type { ReadPlan } from "./read_plan.ts";

/** What it must know of the pipeline. */
export type SlotsOptions =
  & Pick<PipelineOptions, "flash" | "policy">
  & { plan: Pick<ArenaPlan, "slots">; sizes: Pick<ModelSizes, "intermediateSize"> };

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

  /** @param make another policy than the one that the options name */
  constructor(
    control: Control,
    options: SlotsOptions,
    readPlan: ReadPlan,
    layer: number,
    make: PolicyFactory = (shape) => makePolicy(options.policy, shape),
  ) {
    const { flash, plan, sizes } = options, neuronCount = sizes.intermediateSize;
    const { byteOffset, slotCount, flag } = flash.layers[layer];
    const range = { count: slotCount, flagWord: control.layout.flags + flag };
    const policy = make({ slotCount, neuronCount });
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

  /** Address of the neuron's record in its slot. In a resident layer neurons lie side by side, as in the file. */
  addressOf(neuron: number, slot: number): number {
    const phase = (this.#byteOffset + neuron * this.#strideBytes) % this.#blockByteLength;
    return this.#address + slot * this.#slotByteLength + phase;
  }
}
