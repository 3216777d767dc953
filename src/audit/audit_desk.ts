import { activationKinds } from "../activation.ts";
import type { ActivationKinds } from "../activation.ts";
import type { AuditPlan } from "../arena.ts";
import { instantiateKernels, preparedByteLength } from "../kernels.ts";
import type { Kernels } from "../kernels.ts";
import { Expander } from "../lane/expander.ts";
import type { RowPlaces } from "../lane/expander.ts";
import type { ArenaShare, PipelineOptions } from "../pipeline/options.ts";

/** What the auditor has in one arena: kernels, the lanes' mask and activations, and lists of what is sampled. */
export class AuditDesk {
  /** Sampled records and their neurons. */
  readonly addresses: Uint32Array;
  readonly neurons: Uint32Array;
  readonly activations: Float32Array;
  /** Activations of the two sets of pass arrays. */
  readonly passActivations: Float32Array[];
  readonly plan: AuditPlan;
  readonly #options: PipelineOptions;
  readonly #kernels: Kernels;
  readonly #kinds: ActivationKinds;
  /** Where bundles are stored without their zeros. */
  readonly #expander?: Expander;
  /** The late look's answer. */
  readonly #mask: Uint32Array;
  /** The FFN's input as lane 0 prepared it. */
  readonly #prepared: number;

  constructor({ memory, plan }: ArenaShare, options: PipelineOptions) {
    const { buffer } = memory, { sizes, passNeuronsMax } = options, scratch = plan.audit!;
    this.plan = scratch;
    this.addresses = new Uint32Array(buffer, scratch.addresses, scratch.neuronsMax);
    this.neurons = new Uint32Array(buffer, scratch.neurons, scratch.neuronsMax);
    this.activations = new Float32Array(buffer, scratch.activations, scratch.neuronsMax);
    this.passActivations = plan.passes.map(({ activations }) =>
      new Float32Array(buffer, activations, passNeuronsMax)
    );
    this.#options = options;
    this.#kinds = activationKinds(sizes);
    this.#kernels = instantiateKernels(options.kernels, memory);
    if (options.isPruned) {
      this.#expander = new Expander(scratch.expansion, {
        kernels: this.#kernels,
        buffer,
        quantization: options.ffnQuantization === "q8" ? "q8" : "f16",
        hiddenSize: sizes.hiddenSize,
        entriesMax: scratch.neuronsMax,
      });
    }
    this.#mask = new Uint32Array(buffer, plan.mask, Math.ceil(sizes.intermediateSize / 32));
    this.#prepared = plan.lanes[0].prepared;
  }

  isPredicted(neuron: number): boolean {
    return (this.#mask[neuron >>> 5] & (1 << (neuron & 31))) !== 0;
  }

  /** Keeps the FFN's input for later: lanes will overwrite theirs. */
  keepInput(): void {
    const byteLength = preparedByteLength(this.#options.sizes.hiddenSize);
    this.#kernels.copy(this.plan.prepared, this.#prepared, byteLength);
  }

  /** Activations of the first `count` neurons that were sampled of a layer, from the input as it is, or as it was kept. */
  compute(layer: number, count: number, input: "present" | "kept"): void {
    const { sizes, weights, ffnQuantization, flash } = this.#options;
    const { neurons, activations, picked, prepared: kept } = this.plan;
    const prepared = input === "kept" ? kept : this.#prepared;
    const dots = this.#kernels.up[ffnQuantization], d = sizes.hiddenSize;
    const { gateBias, upBias } = weights.layers[layer], { first, second, threshold } = this.#kinds;
    const bias = second === null ? upBias : gateBias, y = activations;
    this.#eachRows({ order: 0, count, offset: 0 }, (rows, order, from, to) => {
      const { addresses, offset } = rows;
      dots(addresses, neurons, order, from, to, offset, prepared, bias, y, d, first, threshold);
    });
    if (second === null) return;
    const active = this.#kernels.pickActive(0, 0, count, y, picked), { upOffset } = flash.record;
    this.#eachRows({ order: picked, count: active, offset: upOffset }, (rows, order, from, to) => {
      const { addresses, offset } = rows;
      dots(addresses, neurons, order, from, to, offset, prepared, upBias, y, d, second, 0);
    });
  }

  /** Rows of `count` entries: all at once, or of pruned bundles as many as are expanded together. */
  #eachRows(
    { order, count, offset }: { order: number; count: number; offset: number },
    use: (rows: RowPlaces, order: number, from: number, to: number) => void,
  ): void {
    const { addresses } = this.plan, expander = this.#expander;
    if (!expander) return use({ addresses, offset }, order, 0, count);
    for (let from = 0; from < count; from += expander.plan.count) {
      const to = Math.min(count, from + expander.plan.count);
      use(expander.rows(addresses, { order, from, to }, offset, 0), order, from, to);
    }
  }
}
