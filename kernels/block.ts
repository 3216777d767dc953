import { Half } from "./half";

/** A q8 block: 32 signed bytes and one f16 scale. */
export class Block {
  /**
   * The exact dot product of the 32 bytes at `weights` and 32 i16, in four lanes as f32. A lane is at most
   * 8 * 128 * 32767 in magnitude, so that no i32 overflows.
   */
  @inline
  static dot(weights: usize, x0: v128, x1: v128, x2: v128, x3: v128): v128 {
    let sum = i32x4.dot_i16x8_s(v128.load_ext<i8>(weights), x0);
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(v128.load_ext<i8>(weights, 8), x1));
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(v128.load_ext<i8>(weights, 16), x2));
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(v128.load_ext<i8>(weights, 24), x3));
    return f32x4.convert_i32x4_s(sum);
  }

  /** Four of eight i16, the even or the odd ones, as f32: a multiplication by one, which is cheaper than a shuffle. */
  @inline
  static numbers(eight: v128, pick: v128): v128 {
    return f32x4.convert_i32x4_s(i32x4.dot_i16x8_s(eight, pick));
  }

  /** The f16 at `scale`, 2^-112 times itself, multiplied by `factor`, in each lane. */
  @inline
  static scale(scale: usize, factor: v128, mask: v128): v128 {
    const four = i32x4.shl(i32x4.extend_low_i16x8_s(v128.load_splat<u16>(scale)), 13);
    return f32x4.mul(v128.and(four, mask), factor);
  }

  /** `scale` of four blocks that follow each other, one in each lane. */
  @inline
  static scales(scales: usize, factors: v128, mask: v128): v128 {
    const four = i32x4.shl(i32x4.extend_low_i16x8_s(v128.load64_zero(scales)), 13);
    return f32x4.mul(v128.and(four, mask), factors);
  }

  /** One lane (a constant) of four, in each lane. */
  @inline
  static splat(four: v128, lane: u8): v128 {
    return lane == 0
      ? v128.shuffle<u32>(four, four, 0, 0, 0, 0)
      : lane == 1
      ? v128.shuffle<u32>(four, four, 1, 1, 1, 1)
      : lane == 2
      ? v128.shuffle<u32>(four, four, 2, 2, 2, 2)
      : v128.shuffle<u32>(four, four, 3, 3, 3, 3);
  }
}
