import { Tiny } from "../prepare";

/** Rounding a row of n f32 (a multiple of 8) to integers with one scale. */
export class Row {
  /** To i16. Returns the scale: the largest magnitude / 32767, zero if that is below 2^-60; NaN and infinity go on. */
  static round16(x: usize, target: usize, n: i32): f32 {
    const bound = Row.bound(x, n);
    const inverse = f32x4.splat(32767 / bound);
    for (const end = x + (usize(n) << 2); x < end; x += 32, target += 16) {
      v128.store(target, Row.round(x, inverse));
    }
    return Row.scale(bound, 32767);
  }

  /** What one step is worth if `bound` takes `steps` of them. */
  @inline
  static scale(bound: f32, steps: f32): f32 {
    return bound < Tiny.F16 ? 0 : bound / steps;
  }

  /** The largest magnitude; NaN if there is one. */
  static bound(x: usize, n: i32): f32 {
    let largest = f32x4.splat(0);
    for (const end = x + (usize(n) << 2); x < end; x += 16) {
      largest = f32x4.max(largest, f32x4.abs(v128.load(x)));
    }
    largest = f32x4.max(largest, v128.shuffle<u32>(largest, largest, 2, 3, 0, 1));
    largest = f32x4.max(largest, v128.shuffle<u32>(largest, largest, 1, 0, 3, 2));
    return f32x4.extract_lane(largest, 0);
  }

  /** Eight f32 times `inverse`, rounded to even; NaN becomes 0. */
  @inline
  static round(x: usize, inverse: v128): v128 {
    return i16x8.narrow_i32x4_s(
      i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x), inverse))),
      i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x, 16), inverse))),
    );
  }
}
