import type { KernelModule } from "../kernels.ts";
import { FitMemory } from "./fit_memory.ts";
import type { Block } from "./fit_memory.ts";
import { Matmul } from "./matmul.ts";

/** Sizes of a predictor, and of the batches that train it. */
export interface TrainerSizes {
  hiddenSize: number;
  neuronCount: number;
  rank: number;
  batchSize: number;
}

/** Where a training stands: all that the next step depends on, beside the data. */
export interface TrainerState {
  step: number;
  /** A, f32[rank][d]; B, f32[n][rank]; bias, f32[n]; then the running mean and square of each one's gradient. */
  numbers: Float32Array;
}

/** How a step moves. */
export interface StepOptions {
  /** Share of the matrices' own size that a number moves by at most. */
  rate: number;
  /** Weight of an active neuron's loss, and of another's. */
  positive: number;
  negative: number;
}

const BETA1 = 0.9;
const BETA2 = 0.99;
const EPSILON = 1e-12;

/**
 * Trains a low-rank predictor, p(active) = sigmoid(B (A x) + bias), by the balanced binary cross-entropy over all
 * neurons of a batch (Alizadeh et al., section 3.1) with Adam. Rates are relative to the matrices' own sizes, as A and B
 * may share a factor in any way.
 *
 *   H = X A^T    S = H B^T + bias    G = weight (sigmoid(S) - active)    dB = G^T H    dA = (G B)^T X
 */
export class LogisticTrainer {
  readonly #sizes: TrainerSizes;
  readonly #memory: FitMemory;
  readonly #matmul: Matmul;
  /** f32[batch][d]: the inputs of the batch at hand; filled by the caller. */
  readonly inputs: Float32Array;
  /** u32[batch][n / 32]: its active neurons. */
  readonly active: Uint32Array;
  readonly #inputs: Block;
  readonly #active: { address: number; values: Uint32Array };
  readonly #parameters: Block;
  readonly #gradient: Block;
  readonly #mean: Block;
  readonly #square: Block;
  readonly #hidden: Block;
  readonly #hiddenGradient: Block;
  readonly #scores: Block;
  #step = 0;

  constructor(kernels: KernelModule, sizes: TrainerSizes) {
    const { hiddenSize: d, neuronCount: n, rank, batchSize } = sizes;
    this.#sizes = sizes;
    this.#memory = new FitMemory(kernels, LogisticTrainer.byteLength(sizes));
    this.#matmul = new Matmul(this.#memory);
    const parameters = () => this.#memory.floats(parameterCount(sizes));
    this.#parameters = parameters();
    this.#gradient = parameters();
    this.#mean = parameters();
    this.#square = parameters();
    this.#inputs = this.#memory.floats(batchSize * d);
    this.#active = this.#memory.words(batchSize * n / 32);
    this.#hidden = this.#memory.floats(batchSize * rank);
    this.#hiddenGradient = this.#memory.floats(batchSize * rank);
    this.#scores = this.#memory.floats(batchSize * n);
    this.inputs = this.#inputs.values;
    this.active = this.#active.values;
  }

  /** Bytes of memory that a trainer takes. */
  static byteLength(sizes: TrainerSizes): number {
    const { hiddenSize: d, neuronCount: n, rank, batchSize } = sizes;
    const numbers = 4 * parameterCount(sizes) + batchSize * (d + n / 32 + 2 * rank + n);
    return 4 * (numbers + Matmul.length) + 4096;
  }

  get rank(): number {
    return this.#sizes.rank;
  }

  /** Steps taken. */
  get step(): number {
    return this.#step;
  }

