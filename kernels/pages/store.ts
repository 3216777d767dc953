import { PAGE_POSITIONS } from "./page";
import { Row } from "./row";

/** A head's key of one position, f32[headDim], into its place (less than PAGE_POSITIONS) in a block of keys (page.ts). */
export function storeKeyF32(row: usize, block: usize, place: i32, headDim: i32): void {
  let target = Place.key(block, place, usize(headDim) << 2);
  for (const end = row + (usize(headDim) << 2); row < end; row += 16, target += 64) {
    v128.store(target, v128.load(row));
  }
}

/** The same for a value, in a block of values. */
export function storeValueF32(row: usize, block: usize, place: i32, headDim: i32): void {
  let target = block + (usize(place) << 6);
  const blockLength = usize(PAGE_POSITIONS) << 6;
  for (const end = row + (usize(headDim) << 2); row < end; row += 64, target += blockLength) {
    memory.copy(target, row, 64);
  }
}

/** Numbers are rounded to even, from 65520 on to infinity. */
export function storeKeyF16(row: usize, block: usize, place: i32, headDim: i32): void {
  let target = Place.key(block, place, usize(headDim) << 1);
  for (const end = row + (usize(headDim) << 2); row < end; row += 32, target += 64) {
    v128.store(target, Narrow.toF16(row));
  }
}

export function storeValueF16(row: usize, block: usize, place: i32, headDim: i32): void {
  let target = block + (usize(place) << 5);
  const blockLength = usize(PAGE_POSITIONS) << 5;
  for (const end = row + (usize(headDim) << 2); row < end; row += 64, target += blockLength) {
    v128.store(target, Narrow.toF16(row));
    v128.store(target, Narrow.toF16(row + 32), 16);
  }
}

/** Bytes with one scale: the largest magnitude / 127, zero if that is below 2^-60; NaN and infinity make it such. */
export function storeKeyQ8(row: usize, block: usize, place: i32, headDim: i32): void {
  const bound = Row.bound(row, headDim), inverse = f32x4.splat(127 / bound);
  const scales = block + usize(PAGE_POSITIONS) * usize(headDim);
  store<f32>(scales + (usize(place) << 2), Row.scale(bound, 127));
  let target = Place.key(block, place, usize(headDim));
  for (const end = row + (usize(headDim) << 2); row < end; row += 64, target += 64) {
    v128.store(target, Narrow.toI8(row, inverse));
  }
}

export function storeValueQ8(row: usize, block: usize, place: i32, headDim: i32): void {
  const bound = Row.bound(row, headDim), inverse = f32x4.splat(127 / bound);
  const scales = block + usize(PAGE_POSITIONS) * usize(headDim);
  store<f32>(scales + (usize(place) << 2), Row.scale(bound, 127));
  let target = block + (usize(place >> 1) << 5);
  const blockLength = usize(PAGE_POSITIONS) << 4;
  // Every other byte, as values of two positions lie side by side.
  const up = place & 1 ? 8 : 0, mine = i16x8.shl(i16x8.splat(255), up);
  for (const end = row + (usize(headDim) << 2); row < end; row += 64, target += blockLength) {
    const sixteen = Narrow.toI8(row, inverse);
    const low = i16x8.shl(i16x8.extend_low_i8x16_s(sixteen), up);
    const high = i16x8.shl(i16x8.extend_high_i8x16_s(sixteen), up);
    v128.store(target, v128.bitselect(low, v128.load(target), mine));
    v128.store(target, v128.bitselect(high, v128.load(target, 16), mine), 16);
  }
}

class Place {
  /** Where the first 16 bytes of a key go: four keys lie side by side. */
  @inline
  static key(block: usize, place: i32, rowLength: usize): usize {
    return block + usize(place >> 2) * (rowLength << 2) + (usize(place & 3) << 4);
  }
}

class Narrow {
  /** 16 f32 times `inverse` as bytes. */
  @inline
  static toI8(x: usize, inverse: v128): v128 {
    return i8x16.narrow_i16x8_s(Row.round(x, inverse), Row.round(x + 32, inverse));
  }

  /** Eight f32 as f16. */
  @inline
  static toF16(x: usize): v128 {
    return i16x8.narrow_i32x4_u(Narrow.four(v128.load(x)), Narrow.four(v128.load(x, 16)));
  }

  /** Four f32 as f16 in the low halves of u32. */
  @inline
  static four(x: v128): v128 {
    const sign = v128.and(i32x4.shr_u(x, 16), i32x4.splat(0x8000));
    const magnitude = v128.and(x, i32x4.splat(0x7fffffff));
    // Ties to even: half a unit of the last place less one, and one more where the last bit is odd.
    const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
    const rebased = i32x4.add(magnitude, i32x4.splat(((15 - 127) << 23) + 0xfff));
    let half = i32x4.shr_u(i32x4.add(rebased, odd), 13);
    // Below 2^-14 the addition of 0.5 rounds to multiples of 2^-24.
    const small = i32x4.sub(f32x4.add(magnitude, f32x4.splat(0.5)), i32x4.splat(0x3f000000));
    half = v128.bitselect(small, half, i32x4.lt_s(magnitude, i32x4.splat(0x38800000)));
    const infinite = i32x4.splat(0x7c00);
    half = v128.bitselect(infinite, half, i32x4.ge_s(magnitude, i32x4.splat(0x47800000)));
    half = v128.bitselect(
      i32x4.splat(0x7e00),
      half,
      i32x4.gt_s(magnitude, i32x4.splat(0x7f800000)),
    );
    return v128.or(half, sign);
  }
}
