/**
 * Experts: FFNs of which a router chooses some for each position. Expert e has the neurons from e * `each` on; `each` is a
 * multiple of 32.
 */

/** Writes the numbers of the `wanted` largest of count scores to `chosen`, u32, the largest first, the first of equals. */
export function chooseExperts(scores: usize, count: i32, wanted: i32, chosen: usize): void {
  assert(wanted > 0 && wanted <= count);
  for (let k = 0; k < wanted; k++) {
    let best = -1, largest: f32 = 0;
    for (let e = 0; e < count; e++) {
      const score = load<f32>(scores + (usize(e) << 2));
      // NaN is chosen by nobody, unless all are.
      if (best >= 0 && !(score > largest)) continue;
      let isTaken = false;
      for (let i = 0; i < k; i++) {
        if (load<u32>(chosen + (usize(i) << 2)) == u32(e)) isTaken = true;
      }
      if (isTaken) continue;
      best = e;
      largest = score;
    }
    store<u32>(chosen + (usize(k) << 2), u32(best));
  }
}

/**
 * `weights[e]`, f32[count], becomes `shares[e]` of those that are chosen (divided by their sum if `isNormalized`), and 0 of the others.
 */
export function weighExperts(
  shares: usize,
  count: i32,
  chosen: usize,
  wanted: i32,
  isNormalized: i32,
  weights: usize,
): void {
  let sum: f32 = 0;
  for (let k = 0; k < wanted; k++) {
    sum += load<f32>(shares + (usize(load<u32>(chosen + (usize(k) << 2))) << 2));
  }
  memory.fill(weights, 0, usize(count) << 2);
  for (let k = 0; k < wanted; k++) {
    const at = usize(load<u32>(chosen + (usize(k) << 2))) << 2, share = load<f32>(shares + at);
    store<f32>(weights + at, isNormalized != 0 ? share / sum : share);
  }
}

/** Bits of the neurons of those that are chosen, for rows [rowFrom, rowTo), multiples of 32. Returns how many are set. */
export function markExperts(
  chosen: usize,
  wanted: i32,
  each: i32,
  mask: usize,
  rowFrom: i32,
  rowTo: i32,
): i32 {
  assert(rowFrom % 32 == 0 && rowTo % 32 == 0 && each % 32 == 0);
  memory.fill(mask + (usize(rowFrom) >> 3), 0, usize(rowTo - rowFrom) >> 3);
  let count = 0;
  for (let k = 0; k < wanted; k++) {
    const first = i32(load<u32>(chosen + (usize(k) << 2))) * each;
    const from = max(first, rowFrom), to = min(first + each, rowTo);
    if (from >= to) continue;
    memory.fill(mask + (usize(from) >> 3), 0xff, usize(to - from) >> 3);
    count += to - from;
  }
  return count;
}

/** For from <= j < to, k = order[j] (order 0: k = j): `activations[k] *= weights[neurons[k] / each]`. */
export function scaleByExpert(
  activations: usize,
  neurons: usize,
  order: usize,
  from: i32,
  to: i32,
  weights: usize,
  each: i32,
): void {
  for (let j = from; j < to; j++) {
    const k = order != 0 ? load<u32>(order + (usize(j) << 2)) : u32(j), at = usize(k) << 2;
    const expert = load<u32>(neurons + at) / u32(each);
    const weight = load<f32>(weights + (usize(expert) << 2));
    store<f32>(activations + at, load<f32>(activations + at) * weight);
  }
}