  /** A copy of all that the next step depends on. */
  get state(): TrainerState {
    const count = parameterCount(this.#sizes);
    const numbers = new Float32Array(3 * count);
    numbers.set(this.#parameters.values, 0);
    numbers.set(this.#mean.values, count);
    numbers.set(this.#square.values, 2 * count);
    return { step: this.#step, numbers };
  }

  set state({ step, numbers }: TrainerState) {
    const count = parameterCount(this.#sizes);
    this.#parameters.values.set(numbers.subarray(0, count));
    this.#mean.values.set(numbers.subarray(count, 2 * count));
    this.#square.values.set(numbers.subarray(2 * count, 3 * count));
    this.#gradient.values.fill(0);
    this.#step = step;
  }

  /** Begins with a predictor: A f32[rank][d], B f32[n][rank], bias f32[n]. */
  begin({ a, b, bias }: { a: Float32Array; b: Float32Array; bias: Float32Array }): void {
    const count = parameterCount(this.#sizes), numbers = new Float32Array(3 * count);
    numbers.set(a, 0);
    numbers.set(b, a.length);
    numbers.set(bias, a.length + b.length);
    this.state = { step: 0, numbers };
  }

  /** The predictor at hand: views of A, B and bias. */
  get predictor(): { a: Float32Array; b: Float32Array; bias: Float32Array } {
    return partsOf(this.#parameters.values, this.#sizes);
  }

  /** The gradient of the batch's summed loss by A, B and bias, after `computeGradient`; views. */
  get gradient(): { a: Float32Array; b: Float32Array; bias: Float32Array } {
    return partsOf(this.#gradient.values, this.#sizes);
  }

  /** Takes one step with the batch in `inputs` and `active`. */
  train(options: StepOptions): void {
    this.computeGradient(options);
    this.#move(options.rate);
  }

  /** Fills `gradient`, which must be zeros before, as it is after each step. */
  computeGradient({ positive, negative }: Pick<StepOptions, "positive" | "negative">): void {
    const { hiddenSize: d, neuronCount: n, rank, batchSize } = this.#sizes;
    const { kernels } = this.#memory, matmul = this.#matmul;
    const parameters = this.#parameters;
    const at = offsetsOf(this.#sizes);
    const x = { address: this.#inputs.address, stride: d };
    const a = { address: parameters.address, stride: d };
    const b = { address: parameters.address + at.b, stride: rank };
    const h = { address: this.#hidden.address, stride: rank };
    const dh = { address: this.#hiddenGradient.address, stride: rank };
    const g = { address: this.#scores.address, stride: n };
    const da = { address: this.#gradient.address, stride: d };
    const db = { address: this.#gradient.address + at.b, stride: rank };
    const transposed = true;
    matmul.multiply({
      rows: batchSize,
      cols: rank,
      depth: d,
      left: x,
      right: { ...a, transposed },
      target: h,
    });
    matmul.multiply({
      rows: batchSize,
      cols: n,
      depth: rank,
      left: h,
      right: { ...b, transposed },
      target: g,
    });
    const bias = parameters.address + at.bias, biasGradient = this.#gradient.address + at.bias;
    const mask = this.#active.address;
    kernels.logisticGradient(
      g.address,
      bias,
      mask,
      biasGradient,
      batchSize,
      n,
      positive,
      negative,
    );
    matmul.multiply({
      rows: n,
      cols: rank,
      depth: batchSize,
      left: { ...g, transposed },
      right: h,
      target: db,
    });
    matmul.multiply({ rows: batchSize, cols: rank, depth: n, left: g, right: b, target: dh });
    matmul.multiply({
      rows: rank,
      cols: d,
      depth: batchSize,
      left: { ...dh, transposed },
      right: x,
      target: da,
    });
  }

  /** Adam, with its corrections for the first steps, and a rate for each matrix by its own size. */
  #move(rate: number): void {
    this.#step++;
    const correction = Math.sqrt(1 - BETA2 ** this.#step) / (1 - BETA1 ** this.#step);
    const { a, b, bias } = this.predictor;
    const at = offsetsOf(this.#sizes);
    const parts = [[0, a], [at.b, b], [at.bias, bias]] as const;
    for (const [offset, values] of parts) {
      const rateNow = rate * correction * rootMeanSquare(values);
      this.#memory.kernels.adamStep(
        this.#parameters.address + offset,
        this.#gradient.address + offset,
        this.#mean.address + offset,
        this.#square.address + offset,
        values.length,
        rateNow,
        BETA1,
        BETA2,
        EPSILON,
      );
    }
  }
}

function parameterCount({ hiddenSize: d, neuronCount: n, rank }: TrainerSizes): number {
  return rank * d + n * rank + n;
}

/** Bytes from A to B and to the bias. */
function offsetsOf({ hiddenSize: d, neuronCount: n, rank }: TrainerSizes) {
  return { b: 4 * rank * d, bias: 4 * (rank * d + n * rank) };
}

function partsOf(numbers: Float32Array, { hiddenSize: d, neuronCount: n, rank }: TrainerSizes) {
  const bAt = rank * d, biasAt = bAt + n * rank;
  return {
    a: numbers.subarray(0, bAt),
    b: numbers.subarray(bAt, biasAt),
    bias: numbers.subarray(biasAt, biasAt + n),
  };
}

function rootMeanSquare(values: Float32Array): number {
  let sum = 0;
  for (let k = 0; k < values.length; k++) sum += values[k] * values[k];
  return Math.sqrt(sum / values.length);
}
