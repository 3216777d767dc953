import type { SourceTensor } from "../checkpoint/source_tensor.ts";
import { type Quantization, TILE_COLS } from "./layout.ts";
import type { RowPlace } from "./quantize.ts";

/** Whether a checkpoint's blocks hold what ours do: 32 numbers with one f16 scale, as ggml lays them out. */
export function isSameBlock({ dtype: theirs }: SourceTensor, dtype: Quantization): boolean {
  return (theirs === "Q8_0" && dtype === "q8") || (theirs === "Q4_0" && dtype === "q4");
}

/**
 * Copies rows of blocks as they are, so that no number changes: theirs have the scale before each block's numbers, ours have a
 * row's scales first.
 *
 *   | scale 0 | numbers 0 | scale 1 | numbers 1 | ...   becomes   | scale 0 | scale 1 | ... | numbers 0 | numbers 1 | ...
 *
 * Returns false if ours cannot hold one of them, which the usual way then treats as any numbers: a scale that is not finite, and of q8 a
 * number of -128.
 */
export function copyBlocks(
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
