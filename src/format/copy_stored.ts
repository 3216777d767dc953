import type { SourceTensor } from "../checkpoint/source_tensor.ts";
import { type Quantization, TILE_COLS } from "./layout.ts";
import type { RowPlace } from "./quantize.ts";

/** What of a checkpoint's kinds is stored as ours are: plain floats, and blocks of 32 numbers with one f16 scale, as ggml has them. */
const SAME: Readonly<Record<Quantization, string>> = {
  f32: "F32",
  f16: "F16",
  q8: "Q8_0",
  q4: "Q4_0",
};

/** Whether a tensor's numbers are stored as `dtype` stores them, so that they can be copied as they are. */
export function isStoredAs({ dtype: theirs }: SourceTensor, dtype: Quantization): boolean {
  return theirs === SAME[dtype];
}

/**
 * Copies rows as they are, so that no number changes: `stored` has them without gaps and begins at a multiple of 4 of its buffer.
 *
 * Returns false if ours cannot hold one of them, which the usual way then treats as any numbers: a number or a scale that is not finite,
 * and of q8 a number of -128. What `target` has then is of no use.
 */
export function copyStored(
  dtype: Quantization,
  stored: Uint8Array<ArrayBuffer>,
  shape: { rows: number; cols: number },
  target: Uint8Array,
  place: RowPlace,
): boolean {
  return dtype === "f32" || dtype === "f16"
    ? copyFloats(dtype, stored, shape, target, place)
    : copyBlocks(dtype, stored, shape, target, place);
}

function copyFloats(
  dtype: "f32" | "f16",
  stored: Uint8Array<ArrayBuffer>,
  { rows, cols }: { rows: number; cols: number },
  target: Uint8Array,
  { byteOffset, byteStride }: RowPlace,
): boolean {
  const rowBytes = cols * (dtype === "f32" ? 4 : 2), byteLength = rows * rowBytes;
  const isFinite = dtype === "f32" ? areFinite32 : areFinite16;
  if (!isFinite(stored.buffer, stored.byteOffset, byteLength)) return false;
  for (let row = 0; row < rows; row++) {
    const from = row * rowBytes;
    target.set(stored.subarray(from, from + rowBytes), byteOffset + row * byteStride);
  }
  return true;
}

/** Exponents of ones are infinities and NaN. */
function areFinite32(buffer: ArrayBuffer, byteOffset: number, byteLength: number): boolean {
  const words = new Int32Array(buffer, byteOffset, byteLength / 4);
  for (let i = 0; i < words.length; i++) {
    if ((words[i] & 0x7f800000) === 0x7f800000) return false;
  }
  return true;
}

/** Two at a time; a last one by itself. */
function areFinite16(buffer: ArrayBuffer, byteOffset: number, byteLength: number): boolean {
  const pairs = new Int32Array(buffer, byteOffset, byteLength >> 2);
  for (let i = 0; i < pairs.length; i++) {
    const pair = pairs[i];
    if ((pair & 0x7c00) === 0x7c00 || (pair & 0x7c000000) === 0x7c000000) return false;
  }
  if (byteLength % 4 === 0) return true;
  const [last] = new Uint16Array(buffer, byteOffset + byteLength - 2, 1);
  return (last & 0x7c00) !== 0x7c00;
}

/**
 * Theirs have the scale before each block's numbers, ours have a row's scales first.
 *
 *   | scale 0 | numbers 0 | scale 1 | numbers 1 | ...   becomes   | scale 0 | scale 1 | ... | numbers 0 | numbers 1 | ...
 */
function copyBlocks(
  dtype: Quantization,
  blocks: Uint8Array<ArrayBuffer>,
  { rows, cols }: { rows: number; cols: number },
  target: Uint8Array,
  { byteOffset, byteStride }: RowPlace,
): boolean {
  const perRow = cols / TILE_COLS, numberBytes = dtype === "q8" ? 32 : 16;
  const view = new DataView(blocks.buffer, blocks.byteOffset);
  for (let row = 0, at = 0; row < rows; row++) {
    const scales = byteOffset + row * byteStride, numbers = scales + 2 * perRow;
    for (let block = 0; block < perRow; block++, at += 2 + numberBytes) {
      if (!Number.isFinite(view.getFloat16(at, true))) return false;
      const found = blocks.subarray(at + 2, at + 2 + numberBytes);
      if (dtype === "q8" && found.includes(0x80)) return false;
      target.set(blocks.subarray(at, at + 2), scales + 2 * block);
      target.set(found, numbers + numberBytes * block);
    }
  }
  return true;
}
