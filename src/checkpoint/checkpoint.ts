import { ModelFileError } from "../errors.ts";
import type { ByteSource } from "../format/byte_source.ts";
import { BLOCK_TYPES } from "./ggml_blocks.ts";
import { DTYPE_BYTES } from "./safetensors.ts";
import type { SourceTensor } from "./source_tensor.ts";

/** Numbers of a tensor. */
export interface NumberRange {
  /** The first one. */
  readonly from: number;
  /** How many. */
  readonly length: number;
}

/** The weights of a model, by tensor name, whatever files they lie in. */
export class Checkpoint {
  readonly tensors: ReadonlyMap<string, SourceTensor>;
  /** The files behind it. */
  readonly sources: readonly ByteSource[];
  #scratch = new Uint8Array(0);

  constructor(sources: readonly ByteSource[], tensors: ReadonlyMap<string, SourceTensor>) {
    this.sources = sources;
    this.tensors = tensors;
  }

  /** Reads the bytes of `length` numbers from number `from` on into `target`, as they are stored; of blocks whole ones. */
  readBytes(tensor: SourceTensor, range: NumberRange, target: Uint8Array): void {
    checkRange(tensor, range);
    const { from, length } = range;
    const byteOffset = tensor.byteOffset + storedByteLength(tensor, from);
    tensor.source.read(target.subarray(0, storedByteLength(tensor, length)), byteOffset);
  }

  /** Reads `length` numbers from number `from` on as f32; of blocks whole ones. Throws for types that are no floats. */
  readFloats(tensor: SourceTensor, range: NumberRange, target: Float32Array): void {
    floatByteLength(tensor);
    const { length } = range, byteLength = storedByteLength(tensor, length);
    if (this.#scratch.byteLength < byteLength) this.#scratch = new Uint8Array(byteLength);
    this.readBytes(tensor, range, this.#scratch);
    toFloats(tensor.dtype, this.#scratch, length, target);
  }

  close(): void {
    for (const source of this.sources) source.close();
  }
}

/** Bytes of one number of a tensor of plain floats; null for blocks of numbers. Throws for what is neither. */
export function floatByteLength({ dtype, name, source, byteOffset }: SourceTensor): 2 | 4 | null {
  if (dtype === "F32") return 4;
  if (dtype === "F16" || dtype === "BF16") return 2;
  if (Object.hasOwn(BLOCK_TYPES, dtype)) return null;
  const supported = ["F32", "F16", "BF16", ...Object.keys(BLOCK_TYPES)].join(", ");
  throw new ModelFileError(`tensor ${name} has type ${dtype}; supported: ${supported}`, {
    path: source.path,
    field: `${name}.dtype`,
    byteOffset,
  });
}

/** Numbers that are stored together: 1, or those of a block. */
export function blockLength({ dtype }: SourceTensor): number {
  return Object.hasOwn(BLOCK_TYPES, dtype) ? BLOCK_TYPES[dtype].length : 1;
}

/** Bytes of so many numbers of a tensor; of blocks only whole ones can be asked for. */
export function storedByteLength(tensor: SourceTensor, count: number): number {
  const { dtype, name } = tensor;
  if (!Object.hasOwn(BLOCK_TYPES, dtype)) return count * DTYPE_BYTES[dtype];
  const { length, byteLength } = BLOCK_TYPES[dtype];
  if (count % length === 0) return count / length * byteLength;
  throw new RangeError(`Cannot take ${count} numbers of tensor ${name}: its blocks have ${length}`);
}

/** Converts `length` numbers. `bytes` begins at a multiple of 4 in its buffer. */
export function toFloats(
  dtype: string,
  bytes: Uint8Array,
  length: number,
  target: Float32Array,
): void {
  const { buffer, byteOffset } = bytes;
  if (dtype === "F32") target.set(new Float32Array(buffer, byteOffset, length));
  else if (dtype === "F16") target.set(new Float16Array(buffer, byteOffset, length));
  else if (dtype === "BF16") { // The upper half of an f32.
    const halves = new Uint16Array(buffer, byteOffset, length);
    const words = new Uint32Array(target.buffer, target.byteOffset, length);
    for (let index = 0; index < length; index++) words[index] = halves[index] << 16;
  } else {
    const block = BLOCK_TYPES[dtype], view = new DataView(buffer, byteOffset);
    for (let first = 0, at = 0; first < length; first += block.length, at += block.byteLength) {
      block.read(view, at, target, first);
    }
  }
}

function checkRange({ name, length: all }: SourceTensor, { from, length }: NumberRange): void {
  if (from >= 0 && length >= 0 && from + length <= all) return;
  throw new RangeError(
    `Cannot read numbers ${from} to ${from + length} of tensor ${name}: it has ${all}`,
  );
}
