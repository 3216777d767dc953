import { instantiateKernels, loadKernelModule, STATICS_BYTE_LENGTH } from "../kernels.ts";
import type { Kernels } from "../kernels.ts";
import { createSharedMemory } from "../shared_memory.ts";
import { alignUp } from "./align.ts";
import { vectorByteLength } from "./layout.ts";

/**
 * Stores rows as q8 and q4 by kernels, in a memory of its own: several times as fast as numbers one by one. Bits are those of the
 * definitions in quantize.ts, in any build and runtime.
 *
 *   | statics | a row, f32 | its row bytes |
 */
export class RowQuantizer {
  /** Numbers of a row, at most. */
  readonly colsMax: number;
  readonly #kernels: Kernels;
  readonly #row: Float32Array;
  readonly #bytes: Uint8Array;

  constructor(colsMax: number) {
    const bytesAt = alignUp(STATICS_BYTE_LENGTH + 4 * colsMax, 64);
    const bytesMax = vectorByteLength("q8", colsMax);
    const memory = createSharedMemory(bytesAt + bytesMax, { hugePages: false });
    this.colsMax = colsMax;
    this.#kernels = instantiateKernels(loadKernelModule(), memory);
    this.#row = new Float32Array(memory.buffer, STATICS_BYTE_LENGTH, colsMax);
    this.#bytes = new Uint8Array(memory.buffer, bytesAt, bytesMax);
  }

  /** Stores `row` to the bytes of `target` from `at` on. */
  store(kind: "q8" | "q4", row: Float32Array, target: Uint8Array, at: number): void {
    const { byteOffset } = this.#bytes;
    this.#row.set(row);
    this.#kernels.storeRow[kind](STATICS_BYTE_LENGTH, byteOffset, row.length);
    target.set(this.#bytes.subarray(0, vectorByteLength(kind, row.length)), at);
  }
}
