import { Exp } from "./exp";
import { Lanes } from "./lanes";

/**
 * `x[i] = exp(x[i] - max) / sum`, in place, f32[n], n >= 1. The buffer has room for n rounded up to a multiple of 4;
 * the numbers after n become zero. A NaN makes everything NaN.
 */
export function softmax(x: usize, n: i32): void {
  Softmax.run(x, n);
}

export class Softmax {
  static run(x: usize, n: i32): void {
    assert(n > 0);
    const end = x + (usize(n + 3 >> 2) << 4);
    for (let tail = x + (usize(n) << 2); tail < end; tail += 4) store<f32>(tail, -Infinity);
    let largest = v128.load(x);
    for (let p = x + 16; p < end; p += 16) largest = f32x4.max(largest, v128.load(p));
    largest = f32x4.max(largest, v128.shuffle<u32>(largest, largest, 2, 3, 0, 1));
    largest = f32x4.max(largest, v128.shuffle<u32>(largest, largest, 1, 0, 3, 2));
    let sum = f32x4.splat(0);
    for (let p = x; p < end; p += 16) {
      const e = Exp.ofNegative(f32x4.sub(v128.load(p), largest));
      v128.store(p, e);
      sum = f32x4.add(sum, e);
    }
    const inverse = f32x4.splat(1 / Lanes.sum(sum));
    for (let p = x; p < end; p += 16) v128.store(p, f32x4.mul(v128.load(p), inverse));
  }
}
