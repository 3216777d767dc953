import { ROUND, Scale } from "./scale";

/**
 * Stores a row x (f32[cols], all finite) as q4: | cols / 32 f16 scales | cols / 2 bytes: column i low, column i + 16 high |. Of four
 * scales a block takes the one with the least squared error, whose terms are added in the order of the numbers. The definition is in
 * src/format/quantize_q4.ts.
 */
export function storeRowQ4(x: usize, row: usize, cols: i32): void {
  assert(cols % 32 == 0);
  const round = f64x2.splat(ROUND), eight = i8x16.splat(8);
  let scales = row, numbers = row + (usize(cols) >> 4);
  for (const end = x + (usize(cols) << 2); x < end; x += 128, scales += 2, numbers += 16) {
    const bits = Block.scale(x, Block.extreme(x));
    store<u16>(scales, u16(bits));
    if (bits == 0) {
      v128.store(numbers, i8x16.splat(i8(0x88)));
      continue;
    }
    const scale = f64x2.splat(f64(Scale.load(bits)));
    const low = Block.nibbles(Scale.divide16(x, scale, round), eight);
    const high = Block.nibbles(Scale.divide16(x + 64, scale, round), eight);
    v128.store(numbers, v128.or(low, i16x8.shl(high, 4)));
  }
}

class Block {
  /** The first of the numbers with the largest magnitude. */
  @inline
  static extreme(x: usize): f32 {
    const largest = Scale.largest(x);
    for (let byte: usize = 0; byte < 128; byte += 16) {
      const four = v128.load(x + byte);
      const mask = i32x4.bitmask(f32x4.eq(f32x4.abs(four), largest));
      if (mask != 0) return load<f32>(x + byte + (usize(ctz(mask)) << 2));
    }
    return 0; // Only where a number is NaN.
  }

  /** The bits of the best of four scales; 0 where all of them are zero. */
  static scale(x: usize, extreme: f32): u32 {
    const b0 = Scale.store(extreme / -8), b1 = Scale.store(extreme / -8.5);
    const b2 = Scale.store(extreme / -7.5), b3 = Scale.store(extreme / -7);
    const s0 = f64x2(f64(Scale.load(b0)), f64(Scale.load(b1)));
    const s1 = f64x2(f64(Scale.load(b2)), f64(Scale.load(b3)));
    const round = f64x2.splat(ROUND), most = f64x2.splat(7), least = f64x2.splat(-8);
    let e0 = f64x2.splat(0), e1 = e0;
    for (let byte: usize = 0; byte < 128; byte += 4) {
      const value = f64x2.splat(f64(load<f32>(x + byte)));
      let d0 = f64x2.sub(f64x2.add(f64x2.div(value, s0), round), round);
      let d1 = f64x2.sub(f64x2.add(f64x2.div(value, s1), round), round);
      d0 = f64x2.pmax(f64x2.pmin(d0, most), least);
      d1 = f64x2.pmax(f64x2.pmin(d1, most), least);
      d0 = f64x2.sub(value, f64x2.mul(s0, d0));
      d1 = f64x2.sub(value, f64x2.mul(s1, d1));
      e0 = f64x2.add(e0, f64x2.mul(d0, d0));
      e1 = f64x2.add(e1, f64x2.mul(d1, d1));
    }
    let best: u32 = 0, error: f64 = Infinity;
    if (Block.isBetter(b0, f64x2.extract_lane(e0, 0), error)) {
      best = b0, error = f64x2.extract_lane(e0, 0);
    }
    if (Block.isBetter(b1, f64x2.extract_lane(e0, 1), error)) {
      best = b1, error = f64x2.extract_lane(e0, 1);
    }
    if (Block.isBetter(b2, f64x2.extract_lane(e1, 0), error)) {
      best = b2, error = f64x2.extract_lane(e1, 0);
    }
    if (Block.isBetter(b3, f64x2.extract_lane(e1, 1), error)) best = b3;
    return best;
  }

  /** Zeros of either sign are no scales. */
  @inline
  static isBetter(bits: u32, error: f64, than: f64): bool {
    return (bits & 0x7fff) != 0 && error < than;
  }

  /** Numbers of -8 to 7, plus 8. */
  @inline
  static nibbles(numbers: v128, eight: v128): v128 {
    const most = i8x16.splat(7), least = i8x16.splat(-8);
    return i8x16.add(i8x16.max_s(i8x16.min_s(numbers, most), least), eight);
  }
}
