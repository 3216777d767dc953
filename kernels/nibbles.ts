/**
 * q4: blocks of 32 nibbles n (0 to 15) and one f16 scale; a weight is (n - 8) * scale.
 *
 * Nibbles are multiplied as they are, by signed bytes x; what eight times the sum of x is too much is taken off per block
 * of x, once for all rows. A pair of such products has 12 bits and a sign, so that no i16 overflows, and relaxed SIMD's
 * dot product is exact: its second operand must have 7 bits, and has four.
 */
const TABLE = memory.data<u32>([0x0f0f_0f0f, 0x0001_0001], 16);

export class Nibbles {
  /** The mask of the low nibble of each byte. */
  @inline
  static mask(): v128 {
    return v128.load_splat<u32>(TABLE);
  }

  /** The multiplier that adds pairs of i16. */
  @inline
  static ones(): v128 {
    return v128.load_splat<u32>(TABLE, 4);
  }

  @inline
  static low(bytes: v128, mask: v128): v128 {
    return v128.and(bytes, mask);
  }

  @inline
  static high(bytes: v128, mask: v128): v128 {
    return v128.and(i16x8.shr_u(bytes, 4), mask);
  }

  /** `x[2 i] * n[2 i] + x[2 i + 1] * n[2 i + 1]`, i16, of signed bytes x and nibbles n. */
  @inline
  static dot(x: v128, n: v128): v128 {
    if (ASC_FEATURE_RELAXED_SIMD) return i16x8.relaxed_dot_i8x16_i7x16_s(x, n);
    return i16x8.narrow_i32x4_s(
      i32x4.extadd_pairwise_i16x8_s(i16x8.extmul_low_i8x16_s(x, n)),
      i32x4.extadd_pairwise_i16x8_s(i16x8.extmul_high_i8x16_s(x, n)),
    );
  }

  /** The products of a block of 32 columns, byte j having columns j and j + 16: eight sums of four. */
  @inline
  static block(bytes: v128, x0: v128, x1: v128, mask: v128): v128 {
    return i16x8.add(
      Nibbles.dot(x0, Nibbles.low(bytes, mask)),
      Nibbles.dot(x1, Nibbles.high(bytes, mask)),
    );
  }

  /** The sums of what `block` returns, of four blocks. No sum of 16 products has more than 15 bits. */
  @inline
  static sums(a: v128, b: v128, c: v128, d: v128, ones: v128): v128 {
    const ab = i16x8.narrow_i32x4_s(i32x4.dot_i16x8_s(a, ones), i32x4.dot_i16x8_s(b, ones));
    const cd = i16x8.narrow_i32x4_s(i32x4.dot_i16x8_s(c, ones), i32x4.dot_i16x8_s(d, ones));
    const all = i16x8.narrow_i32x4_s(i32x4.dot_i16x8_s(ab, ones), i32x4.dot_i16x8_s(cd, ones));
    return i32x4.dot_i16x8_s(all, ones);
  }
}
