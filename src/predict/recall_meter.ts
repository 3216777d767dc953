import type { FlashFile } from "../format/flash_file.ts";
import type { KernelBuild } from "../kernels.ts";
import { ReplayedLooks } from "./replayed_looks.ts";

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

/**
 * Measures what the late look misses, from FFN inputs that were observed: with the very kernels of the engine, so
 * that it counts the sets that the engine computed. Holds all up projections in memory of its own.
 */
export class RecallMeter {
  readonly layers: LayerRecall[];
  readonly #looks: ReplayedLooks;

  /**
   * Reads what it needs from the file. Throws `RangeError` if the file has no predictors, or if they cannot have this
   * `recall`.
   */
  constructor(file: FlashFile, build?: KernelBuild, recall?: number) {
    if (!file.header.predictors) {
      throw new RangeError(`Cannot measure recall as ${file.path} has no predictors`);
    }
    this.#looks = new ReplayedLooks(file, build, recall);
    this.layers = file.header.layers.map(() => ({
      positions: 0,
      active: 0,
      predicted: 0,
      found: 0,
      mass: 0,
      lostMass: 0,
    }));
  }

  /** Counts one position of a layer. `ffnInput`: f32[hiddenSize], after norm. */
  add(layer: number, ffnInput: Float32Array): void {
    const counts = this.layers[layer];
    counts.positions++;
    counts.active += this.#looks.lookExactly(layer, { ffnInput });
    counts.predicted += this.#looks.lookLate(layer, { ffnInput });
    this.#compareMasks(counts);
  }

  #compareMasks(counts: LayerRecall): void {
    const { active, predicted, activations } = this.#looks;
    for (let word = 0; word < active.length; word++) {
      let bits = active[word] | 0;
      while (bits !== 0) {
        const lowest = bits & -bits;
        bits ^= lowest;
        const activation = activations[word * 32 + 31 - Math.clz32(lowest)];
        counts.mass += activation;
        if ((predicted[word] & lowest) !== 0) counts.found++;
        else counts.lostMass += activation;
      }
    }
  }
}
