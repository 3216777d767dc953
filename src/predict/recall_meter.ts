import type { FlashFile } from "../format/flash_file.ts";
import { matrixByteLength, vectorByteLength } from "../format/layout.ts";
import { tileRows } from "../format/quantize.ts";
import {
  instantiateKernels,
  loadKernelModule,
  preparedByteLength,
  STATICS_BYTE_LENGTH,
} from "../kernels.ts";
import type { KernelBuild, Kernels } from "../kernels.ts";
import { lookLowRank } from "./low_rank_look.ts";
import type { LookScratch } from "./low_rank_look.ts";
import { recallShifts } from "./recall_shift.ts";

/** Counts of one layer over all positions that were measured. */
export interface LayerRecall {
  positions: number;
  /** Neurons whose activation is not zero. */
  active: number;
  /** Neurons that the late look names. */
  predicted: number;
  /** Active neurons that it names. */
  found: number;
  /** Sum of activations, and of those that were not predicted. */
  mass: number;
  lostMass: number;
}

/** Addresses of one layer in the meter's own memory. */
interface LayerAddresses {
  up: number;
  upBias: number;
  predictor: { rank: number; a: number; b: number; bias: number };
}

/**
 * Measures what the late look misses, from FFN inputs that were observed: with the very kernels of the engine, so
 * that it counts the sets that the engine computed. Holds all up projections in memory of its own.
 */
export class RecallMeter {
  readonly layers: LayerRecall[];
  readonly #kernels: Kernels;
  readonly #addresses: LayerAddresses[];
  readonly #sizes: { d: number; n: number };
  readonly #quantization: FlashFile["header"]["quantization"];
  readonly #input: Float32Array;
  readonly #activations: Float32Array;
  readonly #activeMask: Uint32Array;
  readonly #predictedMask: Uint32Array;
  readonly #scratch: LookScratch & {
    input: number;
    activations: number;
    activeMask: number;
    predictedMask: number;
  };

  /**
   * Reads what it needs from the file. Throws `RangeError` if the file has no predictors, or if they cannot have this
   * `recall`.
   */
  constructor(file: FlashFile, build?: KernelBuild, recall?: number) {
    const { header } = file, { predictors, config, quantization } = header;
    if (!predictors) {
      throw new RangeError(`Cannot measure recall as ${file.path} has no predictors`);
    }
    const shifts = recallShifts(predictors, recall, file.path);
    const { hiddenSize: d, intermediateSize: n, numLayers } = config;
    this.#sizes = { d, n };
    this.#quantization = quantization;
    let next = STATICS_BYTE_LENGTH;
    const take = (byteLength: number) => {
      const at = next;
      next = Math.ceil((at + byteLength) / 64) * 64;
      return at;
    };
    const rankMax = Math.max(...predictors.layers.map(({ rank }) => rank));
    this.#scratch = {
      input: take(4 * d),
      prepared: take(preparedByteLength(d)),
      lowRank: take(4 * rankMax),
      lowRankPrepared: take(preparedByteLength(rankMax)),
      activations: take(4 * n),
      scores: take(4 * n),
      activeMask: take(n / 8),
      predictedMask: take(n / 8),
    };
    this.#addresses = predictors.layers.map((layer) => ({
      up: take(matrixByteLength(quantization, n, d)),
      upBias: take(4 * n),
      predictor: {
        rank: layer.rank,
        a: take(layer.a.byteLength),
        b: take(layer.b.byteLength),
        bias: take(layer.bias.byteLength),
      },
    }));
    const pages = Math.ceil(next / 65536);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.#kernels = instantiateKernels(loadKernelModule(build), memory);
    const bytes = new Uint8Array(memory.buffer);
    for (let layer = 0; layer < numLayers; layer++) {
      this.#load(file, layer, bytes);
      const biases = new Float32Array(memory.buffer, this.#addresses[layer].predictor.bias, n);
      for (let neuron = 0; shifts && neuron < n; neuron++) biases[neuron] += shifts[layer];
    }
    const { input, activations, activeMask, predictedMask } = this.#scratch;
    this.#input = new Float32Array(memory.buffer, input, d);
    this.#activations = new Float32Array(memory.buffer, activations, n);
    this.#activeMask = new Uint32Array(memory.buffer, activeMask, n / 32);
    this.#predictedMask = new Uint32Array(memory.buffer, predictedMask, n / 32);
    this.layers = predictors.layers.map(() => ({
      positions: 0,
      active: 0,
      predicted: 0,
      found: 0,
      mass: 0,
      lostMass: 0,
    }));
  }

  #load(file: FlashFile, layer: number, bytes: Uint8Array): void {
    const { header } = file, { d, n } = this.#sizes;
    const at = this.#addresses[layer];
    const { byteOffset, bundleByteLength } = header.layers[layer].bundles;
    const rowBytes = vectorByteLength(this.#quantization, d);
    const rows = new Uint8Array(n * rowBytes);
    const bundles = file.readRange({ byteOffset, byteLength: n * bundleByteLength });
    for (let i = 0; i < n; i++) {
      const from = i * bundleByteLength;
      rows.set(bundles.subarray(from, from + rowBytes), i * rowBytes);
    }
    const tiles = new Uint8Array(matrixByteLength(this.#quantization, n, d));
    tileRows(this.#quantization, rows, { rows: n, cols: d }, tiles);
    bytes.set(tiles, at.up);
    bytes.set(file.readRange(file.tensor(`layers.${layer}.ffn.up.bias`)), at.upBias);
    const { a, b, bias } = header.predictors!.layers[layer];
    bytes.set(file.readRange(a), at.predictor.a);
    bytes.set(file.readRange(b), at.predictor.b);
    bytes.set(file.readRange(bias), at.predictor.bias);
  }

  /** Counts one position of a layer. `ffnInput`: f32[hiddenSize], after norm. */
  add(layer: number, ffnInput: Float32Array): void {
    const { d, n } = this.#sizes, kernels = this.#kernels, scratch = this.#scratch;
    const { up, upBias, predictor } = this.#addresses[layer];
    const quantization = this.#quantization;
    this.#input.set(ffnInput);
    kernels.prepare[quantization](scratch.input, scratch.prepared, d);
    kernels.matvec[quantization](up, scratch.prepared, upBias, scratch.activations, 0, n, d);
    const active = kernels.reluMask(scratch.activations, scratch.activeMask, 0, n);
    const predicted = lookLowRank(kernels, predictor, scratch, {
      d,
      n,
      input: scratch.input,
      bias: predictor.bias,
      mask: scratch.predictedMask,
    });
    const counts = this.layers[layer];
    counts.positions++;
    counts.active += active;
    counts.predicted += predicted;
    this.#compareMasks(counts);
  }

  #compareMasks(counts: LayerRecall): void {
    for (let word = 0; word < this.#activeMask.length; word++) {
      let bits = this.#activeMask[word] | 0;
      while (bits !== 0) {
        const lowest = bits & -bits;
        bits ^= lowest;
        const activation = this.#activations[word * 32 + 31 - Math.clz32(lowest)];
        counts.mass += activation;
        if ((this.#predictedMask[word] & lowest) !== 0) counts.found++;
        else counts.lostMass += activation;
      }
    }
  }
}
