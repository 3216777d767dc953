import { ROUND, Scale } from "./scale";

/**
 * Stores a row x (f32[cols], all finite) as q8: | cols / 32 f16 scales | cols i8 |. A block's scale is its largest magnitude / 127; a
 * scale of zero stores zeros. The definition is in src/format/quantize.ts.
 */
export function storeRowQ8(x: usize, row: usize, cols: i32): void {
  assert(cols % 32 == 0);
  const round = f64x2.splat(ROUND), least = i8x16.splat(-127);
  let scales = row, numbers = row + (usize(cols) >> 4);
  for (const end = x + (usize(cols) << 2); x < end; x += 128, scales += 2, numbers += 32) {
    const bits = Scale.store(f32x4.extract_lane(Scale.largest(x), 0) / 127);
    store<u16>(scales, u16(bits));
    if (bits == 0) {
      v128.store(numbers, i8x16.splat(0));
      v128.store(numbers, i8x16.splat(0), 16);
      continue;
    }
    const scale = f64x2.splat(f64(Scale.load(bits)));
    v128.store(numbers, i8x16.max_s(Scale.divide16(x, scale, round), least));
    v128.store(numbers, i8x16.max_s(Scale.divide16(x + 64, scale, round), least), 16);
  }
}
