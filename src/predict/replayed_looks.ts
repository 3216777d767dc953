import type { ModelConfig } from "../../models/config.ts";
import { activationKinds, isSparse } from "../activation.ts";
import type { ActivationKinds } from "../activation.ts";
import type { FlashFile } from "../format/flash_file.ts";
import { bundleFormOf, rankMaxOf } from "../format/header.ts";
import type { StoredTensor } from "../format/header.ts";
import { matrixByteLength, vectorByteLength } from "../format/layout.ts";
import { tileRows } from "../format/quantize.ts";
import { takeVectors } from "../format/sparse_vectors.ts";
import {
  ACTIVATION,
  instantiateKernels,
  loadKernelModule,
  preparedByteLength,
  STATICS_BYTE_LENGTH,
} from "../kernels.ts";
import type { KernelBuild, Kernels } from "../kernels.ts";
import type { Observation } from "../pipeline/client.ts";
import { applyNorm } from "../norm.ts";
import { recallShifts } from "./recall_shift.ts";
import { locatePredictor, look } from "./layer_predictor.ts";
import type { LayerPredictor } from "./layer_predictor.ts";
import type { LookScratch } from "./low_rank_look.ts";
import { routerAt } from "./router_look.ts";
import { createSharedMemory } from "../shared_memory.ts";

/** Bundles read at a time, in bytes. */
const RUN_BYTES = 1 << 22;

export interface ReplayedLooksOptions {
  build?: KernelBuild;
  /** As in `open`: moves the thresholds. */
  recall?: number;
  /** Of each layer: the magnitude below which an activation (with a gate: the gate's) is taken as zero, as in `magnitude`. */
  cuts?: readonly number[];
  /** If the up projections of all layers take more than this, one is held at a time. */
  heldBytesMax?: number;
}

/** Addresses of one layer in the memory of its own. */
interface LayerAddresses {
  /** Rows of gates, or without them of the up projection; and up rows behind gates. */
  first: number;
  firstBias: number;
  second: number;
  secondBias: number;
  normWeight: number;
  normBias: number;
  predictor?: LayerPredictor;
}

/** Rows [from, to). */
interface RowRange {
  from: number;
  to: number;
}

/**
 * Looks again at what a layer saw, with the very kernels of the engine, so that it names the sets that the engine
 * computed. Holds all up projections in memory of its own; or one, which is then read anew for each exact look at
 * another layer. The arrays hold the answers of the last look.
 *
 * With experts the looks are the router's, and active neurons are among those that it chooses.
 */
