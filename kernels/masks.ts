import { Activation, RELU } from "./activation";

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

/**
 * `values[row]` becomes its activation (kernels/activation.ts), or zero where its magnitude is below `cut` (0: nowhere); bit: that
 * is not zero.
 */
export function activeMask(
  values: usize,
  mask: usize,
  rowFrom: i32,
  rowTo: i32,
  kind: i32,
  threshold: f32,
  cut: f32,
): i32 {
  assert(rowFrom % 32 == 0 && rowTo % 32 == 0);
  if (kind != RELU) {
    for (let row = rowFrom; row < rowTo; row++) {
      const at = values + (usize(row) << 2);
      store<f32>(at, Activation.of(kind, load<f32>(at), threshold, 0));
    }
  }
  const zero = f32x4.splat(0);
  const end = usize(rowTo) << 2;
  let count = 0;
  for (let byte = usize(rowFrom) << 2; byte < end; byte += 128) {
    let bits: u32 = 0;
    for (let group: usize = 0; group < 8; group++) {
      const at = byte + (group << 4);
      let value = v128.load(values + at);
      if (kind == RELU) {
        value = f32x4.max(value, zero);
        v128.store(values + at, value);
      }
      if (cut > 0) { // A NaN is below nothing.
        value = v128.andnot(value, f32x4.lt(f32x4.abs(value), f32x4.splat(cut)));
        v128.store(values + at, value);
      }
      bits |= u32(i32x4.bitmask(f32x4.ne(value, zero))) << u32(group << 2);
    }
    store<u32>(mask + (byte >> 5), bits);
    count += popcnt<u32>(bits);
  }
  return count;
}

/**
 * For from <= j < to, k = order[j]: appends k to `picked` if bit `neurons[k]` is set, else `activations[k] = 0`. Returns how
 * many were picked.
 *
 * `order`, `neurons`, `picked`: u32; `activations`: f32.
 */
export function pickNamed(
  order: usize,
  from: i32,
  to: i32,
  neurons: usize,
  mask: usize,
  picked: usize,
  activations: usize,
): i32 {
  assert(from >= 0);
  let at = picked;
  for (let j = from; j < to; j++) {
    const k = usize(load<u32>(order + (usize(j) << 2)));
    const neuron = load<u32>(neurons + (k << 2));
    const word = load<u32>(mask + (usize(neuron >> 5) << 2));
    if ((word >> (neuron & 31)) & 1) {
      store<u32>(at, u32(k));
      at += 4;
    } else store<f32>(activations + (k << 2), 0);
  }
  return i32((at - picked) >> 2);
}

/**
 * For from <= j < to, k = order[j] (order 0: k = j): appends k to `picked` (which may be `order`) if `activations[k]` is not zero.
 * Returns how many.
 */
export function pickActive(
  order: usize,
  from: i32,
  to: i32,
  activations: usize,
  picked: usize,
): i32 {
  assert(from >= 0);
  let at = picked;
  for (let j = from; j < to; j++) {
    const k = order != 0 ? load<u32>(order + (usize(j) << 2)) : u32(j);
    if (load<f32>(activations + (usize(k) << 2)) == 0) continue;
    store<u32>(at, k);
    at += 4;
  }
  return i32((at - picked) >> 2);
}

/**
 * For 0 <= k < count: appends k to `picked` if `activations[k]` of any position is not zero; a position's begin `stride`
 * bytes behind those of the one before. Returns how many.
 */
export function pickAny(
  count: i32,
  activations: usize,
  stride: usize,
  positions: i32,
  picked: usize,
): i32 {
  let at = picked;
  for (let k: usize = 0; k < usize(count); k++) {
    let y = activations + (k << 2);
    for (let position = 0; position < positions; position++, y += stride) {
      if (load<f32>(y) == 0) continue;
      store<u32>(at, u32(k));
      at += 4;
      break;
    }
  }
  return i32((at - picked) >> 2);
}
