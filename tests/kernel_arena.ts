/** A memory for tests of kernels, which hands out addresses behind 2^31, each followed by a canary. */
import assert from "node:assert/strict";
import {
  instantiateKernels,
  type KernelBuild,
  type Kernels,
  loadKernelModule,
  MEMORY_PAGES_MAX,
  STATICS_BYTE_LENGTH,
} from "../src/kernels.ts";

const BASE = 2 ** 31 + STATICS_BYTE_LENGTH;
const CANARY = 0xa5;
const CANARY_BYTES = 32;

/** Pages that nobody touches cost nothing. */
const memory = new WebAssembly.Memory({
  initial: BASE / 65536 + 512,
  maximum: MEMORY_PAGES_MAX,
  shared: true,
});

export const BUILDS: readonly KernelBuild[] = ["plain", "relaxed"];

/** The kernels of a build over the memory of `KernelArena`. */
export function kernelsOf(build: KernelBuild): Kernels {
  return instantiateKernels(loadKernelModule(build), memory);
}

/** Addresses in the memory; each test begins anew. */
export class KernelArena {
  #next = BASE;
  readonly #canaries: number[] = [];

  reserve(byteLength: number, { align = 64, offset = 0 } = {}): number {
    const address = Math.ceil(this.#next / align) * align + offset;
    this.#next = address + byteLength + CANARY_BYTES;
    assert(this.#next <= memory.buffer.byteLength, "the arena of the test is too small");
    bytesAt(address + byteLength, CANARY_BYTES).fill(CANARY);
    this.#canaries.push(address + byteLength);
    return address;
  }

  bytes(values: Uint8Array, place?: { align?: number; offset?: number }): number {
    const address = this.reserve(values.length, place);
    bytesAt(address, values.length).set(values);
    return address;
  }

  floats(values: Float32Array): number {
    const address = this.reserve(values.length * 4);
    floatsAt(address, values.length).set(values);
    return address;
  }

  words(values: ArrayLike<number>): number {
    const address = this.reserve(values.length * 4);
    new Uint32Array(memory.buffer, address, values.length).set(values);
    return address;
  }

  /** Bytes right before the end of the memory, with no canary: whoever reads beyond them traps. */
  atTheEnd(values: Uint8Array): number {
    const address = memory.buffer.byteLength - values.length;
    assert(address >= this.#next, "the arena of the test is too small");
    bytesAt(address, values.length).set(values);
    return address;
  }

  /** Nobody has written beyond what was reserved. */
  assertCanaries(): void {
    for (const address of this.#canaries) {
      assert(bytesAt(address, CANARY_BYTES).every((byte) => byte === CANARY), "a canary is dead");
    }
  }
}

export function floatsAt(address: number, length: number): Float32Array {
  return new Float32Array(memory.buffer, address, length);
}

export function bytesAt(address: number, length: number): Uint8Array {
  return new Uint8Array(memory.buffer, address, length);
}

/** The bits of each number, one pattern for all NaN. */
export function bitsOf(values: Float32Array): Uint32Array {
  const copy = Float32Array.from(values, (value) => Number.isNaN(value) ? NaN : value);
  return new Uint32Array(copy.buffer);
}

export function wordsAt(address: number, length: number): Uint32Array {
  return new Uint32Array(memory.buffer, address, length);
}
