import { activationKinds } from "../activation.ts";
import type { ActivationKinds } from "../activation.ts";
import type { AuditPlan } from "../arena.ts";
import { bundleKernels, instantiateKernels, preparedByteLength } from "../kernels.ts";
import type { Kernels } from "../kernels.ts";
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
    const { sizes, weights, flash } = this.#options;
    const { addresses, neurons, activations, picked, prepared: kept } = this.plan;
    const prepared = input === "kept" ? kept : this.#prepared;
    const dots = bundleKernels(this.#kernels, this.#options).up, d = sizes.hiddenSize;
    const { gateBias, upBias } = weights.layers[layer], { first, second, threshold } = this.#kinds;
    const bias = second === null ? upBias : gateBias, y = activations;
    dots(addresses, neurons, 0, 0, count, 0, prepared, bias, y, d, first, threshold);
    if (second === null) return;
    const active = this.#kernels.pickActive(0, 0, count, y, picked), { upOffset } = flash.record;
    dots(addresses, neurons, picked, 0, active, upOffset, prepared, upBias, y, d, second, 0);
  }
}
