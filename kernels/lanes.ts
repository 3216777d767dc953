/**
 * What every kernel does with its four f32 lanes. One rule holds everywhere: a dot product over columns has ONE
 * order per dtype, whoever computes it (a tiled matrix row or the up row of a bundle), so that bits agree.
 */
export class Lanes {
  /**
   * `accumulator + a * b` per lane. Fused where the runtime has it (relaxed build), rounded twice in the plain build,
   * whose bits are therefore the same in every runtime. The accumulator comes first in the addition: the other way
   * round, compilers load in the wrong order.
   */
  @inline
  static madd(a: v128, b: v128, accumulator: v128): v128 {
    if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, accumulator);
    return f32x4.add(accumulator, f32x4.mul(a, b));
  }

  /** The sum of four lanes, as `(lane0 + lane2) + (lane1 + lane3)`. */
  @inline
  static sum(a: v128): f32 {
    const pairs = f32x4.add(a, v128.shuffle<u32>(a, a, 2, 3, 0, 1));
    return f32x4.extract_lane(pairs, 0) + f32x4.extract_lane(pairs, 1);
  }

  /** `sum` of four vectors at once, with the same bits: lane i is the sum of the i-th vector. */
  @inline
  static sums(a: v128, b: v128, c: v128, d: v128): v128 {
    const ab = f32x4.add(v128.shuffle<u32>(a, b, 0, 1, 4, 5), v128.shuffle<u32>(a, b, 2, 3, 6, 7));
    const cd = f32x4.add(v128.shuffle<u32>(c, d, 0, 1, 4, 5), v128.shuffle<u32>(c, d, 2, 3, 6, 7));
    return f32x4.add(
      v128.shuffle<u32>(ab, cd, 0, 2, 4, 6),
      v128.shuffle<u32>(ab, cd, 1, 3, 5, 7),
    );
  }

  /** Four f32 that all equal the f32 at `address`. */
  @inline
  static splatAt(address: usize): v128 {
    return v128.load_splat<f32>(address);
  }
}
