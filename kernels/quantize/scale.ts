/** Scales of blocks: f16 numbers, as numbers are divided by them *as stored*. */

/** 2^112, which makes an f16 whole whose bits were moved to an f32. */
const WHOLE: f32 = 5192296858534827628530496329220096.0;
/** 1.5 x 2^52: added to a small f64 it leaves the nearest integer, ties to even, in the low bits. */
export const ROUND: f64 = 6755399441055744.0;

export class Scale {
  /** The bits of the f16 nearest to `value`, ties to even. */
  @inline
  static store(value: f32): u32 {
    const bits = reinterpret<u32>(value), sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
    if (size >= 0x477ff000) return sign | 0x7c00; // From 65520 on.
    if (size < 0x38800000) { // Below 2^-14: the addition rounds to multiples of 2^-24.
      return sign | (reinterpret<u32>(reinterpret<f32>(size) + 0.5) - 0x3f000000);
    }
    return sign | ((size + 0xc8000fff + ((size >> 13) & 1)) >> 13);
  }

  /** The number of an f16's bits. */
  @inline
  static load(half: u32): f32 {
    return reinterpret<f32>(((half & 0x8000) << 16) | ((half & 0x7fff) << 13)) * WHOLE;
  }

  /** The largest magnitude of 32 numbers, in each lane. */
  @inline
  static largest(x: usize): v128 {
    let largest = f32x4.abs(v128.load(x));
    for (let byte: usize = 16; byte < 128; byte += 16) {
      largest = f32x4.max(largest, f32x4.abs(v128.load(x + byte)));
    }
    largest = f32x4.max(largest, v128.shuffle<u32>(largest, largest, 2, 3, 0, 1));
    return f32x4.max(largest, v128.shuffle<u32>(largest, largest, 1, 0, 3, 2));
  }

  /** Four numbers by a scale, rounded to i32. A division in f64, as only so ties are found exactly. */
  @inline
  static divide(x: usize, scale: v128, round: v128): v128 {
    const four = v128.load(x), upper = v128.shuffle<u32>(four, four, 2, 3, 2, 3);
    const a = f64x2.add(f64x2.div(f64x2.promote_low_f32x4(four), scale), round);
    const b = f64x2.add(f64x2.div(f64x2.promote_low_f32x4(upper), scale), round);
    return v128.shuffle<u32>(a, b, 0, 2, 4, 6);
  }

  /** Sixteen numbers by a scale, rounded to i8; larger ones become the largest i8. */
  @inline
  static divide16(x: usize, scale: v128, round: v128): v128 {
    return i8x16.narrow_i16x8_s(
      i16x8.narrow_i32x4_s(Scale.divide(x, scale, round), Scale.divide(x + 16, scale, round)),
      i16x8.narrow_i32x4_s(Scale.divide(x + 32, scale, round), Scale.divide(x + 48, scale, round)),
    );
  }
}
