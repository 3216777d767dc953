/**
 * Widening f16 to f32 by one multiplication.
 *
 * `h * 8192` moves the ten fraction and five exponent bits of an f16 to their places in an f32; a mask keeps the sign.
 * What is missing is the difference of the exponent biases: the f32 is 2^-112 times the f16 (an f16 denormal becomes
 * an f32 denormal, so that nothing is lost). Half of that factor is made up in x beforehand (2^56, see prepare.ts),
 * the other half in the result.
 *
 * `i32x4.dot_i16x8_s` does the multiplication on 8 numbers and keeps 4, so that columns come as even and odd ones.
 *
 * Constants are loaded from memory: V8 would rebuild a `splat(constant)` at each use.
 */
const TABLE = memory.data<u32>(
  [0x0000_2000, 0x2000_0000, 0x8fff_e000, 0x5b80_0000, 1, 0x1_0000],
  16,
);

/** 2^56, by which prepared activations of f16 and q8 are scaled up, and their results in the end. */
export const SCALE: f32 = 72057594037927936.0;

/** 2^112, which makes a widened f16 whole. */
export const WHOLE: f32 = 5192296858534827628530496329220096.0;

export class Half {
  /** The multiplier that widens the even numbers of eight f16. */
  @inline
  static even(): v128 {
    return v128.load_splat<u32>(TABLE);
  }

  /** The multiplier that widens the odd numbers of eight f16. */
  @inline
  static odd(): v128 {
    return v128.load_splat<u32>(TABLE, 4);
  }

  /** The mask of sign, exponent and fraction. */
  @inline
  static mask(): v128 {
    return v128.load_splat<u32>(TABLE, 8);
  }

  /** 2^56 in each lane. */
  @inline
  static scale(): v128 {
    return v128.load_splat<u32>(TABLE, 12);
  }

  /** The multiplier that picks the even ones of eight i16. */
  @inline
  static pickEven(): v128 {
    return v128.load_splat<u32>(TABLE, 16);
  }

  /** The multiplier that picks the odd ones of eight i16. */
  @inline
  static pickOdd(): v128 {
    return v128.load_splat<u32>(TABLE, 20);
  }

  /** Four f32, 2^-112 times those of the eight f16 that `multiplier` (even or odd) chooses. */
  @inline
  static widen(eight: v128, multiplier: v128, mask: v128): v128 {
    return v128.and(i32x4.dot_i16x8_s(eight, multiplier), mask);
  }
}
