import { Half } from "../half";
import { Lanes } from "../lanes";
import { Tiny } from "../prepare";
import { PAGE_POSITIONS } from "./page";

/**
 * The work of one query on a block of f16: see attention.ts.
 *
 * A score has the order of a dot product in f16: of eight columns the even ones, then the odd ones. Sums of values are
 * chained by position. Query and weights are scaled by 2^56, and taken as zero below 2^-60, as prepareF16 does it. The
 * widening knows no infinity and no NaN (half.ts): as keys and values they count as 65536 and more.
 */
export class HeadF16 {
  /** q in the form of prepareF16. */
  static prepare(q: usize, prepared: usize, rowLength: usize): void {
    const tiny = f32x4.splat(Tiny.F16), scale = Half.scale();
    for (const end = q + 2 * rowLength; q < end; q += 32, prepared += 32) {
      const a = f32x4.mul(Tiny.flush(v128.load(q), tiny), scale);
      const b = f32x4.mul(Tiny.flush(v128.load(q, 16), tiny), scale);
      v128.store(prepared, v128.shuffle<u32>(a, b, 0, 2, 4, 6));
      v128.store(prepared, v128.shuffle<u32>(a, b, 1, 3, 5, 7), 16);
    }
  }

  /** `scores[t] = scale * dot(q, keys[t])`, four positions at a time, of which the last may not exist. */
  static score(
    q: usize,
    keys: usize,
    scores: usize,
    rowLength: usize,
    count: i32,
    scale: f32,
  ): void {
    const even = Half.even(), odd = Half.odd(), mask = Half.mask();
    const qEnd = q + 2 * rowLength;
    const scale4 = f32x4.splat(scale);
    for (let t = 0; t < count; t += 4, scores += 16) {
      let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
      for (let x = q; x < qEnd; x += 32, keys += 64) {
        const x0 = v128.load(x), x1 = v128.load(x, 16);
        let h = v128.load(keys);
        a0 = Lanes.madd(Half.widen(h, even, mask), x0, a0);
        a0 = Lanes.madd(Half.widen(h, odd, mask), x1, a0);
        h = v128.load(keys, 16);
        a1 = Lanes.madd(Half.widen(h, even, mask), x0, a1);
        a1 = Lanes.madd(Half.widen(h, odd, mask), x1, a1);
        h = v128.load(keys, 32);
        a2 = Lanes.madd(Half.widen(h, even, mask), x0, a2);
        a2 = Lanes.madd(Half.widen(h, odd, mask), x1, a2);
        h = v128.load(keys, 48);
        a3 = Lanes.madd(Half.widen(h, even, mask), x0, a3);
        a3 = Lanes.madd(Half.widen(h, odd, mask), x1, a3);
      }
      const four = f32x4.mul(Lanes.sums(a0, a1, a2, a3), Half.scale());
      v128.store(scores, f32x4.mul(four, scale4));
    }
  }

  /** `sums[c] += weights[t] * values[t][c]`, t ascending; 16 columns at a time, of eight the even ones first. */
  static mix(values: usize, sums: usize, weights: usize, rowLength: usize, count: i32): void {
    const even = Half.even(), odd = Half.odd(), mask = Half.mask();
    const end = weights + (usize(count) << 2);
    const blockLength = usize(PAGE_POSITIONS) << 5;
    for (const sumsEnd = sums + 2 * rowLength; sums < sumsEnd; sums += 64, values += blockLength) {
      let a0 = v128.load(sums), a1 = v128.load(sums, 16);
      let a2 = v128.load(sums, 32), a3 = v128.load(sums, 48);
      let p = values;
      for (let t = weights; t < end; t += 4, p += 32) {
        const weight = Lanes.splatAt(t);
        const h0 = v128.load(p), h1 = v128.load(p, 16);
        a0 = Lanes.madd(Half.widen(h0, even, mask), weight, a0);
        a1 = Lanes.madd(Half.widen(h0, odd, mask), weight, a1);
        a2 = Lanes.madd(Half.widen(h1, even, mask), weight, a2);
        a3 = Lanes.madd(Half.widen(h1, odd, mask), weight, a3);
      }
      v128.store(sums, a0);
      v128.store(sums, a1, 16);
      v128.store(sums, a2, 32);
      v128.store(sums, a3, 48);
    }
  }

  /** Softmax weights, scaled. */
  static scaleWeights(weights: usize, count: i32): void {
    const tiny = f32x4.splat(Tiny.F16), scale = Half.scale();
    for (const end = weights + (usize(count) << 2); weights < end; weights += 16) {
      v128.store(weights, f32x4.mul(Tiny.flush(v128.load(weights), tiny), scale));
    }
  }

  /** Sums in the order of columns and scaled back, in place. */
  static finish(sums: usize, rowLength: usize): void {
    const scale = Half.scale();
    for (const end = sums + 2 * rowLength; sums < end; sums += 32) {
      const a = f32x4.mul(v128.load(sums), scale), b = f32x4.mul(v128.load(sums, 16), scale);
      v128.store(sums, v128.shuffle<u32>(a, b, 0, 4, 1, 5));
      v128.store(sums, v128.shuffle<u32>(a, b, 2, 6, 3, 7), 16);
    }
  }
}
