/**
 * The elementwise part of fitting by the balanced logistic loss: gradients of scores, and Adam.
 */

/** e^-|x| for four lanes: a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2], within 2 units in the last place. */
function expOfMinusMagnitude(x: v128): v128 {
  const y = f32x4.max(f32x4.neg(f32x4.abs(x)), f32x4.splat(-87));
  const n = f32x4.nearest(f32x4.mul(y, f32x4.splat(1.44269504)));
  let r = f32x4.sub(y, f32x4.mul(n, f32x4.splat(0.693359375)));
  r = f32x4.sub(r, f32x4.mul(n, f32x4.splat(-2.12194440e-4)));
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.splat(1.3981999507e-3), f32x4.mul(p, r));
  p = f32x4.add(f32x4.splat(8.3334519073e-3), f32x4.mul(p, r));
  p = f32x4.add(f32x4.splat(4.1665795894e-2), f32x4.mul(p, r));
  p = f32x4.add(f32x4.splat(1.6666665459e-1), f32x4.mul(p, r));
  p = f32x4.add(f32x4.splat(5.0000001201e-1), f32x4.mul(p, r));
  p = f32x4.add(f32x4.add(f32x4.mul(f32x4.mul(p, r), r), r), f32x4.splat(1));
  const scale = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23);
  return f32x4.mul(p, scale);
}

/**
 * Replaces scores by the gradient of the balanced logistic loss. For scores s (bias not yet added) of one position:
 *
 *   p = 1 / (1 + e^-(s + bias)),   gradient = active ? (p - 1) * positive : p * negative
 *
 * scores: f32[rows][n], n a multiple of 32; bias: f32[n]; active: u32[rows][n / 32]; biasGradient: f32[n] gets the sums
 * over rows, added to what is there.
 */
export function logisticGradient(
  scores: usize,
  bias: usize,
  active: usize,
  biasGradient: usize,
  rows: i32,
  n: i32,
  positive: f32,
  negative: f32,
): void {
  const one = f32x4.splat(1), zero = f32x4.splat(0);
  const positives = f32x4.splat(positive), negatives = f32x4.splat(negative);
  const bits = i32x4(1, 2, 4, 8);
  const rowBytes = usize(n) << 2;
  for (let row = 0; row < rows; row++, scores += rowBytes) {
    for (let at: usize = 0; at < rowBytes; at += 128, active += 4) {
      let word = load<u32>(active);
      for (let group = at; group < at + 128; group += 16, word >>= 4) {
        const x = f32x4.add(v128.load(scores + group), v128.load(bias + group));
        const e = expOfMinusMagnitude(x);
        const small = f32x4.div(e, f32x4.add(one, e));
        // p for x >= 0 is 1 - small; 1 - p is what the gradient of an active one needs, without cancellation.
        const isNegative = f32x4.lt(x, zero);
        const p = v128.bitselect(small, f32x4.sub(one, small), isNegative);
        const q = v128.bitselect(f32x4.sub(one, small), small, isNegative);
        const isActive = i32x4.ne(v128.and(i32x4.splat(word), bits), zero);
        const gradient = v128.bitselect(
          f32x4.neg(f32x4.mul(q, positives)),
          f32x4.mul(p, negatives),
          isActive,
        );
        v128.store(scores + group, gradient);
        const sum = biasGradient + group;
        v128.store(sum, f32x4.add(v128.load(sum), gradient));
      }
    }
  }
}

/**
 * One step of Adam (Kingma and Ba 2015) over `count` numbers, a multiple of 4, with corrections in `rate`:
 * mean and square are the running moments, `weights -= rate * mean / (sqrt(square) + epsilon)`. Zeroes the gradient.
 */
export function adamStep(
  weights: usize,
  gradient: usize,
  mean: usize,
  square: usize,
  count: i32,
  rate: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
): void {
  const b1 = f32x4.splat(beta1), b2 = f32x4.splat(beta2);
  const c1 = f32x4.splat(1 - beta1), c2 = f32x4.splat(1 - beta2);
  const rates = f32x4.splat(rate), small = f32x4.splat(epsilon);
  const end = usize(count) << 2;
  for (let at: usize = 0; at < end; at += 16) {
    const g = v128.load(gradient + at);
    const m = f32x4.add(f32x4.mul(v128.load(mean + at), b1), f32x4.mul(g, c1));
    const v = f32x4.add(f32x4.mul(v128.load(square + at), b2), f32x4.mul(f32x4.mul(g, g), c2));
    v128.store(mean + at, m);
    v128.store(square + at, v);
    const change = f32x4.div(f32x4.mul(rates, m), f32x4.add(f32x4.sqrt(v), small));
    v128.store(weights + at, f32x4.sub(v128.load(weights + at), change));
    v128.store(gradient + at, f32x4.splat(0));
  }
}
