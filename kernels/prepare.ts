/**
 * Activations x (f32[cols]) in the form that the dot products of a dtype want, computed once per vector.
 *
 *   f32: as they are                                                         (4 * cols bytes)
 *   f16: per 8 columns | x0 x2 x4 x6 | x1 x3 x5 x7 |, f32, times 2^56        (4 * cols bytes)
 *   q8:  | cols i16 | cols / 32 f32: scale of 32 columns, times 2^56 |       (2 * cols + cols / 8 bytes)
 *
 * Numbers so tiny that products with weights would become denormals (2 to 3 times slower) are taken as zero. NaN and
 * infinity go through to the result.
 */
import { Half, SCALE } from "./half";

/** Smaller magnitudes count as zero: for f32 x, and for x that is multiplied by f16 weights of scale 2^-112. */
const TINY_F32: f32 = 1.2621774483536189e-29; // 2^-96
const TINY_F16: f32 = 8.673617379884035e-19; // 2^-60

export class Tiny {
  /** Below this, x that meets weights of scale 2^-112 (or of bytes) counts as zero. */
  @inline
  static get F16(): f32 {
    return TINY_F16;
  }

  /** x, with zero in place of tiny numbers; NaN stays. */
  @inline
  static flush(x: v128, tiny: v128): v128 {
    return v128.andnot(x, f32x4.lt(f32x4.abs(x), tiny));
  }
}

/** `xp[c] = x[c]`; cols a multiple of 32. */
export function prepareF32(x: usize, xp: usize, cols: i32): void {
  assert(cols % 32 == 0);
  const tiny = f32x4.splat(TINY_F32);
  const end = x + (usize(cols) << 2);
  for (; x < end; x += 16, xp += 16) v128.store(xp, Tiny.flush(v128.load(x), tiny));
}

/** x split into even and odd columns of eight and scaled by 2^56; cols a multiple of 32. */
export function prepareF16(x: usize, xp: usize, cols: i32): void {
  assert(cols % 32 == 0);
  const tiny = f32x4.splat(TINY_F16);
  const scale = Half.scale();
  const end = x + (usize(cols) << 2);
  for (; x < end; x += 32, xp += 32) {
    const a = f32x4.mul(Tiny.flush(v128.load(x), tiny), scale);
    const b = f32x4.mul(Tiny.flush(v128.load(x, 16), tiny), scale);
    v128.store(xp, v128.shuffle<u32>(a, b, 0, 2, 4, 6));
    v128.store(xp, v128.shuffle<u32>(a, b, 1, 3, 5, 7), 16);
  }
}

/**
 * x in blocks of 32 as i16 with one scale: `max|x| / 32767`. A block of zeros (or of numbers below 2^-60) has scale
 * zero; a NaN or an infinity makes the scale NaN or infinite, and so the result.
 */
export function prepareQ8(x: usize, xp: usize, cols: i32): void {
  assert(cols % 32 == 0);
  let scales = xp + (usize(cols) << 1);
  const end = x + (usize(cols) << 2);
  for (; x < end; x += 128, xp += 64, scales += 4) {
    let largest = f32x4.abs(v128.load(x));
    for (let byte: usize = 16; byte < 128; byte += 16) {
      largest = f32x4.max(largest, f32x4.abs(v128.load(x + byte)));
    }
    largest = f32x4.max(largest, v128.shuffle<u32>(largest, largest, 2, 3, 0, 1));
    largest = f32x4.max(largest, v128.shuffle<u32>(largest, largest, 1, 0, 3, 2));
    const bound = f32x4.extract_lane(largest, 0);
    store<f32>(scales, bound < TINY_F16 ? 0 : (bound / 32767) * SCALE);
    const inverse = f32x4.splat(32767 / bound);
    for (let byte: usize = 0; byte < 64; byte += 16) {
      const a = f32x4.mul(v128.load(x + 2 * byte), inverse);
      const b = f32x4.mul(v128.load(x + 2 * byte, 16), inverse);
      v128.store(
        xp + byte,
        i16x8.narrow_i32x4_s(
          i32x4.trunc_sat_f32x4_s(f32x4.nearest(a)),
          i32x4.trunc_sat_f32x4_s(f32x4.nearest(b)),
        ),
      );
    }
  }
}
