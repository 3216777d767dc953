import { Half, WHOLE } from "../half";

/** 1.5 x 2^23: adding it to a number of at most 2^22 leaves the nearest integer (ties to even) in the low bits. */
const TABLE = memory.data<u32>([0x4b40_0000, 0x0000_ffff, 0x7fff_7fff, 0x0000_00ff], 16);

/** The f16 scales of down columns, and the coefficients made of them. */
export class Coefficients {
  /** The largest of the `cols / 32` scales at `scales`; a NaN, or infinity, is larger than all others. */
  static largestScale(scales: usize, cols: usize): f32 {
    const magnitude = v128.load_splat<u32>(TABLE, 8);
    const end = scales + (cols >> 4);
    let largest = i16x8.splat(0);
    for (; scales + 16 <= end; scales += 16) {
      largest = i16x8.max_s(largest, v128.and(v128.load(scales), magnitude));
    }
    for (; scales < end; scales += 2) {
      largest = i16x8.max_s(largest, v128.and(v128.load_splat<u16>(scales), magnitude));
    }
    largest = i16x8.max_s(largest, v128.shuffle<u32>(largest, largest, 2, 3, 0, 1));
    largest = i16x8.max_s(largest, v128.shuffle<u32>(largest, largest, 1, 0, 3, 2));
    largest = i16x8.max_s(largest, v128.shuffle<u16>(largest, largest, 1, 0, 3, 2, 5, 4, 7, 6));
    const bits = u32(i16x8.extract_lane_u(largest, 0));
    return bits < 0x7c00 ? reinterpret<f32>(bits << 13) * WHOLE : NaN;
  }

  /**
   * For blocks of two columns: `scale * activation` of both, rounded to i16, as a pair. `scalesA` and `scalesB` are the
   * addresses of the scales of the first block, `activationA` and `activationB` are counted in steps of the grid.
   */
  static store(
    target: usize,
    scalesA: usize,
    activationA: f32,
    scalesB: usize,
    activationB: f32,
    blocks: usize,
  ): void {
    const a = f32x4.splat(activationA), b = f32x4.splat(activationB);
    const mask = Half.mask(), whole = f32x4.splat(WHOLE);
    const round = v128.load_splat<u32>(TABLE), low = v128.load_splat<u32>(TABLE, 4);
    const end = target + (blocks << 2);
    for (; target + 16 <= end; target += 16, scalesA += 8, scalesB += 8) {
      const four = Coefficients.round(v128.load64_zero(scalesA), a, mask, whole, round);
      const other = Coefficients.round(v128.load64_zero(scalesB), b, mask, whole, round);
      v128.store(target, v128.or(v128.and(four, low), i32x4.shl(other, 16)));
    }
    for (; target < end; target += 4, scalesA += 2, scalesB += 2) {
      const one = Coefficients.round(v128.load_splat<u16>(scalesA), a, mask, whole, round);
      const other = Coefficients.round(v128.load_splat<u16>(scalesB), b, mask, whole, round);
      const pair = v128.or(v128.and(one, low), i32x4.shl(other, 16));
      store<i32>(target, i32x4.extract_lane(pair, 0));
    }
  }

  /**
   * As `store`, rounded to i8: of each block, `target` gets a, b, a, b, and -8 (a + b) is added to both i16 at `offsets`.
   */
  static storeBytes(
    target: usize,
    offsets: usize,
    scalesA: usize,
    activationA: f32,
    scalesB: usize,
    activationB: f32,
    blocks: usize,
  ): void {
    const a = f32x4.splat(activationA), b = f32x4.splat(activationB);
    const mask = Half.mask(), whole = f32x4.splat(WHOLE), round = v128.load_splat<u32>(TABLE);
    const end = target + (blocks << 2);
    for (; target + 16 <= end; target += 16, offsets += 16, scalesA += 8, scalesB += 8) {
      const four = Coefficients.round(v128.load64_zero(scalesA), a, mask, whole, round);
      const other = Coefficients.round(v128.load64_zero(scalesB), b, mask, whole, round);
      v128.store(target, Coefficients.twice(four, other));
      const eightfold = Coefficients.eightfold(four, other, round);
      v128.store(offsets, i16x8.sub(v128.load(offsets), eightfold));
    }
    for (; target < end; target += 4, offsets += 4, scalesA += 2, scalesB += 2) {
      const one = Coefficients.round(v128.load_splat<u16>(scalesA), a, mask, whole, round);
      const other = Coefficients.round(v128.load_splat<u16>(scalesB), b, mask, whole, round);
      store<i32>(target, i32x4.extract_lane(Coefficients.twice(one, other), 0));
      const eightfold = Coefficients.eightfold(one, other, round);
      const offset = i16x8.sub(v128.load_splat<u32>(offsets), eightfold);
      store<i32>(offsets, i32x4.extract_lane(offset, 0));
    }
  }

  /** The low bytes of a and b, of each lane: a, b, a, b. */
  @inline
  static twice(a: v128, b: v128): v128 {
    const byte = v128.load_splat<u32>(TABLE, 12);
    const pair = v128.or(v128.and(a, byte), i32x4.shl(v128.and(b, byte), 8));
    return v128.or(pair, i32x4.shl(pair, 16));
  }

  /** 8 (a + b) of each lane, as two i16. */
  @inline
  static eightfold(a: v128, b: v128, round: v128): v128 {
    const sum = i32x4.shl(i32x4.add(i32x4.sub(a, round), i32x4.sub(b, round)), 3);
    return v128.or(v128.and(sum, v128.load_splat<u32>(TABLE, 4)), i32x4.shl(sum, 16));
  }

  /** Four f16 times `activation`, as integers in the low bits. */
  @inline
  static round(halves: v128, activation: v128, mask: v128, whole: v128, round: v128): v128 {
    const bits = v128.and(i32x4.shl(i32x4.extend_low_i16x8_s(halves), 13), mask);
    return f32x4.add(f32x4.mul(f32x4.mul(bits, whole), activation), round);
  }
}
