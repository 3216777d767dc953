/**
 * Bit masks of rows: bit `row % 32` of the u32 `mask[row / 32]`. rowFrom and rowTo are multiples of 32, so that lanes
 * write different words. Both return how many bits they set; a NaN sets its bit, so that it is not hidden.
 */

/** Bit: `scores[row] + bias[row] > 0`. */
export function thresholdMask(
  scores: usize,
  bias: usize,
  mask: usize,
  rowFrom: i32,
  rowTo: i32,
): i32 {
  assert(rowFrom % 32 == 0 && rowTo % 32 == 0);
  const zero = f32x4.splat(0);
  const end = usize(rowTo) << 2;
  let count = 0;
  for (let byte = usize(rowFrom) << 2; byte < end; byte += 128) {
    let not: u32 = 0;
    for (let group: usize = 0; group < 8; group++) {
      const at = byte + (group << 4);
      const value = f32x4.add(v128.load(scores + at), v128.load(bias + at));
      not |= u32(i32x4.bitmask(f32x4.le(value, zero))) << u32(group << 2);
    }
    store<u32>(mask + (byte >> 5), ~not);
    count += popcnt<u32>(~not);
  }
  return count;
}

/** `values[row] = max(values[row], 0)`; bit: that is not zero. */
export function reluMask(values: usize, mask: usize, rowFrom: i32, rowTo: i32): i32 {
  assert(rowFrom % 32 == 0 && rowTo % 32 == 0);
  const zero = f32x4.splat(0);
  const end = usize(rowTo) << 2;
  let count = 0;
  for (let byte = usize(rowFrom) << 2; byte < end; byte += 128) {
    let bits: u32 = 0;
    for (let group: usize = 0; group < 8; group++) {
      const at = byte + (group << 4);
      const value = f32x4.max(v128.load(values + at), zero);
      v128.store(values + at, value);
      bits |= u32(i32x4.bitmask(f32x4.ne(value, zero))) << u32(group << 2);
    }
    store<u32>(mask + (byte >> 5), bits);
    count += popcnt<u32>(bits);
  }
  return count;
}
