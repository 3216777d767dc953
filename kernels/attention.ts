import { Lanes } from "./lanes";
import { Softmax } from "./softmax";

/**
 * One attention head, one query: `out = softmax(scale * keys q) values`.
 *
 *   q, out:       f32[headDim], headDim a multiple of 4
 *   keys, values: f32[count][headDim], contiguous, count >= 1
 *   scores:       scratch, f32[count rounded up to a multiple of 4]; the weights of the positions afterwards
 */
export function attentionHead(
  q: usize,
  keys: usize,
  values: usize,
  out: usize,
  scores: usize,
  headDim: i32,
  count: i32,
  scale: f32,
): void {
  assert(headDim % 4 == 0 && count > 0);
  Head.score(q, keys, scores, usize(headDim) << 2, count, scale);
  Softmax.run(scores, count);
  Head.mix(values, out, scores, usize(headDim) << 2, count);
}

class Head {
  /** `scores[t] = scale * dot(q, keys[t])`, four positions at a time; a position's bits do not depend on its place. */
  static score(
    q: usize,
    keys: usize,
    scores: usize,
    rowByteLength: usize,
    count: i32,
    scale: f32,
  ): void {
    const qEnd = q + rowByteLength;
    const scale4 = f32x4.splat(scale);
    let t = 0;
    let p = keys;
    for (; t + 4 <= count; t += 4, p += rowByteLength * 3, scores += 16) {
      let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
      const r1 = rowByteLength, r2 = r1 << 1, r3 = r1 + r2;
      for (let x = q; x < qEnd; x += 16, p += 16) {
        const x0 = v128.load(x);
        a0 = Lanes.madd(v128.load(p), x0, a0);
        a1 = Lanes.madd(v128.load(p + r1), x0, a1);
        a2 = Lanes.madd(v128.load(p + r2), x0, a2);
        a3 = Lanes.madd(v128.load(p + r3), x0, a3);
      }
      v128.store(scores, f32x4.mul(Lanes.sums(a0, a1, a2, a3), scale4));
    }
    for (; t < count; t++, scores += 4) {
      let a = f32x4.splat(0);
      for (let x = q; x < qEnd; x += 16, p += 16) a = Lanes.madd(v128.load(p), v128.load(x), a);
      store<f32>(scores, Lanes.sum(a) * scale);
    }
  }

  /** `out[c] = sum over t of weights[t] * values[t][c]`, t ascending; 32 columns at a time, then 4. */
  static mix(values: usize, out: usize, weights: usize, rowByteLength: usize, count: i32): void {
    const end = weights + (usize(count) << 2);
    let byte: usize = 0;
    for (; byte + 128 <= rowByteLength; byte += 128) {
      let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
      let p = values + byte;
      for (let t = weights; t < end; t += 4, p += rowByteLength) {
        const weight = Lanes.splatAt(t);
        a0 = Lanes.madd(v128.load(p), weight, a0);
        a1 = Lanes.madd(v128.load(p, 16), weight, a1);
        a2 = Lanes.madd(v128.load(p, 32), weight, a2);
        a3 = Lanes.madd(v128.load(p, 48), weight, a3);
        a4 = Lanes.madd(v128.load(p, 64), weight, a4);
        a5 = Lanes.madd(v128.load(p, 80), weight, a5);
        a6 = Lanes.madd(v128.load(p, 96), weight, a6);
        a7 = Lanes.madd(v128.load(p, 112), weight, a7);
      }
      const o = out + byte;
      v128.store(o, a0);
      v128.store(o, a1, 16);
      v128.store(o, a2, 32);
      v128.store(o, a3, 48);
      v128.store(o, a4, 64);
      v128.store(o, a5, 80);
      v128.store(o, a6, 96);
      v128.store(o, a7, 112);
    }
    for (; byte < rowByteLength; byte += 16) {
      let a = f32x4.splat(0);
      let p = values + byte;
      for (let t = weights; t < end; t += 4, p += rowByteLength) {
        a = Lanes.madd(v128.load(p), Lanes.splatAt(t), a);
      }
      v128.store(out + byte, a);
    }
  }
}
