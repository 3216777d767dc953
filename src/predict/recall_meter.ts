import { setImmediate } from "node:timers/promises";
import type { FlashFile } from "../format/flash_file.ts";
import { ReplayedLooks } from "./replayed_looks.ts";
import type { ReplayedLooksOptions } from "./replayed_looks.ts";

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

/** Positions that are measured together while all up projections are held: few, as the pipeline waits meanwhile. */
const HELD_BATCH = 4;

/** Inputs that wait while up projections are read anew: the more, the fewer reads. */
const BATCH_BYTES = 64 << 20;
const BATCH_MAX = 512;

/** Whoever else wants to run on this thread waits at most about so long, or until a layer is read. */
const BUSY_MS_MAX = 20;

/**
 * Measures what the late look misses, from FFN inputs that were observed: with the very kernels of the engine, so
 * that it counts the sets that the engine computed. Positions are measured in batches, so that a model whose up
 * projections do not fit in memory is read once a batch and not once a position.
 */
export class RecallMeter {
  readonly layers: LayerRecall[];
  readonly #looks: ReplayedLooks;
  readonly #hiddenSize: number;
  /** f32[layers][batch][hiddenSize], and how many positions wait in it. */
  readonly #inputs: Float32Array;
  readonly #batchMax: number;
  #waitingCount = 0;
  #busySince = 0;

  /**
   * Reads from the file as long as it measures. Throws `RangeError` if the file has no predictors, or if they cannot
   * have the wished recall.
   */
  constructor(file: FlashFile, options: ReplayedLooksOptions = {}) {
    const { predictors, config: { numLayers, hiddenSize }, layers } = file.header;
    if (!predictors) {
      throw new RangeError(`Cannot measure recall as ${file.path} has no predictors`);
    }
    this.#looks = new ReplayedLooks(file, options);
    this.#hiddenSize = hiddenSize;
    const positionBytes = 4 * numLayers * hiddenSize;
    this.#batchMax = this.#looks.isHeld
      ? HELD_BATCH
      : Math.max(1, Math.min(BATCH_MAX, Math.floor(BATCH_BYTES / positionBytes)));
    this.#inputs = new Float32Array(this.#batchMax * positionBytes / 4);
    this.layers = layers.map(() => ({
      positions: 0,
      active: 0,
      predicted: 0,
      found: 0,
      mass: 0,
      lostMass: 0,
    }));
  }

  /**
   * Takes one position: what each layer's FFN saw, f32[hiddenSize] after norm. Measures when enough positions wait,
   * so await it before the next.
   */
  async add(ffnInputs: Float32Array[], signal?: AbortSignal): Promise<void> {
    ffnInputs.forEach((input, layer) => this.#inputAt(layer, this.#waitingCount).set(input));
    this.#waitingCount++;
    if (this.#waitingCount === this.#batchMax) await this.measure(signal);
  }

  /** Measures the positions that wait. An abort leaves out what has not been measured. */
  async measure(signal?: AbortSignal): Promise<void> {
    const count = this.#waitingCount;
    this.#waitingCount = 0;
    this.#busySince = performance.now();
    for (let layer = 0; layer < this.layers.length; layer++) {
      for (let position = 0; position < count; position++) {
        this.#count(layer, this.#inputAt(layer, position));
        await this.#breathe(signal);
      }
    }
  }

  #inputAt(layer: number, position: number): Float32Array {
    const d = this.#hiddenSize, at = (layer * this.#batchMax + position) * d;
    return this.#inputs.subarray(at, at + d);
  }

  /** Lets others run, now and then. */
  async #breathe(signal?: AbortSignal): Promise<void> {
    if (performance.now() - this.#busySince < BUSY_MS_MAX) return;
    await setImmediate();
    signal?.throwIfAborted();
    this.#busySince = performance.now();
  }

  /** Counts one position of a layer. */
  #count(layer: number, ffnInput: Float32Array): void {
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
        const activation = Math.abs(activations[word * 32 + 31 - Math.clz32(lowest)]);
        counts.mass += activation;
        if ((predicted[word] & lowest) !== 0) counts.found++;
        else counts.lostMass += activation;
      }
    }
  }
}
