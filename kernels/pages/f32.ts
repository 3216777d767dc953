import { Lanes } from "../lanes";
import { PAGE_POSITIONS } from "./page";

/** The work of one query on a block of f32: see attention.ts. The bits are those of attentionHead. */
export class HeadF32 {
  /** `scores[t] = scale * dot(q, keys[t])`, four positions at a time, of which the last may not exist. */
  static score(
    q: usize,
    keys: usize,
    scores: usize,
    rowLength: usize,
    count: i32,
    scale: f32,
  ): void {
    const qEnd = q + rowLength;
    const scale4 = f32x4.splat(scale);
    for (let t = 0; t < count; t += 4, scores += 16) {
      let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
      for (let x = q; x < qEnd; x += 32, keys += 128) {
        let x0 = v128.load(x);
        a0 = Lanes.madd(v128.load(keys), x0, a0);
        a1 = Lanes.madd(v128.load(keys, 16), x0, a1);
        a2 = Lanes.madd(v128.load(keys, 32), x0, a2);
        a3 = Lanes.madd(v128.load(keys, 48), x0, a3);
        x0 = v128.load(x, 16);
        a0 = Lanes.madd(v128.load(keys, 64), x0, a0);
        a1 = Lanes.madd(v128.load(keys, 80), x0, a1);
        a2 = Lanes.madd(v128.load(keys, 96), x0, a2);
        a3 = Lanes.madd(v128.load(keys, 112), x0, a3);
      }
      v128.store(scores, f32x4.mul(Lanes.sums(a0, a1, a2, a3), scale4));
    }
  }

  /** `out[c] += weights[t] * values[t][c]`, t ascending; 16 columns at a time. */
  static mix(values: usize, out: usize, weights: usize, rowLength: usize, count: i32): void {
    const end = weights + (usize(count) << 2);
    const blockLength = usize(PAGE_POSITIONS) << 6;
    for (const outEnd = out + rowLength; out < outEnd; out += 64, values += blockLength) {
      let a0 = v128.load(out), a1 = v128.load(out, 16);
      let a2 = v128.load(out, 32), a3 = v128.load(out, 48);
      let p = values;
      for (let t = weights; t < end; t += 4, p += 64) {
        const weight = Lanes.splatAt(t);
        a0 = Lanes.madd(v128.load(p), weight, a0);
        a1 = Lanes.madd(v128.load(p, 16), weight, a1);
        a2 = Lanes.madd(v128.load(p, 32), weight, a2);
        a3 = Lanes.madd(v128.load(p, 48), weight, a3);
      }
      v128.store(out, a0);
      v128.store(out, a1, 16);
      v128.store(out, a2, 32);
      v128.store(out, a3, 48);
    }
  }
}
