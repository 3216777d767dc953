import { Lanes } from "./lanes";

/**
 * `y[i] = (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]`, f32[n], n a multiple of 4. Mean first, then the
 * variance of the differences: two passes lose no digits to cancellation. y may be x.
 */
export function layerNorm(x: usize, weight: usize, bias: usize, y: usize, n: i32, eps: f32): void {
  assert(n % 4 == 0);
  const byteLength = usize(n) << 2;
  let sum = f32x4.splat(0);
  for (let byte: usize = 0; byte < byteLength; byte += 16) {
    sum = f32x4.add(sum, v128.load(x + byte));
  }
  const mean = f32x4.splat(Lanes.sum(sum) / f32(n));
  let squares = f32x4.splat(0);
  for (let byte: usize = 0; byte < byteLength; byte += 16) {
    const difference = f32x4.sub(v128.load(x + byte), mean);
    squares = Lanes.madd(difference, difference, squares);
  }
  const inverse = f32x4.splat(1 / sqrt<f32>(Lanes.sum(squares) / f32(n) + eps));
  for (let byte: usize = 0; byte < byteLength; byte += 16) {
    const unit = f32x4.mul(f32x4.sub(v128.load(x + byte), mean), inverse);
    v128.store(y + byte, Lanes.madd(unit, v128.load(weight + byte), v128.load(bias + byte)));
  }
}

/** `y[i] = x[i] / sqrt(mean of squares + eps) * weight[i]`, f32[n], n a multiple of 4. y may be x. */
export function rmsNorm(x: usize, weight: usize, y: usize, n: i32, eps: f32): void {
  assert(n % 4 == 0);
  const byteLength = usize(n) << 2;
  let squares = f32x4.splat(0);
  for (let byte: usize = 0; byte < byteLength; byte += 16) {
    const four = v128.load(x + byte);
    squares = Lanes.madd(four, four, squares);
  }
  const inverse = f32x4.splat(1 / sqrt<f32>(Lanes.sum(squares) / f32(n) + eps));
  for (let byte: usize = 0; byte < byteLength; byte += 16) {
    const unit = f32x4.mul(v128.load(x + byte), inverse);
    v128.store(y + byte, f32x4.mul(unit, v128.load(weight + byte)));
  }
}
