import { instantiateKernels, STATICS_BYTE_LENGTH } from "../kernels.ts";
import type { KernelModule, Kernels } from "../kernels.ts";
import { createSharedMemory } from "../shared_memory.ts";

/** Kernels that only fitting calls; kernels/fit/ tells what they compute. Sizes and strides are in numbers. */
export interface FitKernels extends Kernels {
  packRows(
    source: number,
    stride: number,
    rows: number,
    depth: number,
    width: number,
    target: number,
  ): void;
  packColumns(
    source: number,
    stride: number,
    cols: number,
    depth: number,
    width: number,
    target: number,
  ): void;
  multiplyPacked(
    left: number,
    right: number,
    c: number,
    rows: number,
    cols: number,
    depth: number,
    stride: number,
    accumulate: number,
  ): void;
  logisticGradient(
    scores: number,
    bias: number,
    active: number,
    biasGradient: number,
    rows: number,
    n: number,
    positive: number,
    negative: number,
  ): void;
  adamStep(
    weights: number,
    gradient: number,
    mean: number,
    square: number,
    count: number,
    rate: number,
    beta1: number,
    beta2: number,
    epsilon: number,
  ): void;
}

/** Numbers in the kernels' memory. */
export interface Block {
  address: number;
  values: Float32Array;
}

/** Bytes of a page, and what a block's address is a multiple of. */
const ALIGNMENT = 64;

/**
 * The memory of one fitting thread: blocks are taken one after the other and live as long as the memory. Made in two
 * steps, so that it is exactly as large as needed: who measures and who takes run the same code.
 */
export class FitMemory {
  readonly kernels: FitKernels;
  readonly #memory: WebAssembly.Memory;
  #next = STATICS_BYTE_LENGTH;

  constructor(kernels: KernelModule, byteLength: number) {
    this.#memory = createSharedMemory(STATICS_BYTE_LENGTH + byteLength);
    const instance = new WebAssembly.Instance(kernels.module, { env: { memory: this.#memory } });
    this.kernels = {
      ...instantiateKernels(kernels, this.#memory),
      ...instance.exports as unknown as FitKernels,
      build: kernels.build,
    };
  }

  /** `length` numbers, zeros at first. Throws `RangeError` if the memory is full. */
  floats(length: number): Block {
    const address = this.#take(4 * length);
    return { address, values: new Float32Array(this.#memory.buffer, address, length) };
  }

  /** `length` words, such as masks. */
  words(length: number): { address: number; values: Uint32Array } {
    const address = this.#take(4 * length);
    return { address, values: new Uint32Array(this.#memory.buffer, address, length) };
  }

  #take(byteLength: number): number {
    const address = this.#next;
    this.#next = Math.ceil((address + byteLength) / ALIGNMENT) * ALIGNMENT;
    if (this.#next <= this.#memory.buffer.byteLength) return address;
    throw new RangeError(
      `Cannot take ${byteLength} bytes of ${this.#memory.buffer.byteLength} at ${address}`,
    );
  }
}
