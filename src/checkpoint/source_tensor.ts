import type { ByteSource } from "../format/byte_source.ts";

/** A tensor's place in a checkpoint, whatever the format. */
export interface SourceTensor {
  readonly name: string;
  /** As safetensors names types: `F32`, `BF16`; blocks of GGUF have the names there: `Q8_0`. */
  readonly dtype: string;
  /** [rows, cols]: the last dimension's numbers lie side by side. */
  readonly shape: readonly number[];
  /** Numbers in it. */
  readonly length: number;
  /** From the start of the file. */
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly source: ByteSource;
  /** Why its numbers cannot be read, where they cannot: it matters only if somebody wants them. */
  readonly unreadable?: string;
}