export class ReplayedLooks {
  /** Whether the file has predictors or routers; else only the active neurons are known. */
  readonly hasPredictors: boolean;
  /** Whether all up projections stay in memory. */
  readonly isHeld: boolean;
  /** f32[n]: what down columns are multiplied by; with experts before they are weighed, and unknown where hardly any is zero. */
  readonly activations: Float32Array;
  /**
   * u32[n / 32] each: activation not zero; of those and others, what `exact` reads: gate not zero; named by the late look; named by
   * the early look.
   */
  readonly active: Uint32Array;
  readonly gates: Uint32Array;
  readonly predicted: Uint32Array;
  readonly early: Uint32Array;
  readonly #file: FlashFile;
  readonly #bytes: Uint8Array;
  /** The layer whose up projection is there, if they take turns. */
  #upLayer = -1;
  readonly #kernels: Kernels;
  readonly #addresses: LayerAddresses[];
  readonly #sizes: { d: number; n: number };
  readonly #config: ModelConfig;
  readonly #kinds: ActivationKinds;
  readonly #cuts?: readonly number[];
  /** Matrices of a layer that tell its activations; none of experts whose activations are hardly ever zero. */
  readonly #matrixCount: number;
  readonly #ffnQuantization: FlashFile["header"]["ffnQuantization"];
  readonly #input: Float32Array;
  readonly #scratch: LookScratch & {
    input: number;
    normed: number;
    activations: number;
    active: number;
    gates: number;
    predicted: number;
    early: number;
  };

  /**
   * Reads what it needs from the file; goes on doing so if up projections take turns. Throws `RangeError` if its
   * predictors cannot have this `recall`.
   */
  constructor(
    file: FlashFile,
    { build, recall, cuts, heldBytesMax = Infinity }: ReplayedLooksOptions = {},
  ) {
    const { header } = file, { predictors, config, ffnQuantization } = header;
    const shifts = predictors && recallShifts(predictors, recall, file.path);
    const { hiddenSize: d, intermediateSize: n, numLayers, experts } = config;
    this.#matrixCount = experts && !isSparse(config) ? 0 : config.ffn.isGated ? 2 : 1;
    const upBytes = this.#matrixCount * matrixByteLength(ffnQuantization, n, d);
    this.hasPredictors = predictors !== null || experts !== null;
    this.isHeld = numLayers * upBytes <= heldBytesMax;
    this.#file = file;
    this.#sizes = { d, n };
    this.#config = config;
    this.#kinds = activationKinds(config);
    this.#cuts = cuts;
    this.#ffnQuantization = ffnQuantization;
    let next = STATICS_BYTE_LENGTH;
    const take = (byteLength: number) => {
      const at = next;
      next = Math.ceil((at + byteLength) / 64) * 64;
      return at;
    };
    const predictorTensors: { tensor: StoredTensor; address: number }[] = [];
    const takeTensor = (tensor: StoredTensor) => {
      const address = take(tensor.byteLength);
      predictorTensors.push({ tensor, address });
      return address;
    };
    const rankMax = Math.max(32, rankMaxOf(predictors), experts?.perToken ?? 0);
    const maskBytes = 4 * Math.ceil(n / 32);
    this.#scratch = {
      input: take(4 * d),
      normed: take(4 * d),
      prepared: take(preparedByteLength(d)),
      lowRank: take(4 * rankMax),
      lowRankPrepared: take(preparedByteLength(rankMax)),
      activations: take(4 * n),
      scores: take(4 * n),
      active: take(maskBytes),
      gates: take(maskBytes),
      predicted: take(maskBytes),
      early: take(maskBytes),
    };
    const sharedUp = this.isHeld ? 0 : take(upBytes);
    this.#addresses = header.layers.map((_, index) => {
      const layer = predictors?.layers[index];
      const first = this.isHeld ? take(upBytes) : sharedUp;
      return {
        first,
        firstBias: take(4 * n),
        second: first + upBytes / 2,
        secondBias: take(4 * n),
        normWeight: take(4 * d),
        normBias: take(4 * d),
        predictor: layer
          ? locatePredictor(layer, takeTensor)
          : experts
          ? this.#routerOf(takeTensor(file.tensor(`layers.${index}.ffn.router.weight`)))
          : undefined,
      };
    });
    const memory = createSharedMemory(next);
    this.#kernels = instantiateKernels(loadKernelModule(build), memory);
    this.#bytes = new Uint8Array(memory.buffer);
    for (const { tensor, address } of predictorTensors) {
      this.#bytes.set(file.readRange(tensor), address);
    }
    for (let layer = 0; layer < numLayers; layer++) {
      this.#loadVectors(layer);
      if (shifts) this.#shift(memory, layer, shifts[layer]);
      if (this.isHeld) this.#loadUp(layer);
    }
    const { input, activations, active, gates, predicted, early } = this.#scratch;
    const mask = (address: number) => new Uint32Array(memory.buffer, address, maskBytes / 4);
    this.#input = new Float32Array(memory.buffer, input, d);
    this.activations = new Float32Array(memory.buffer, activations, n);
    this.active = mask(active);
    this.gates = mask(gates);
    this.predicted = mask(predicted);
    this.early = mask(early);
  }

  #routerOf(weight: number): LayerPredictor {
    return { kind: "router", ...routerAt(this.#file.header, weight)! };
  }

  /** Adds what the wished recall asks for to both biases, as the engine does. */
  #shift(memory: WebAssembly.Memory, layer: number, shift: number): void {
    const predictor = this.#predictorOf(layer);
    if (predictor.kind === "router") return;
    for (const address of [predictor.bias, predictor.earlyBias]) {
      const biases = new Float32Array(memory.buffer, address, this.#sizes.n);
      for (let neuron = 0; neuron < biases.length; neuron++) biases[neuron] += shift;
    }
  }

  /** Up rows of the layer's bundles as tiles, in the model's order. */
  #loadUp(layer: number): void {
    if (this.#matrixCount === 0) return;
    const file = this.#file, { d, n } = this.#sizes;
    const form = bundleFormOf(file.header);
    const rowBytes = vectorByteLength(this.#ffnQuantization, d);
    const rows = new Uint8Array(n * rowBytes);
    let runRows = new Uint8Array(0);
    const tiles = new Uint8Array(matrixByteLength(this.#ffnQuantization, n, d));
    const { first, second } = this.#addresses[layer];
    for (let matrix = 0; matrix < this.#matrixCount; matrix++) {
      file.eachBundleRun(layer, RUN_BYTES, (run, neurons) => {
        const count = neurons.length;
        if (runRows.length < count * rowBytes) runRows = new Uint8Array(count * rowBytes);
        takeVectors(form, run, { vector: matrix, count }, runRows);
        neurons.forEach((neuron, i) => {
          rows.set(runRows.subarray(i * rowBytes, (i + 1) * rowBytes), neuron * rowBytes);
        });
      });
      tileRows(this.#ffnQuantization, rows, { rows: n, cols: d }, tiles);
      this.#bytes.set(tiles, matrix === 0 ? first : second);
    }
    this.#upLayer = layer;
  }

  /** All else that is needed of a layer, but its predictor. */
  #loadVectors(layer: number): void {
    const file = this.#file, bytes = this.#bytes, at = this.#addresses[layer];
    const names = new Set(file.header.tensors.map(({ name }) => name));
    const load = (part: string, address: number) => {
      const name = `layers.${layer}.${part}`;
      if (names.has(name)) bytes.set(file.readRange(file.tensor(name)), address);
    };
    const { isGated } = this.#config.ffn;
    load(isGated ? "ffn.gate.bias" : "ffn.up.bias", at.firstBias);
    if (isGated) load("ffn.up.bias", at.secondBias);
    const norm = this.#config.block === "parallel" ? "attentionNorm" : "ffnNorm";
    load(`${norm}.weight`, at.normWeight);
    load(`${norm}.bias`, at.normBias);
  }

  /** Which neurons are active: `active`, `gates` and `activations`. Returns how many. */
  lookExactly(layer: number, { ffnInput }: Pick<Observation, "ffnInput">): number {
    const { active, gates, activations } = this;
    if (!this.#config.experts) {
      return this.#activate(layer, ffnInput, [{ from: 0, to: this.#sizes.n }]);
    }
    const chosen = this.lookLate(layer, { ffnInput });
    if (this.#matrixCount === 0) { // All of a chosen expert, as near as makes no difference.
      active.set(this.predicted);
      gates.set(this.predicted);
      return chosen;
    }
    active.fill(0);
    activations.fill(0);
    return this.#activate(layer, ffnInput, this.#chosenRows(layer));
  }

  /** Rows of the experts that were chosen last. */
  #chosenRows(layer: number): RowRange[] {
    const router = this.#predictorOf(layer);
    if (router.kind !== "router") return [];
    const { perToken, each } = router;
    const chosen = new Uint32Array(this.#bytes.buffer, this.#scratch.lowRank, perToken);
    return Array.from(chosen, (expert) => ({ from: expert * each, to: (expert + 1) * each }));
  }

  #activate(layer: number, ffnInput: Float32Array, rows: readonly RowRange[]): number {
    const { d } = this.#sizes, kernels = this.#kernels, scratch = this.#scratch;
    const { first, firstBias, second, secondBias } = this.#addresses[layer];
    const { first: kind, second: times, threshold } = this.#kinds,
      { activations, active } = scratch;
    const prepare = kernels.prepare[this.#ffnQuantization];
    const matvec = kernels.matvec[this.#ffnQuantization];
    if (!this.isHeld && this.#upLayer !== layer) this.#loadUp(layer);
    this.#input.set(ffnInput);
    prepare(scratch.input, scratch.prepared, d);
    const cut = this.#cuts?.[layer] ?? 0;
    let count = 0;
    for (const { from, to } of rows) {
      matvec(first, scratch.prepared, firstBias, activations, from, to, d);
      count += kernels.activeMask(activations, active, from, to, kind, threshold, cut);
    }
    this.gates.set(this.active);
    if (times === null) return count;
    for (const { from, to } of rows) {
      matvec(second, scratch.prepared, secondBias, scratch.scores, from, to, d);
    }
    return this.#multiplyGates(times === ACTIVATION.timesRelu);
  }

  /** Gates become activations: times the up row's product, or with `isDouble` its ReLU. Returns how many are active. */
  #multiplyGates(isDouble: boolean): number {
    const { activations, active } = this, { n } = this.#sizes;
    const ups = new Float32Array(this.#bytes.buffer, this.#scratch.scores, n);
    let count = 0;
    active.fill(0);
    for (let neuron = 0; neuron < n; neuron++) {
      if (activations[neuron] === 0) continue;
      activations[neuron] *= isDouble ? Math.max(ups[neuron], 0) : ups[neuron];
      if (activations[neuron] === 0) continue;
      active[neuron >>> 5] |= 1 << (neuron & 31);
      count++;
    }
    return count;
  }

  /** Which neurons the late look names: `predicted`. Returns how many. */
  lookLate(layer: number, { ffnInput }: Pick<Observation, "ffnInput">): number {
    const predictor = this.#predictorOf(layer), { input, predicted: mask } = this.#scratch;
    this.#input.set(ffnInput);
    const { d, n } = this.#sizes;
    return look(this.#kernels, predictor, this.#scratch, { d, n, input, isEarly: false, mask });
  }

  /** Which neurons the early look names: `early`. Returns how many. */
  lookEarly(layer: number, { layerInput }: Pick<Observation, "layerInput">): number {
    const predictor = this.#predictorOf(layer), { input, normed, early: mask } = this.#scratch;
    const { normWeight, normBias } = this.#addresses[layer], { d, n } = this.#sizes;
    this.#input.set(layerInput);
    const norm = { weight: normWeight, bias: normBias };
    applyNorm(this.#kernels, this.#config.norm, input, norm, normed, d);
    const at = { d, n, input: normed, isEarly: true, mask };
    return look(this.#kernels, predictor, this.#scratch, at);
  }

  #predictorOf(layer: number) {
    const { predictor } = this.#addresses[layer];
    if (!predictor) throw new RangeError("Cannot look ahead as the file has no predictors");
    return predictor;
  }
}
