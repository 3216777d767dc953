import { Lanes } from "../lanes";
import { Page, PAGE_POSITIONS } from "./page";
import { Row } from "./row";

/**
 * The work of one query on a block of q8: see attention.ts. Products are summed in integers.
 *
 * The query is rounded to 16 bits, so that a score is an exact sum of headDim products, scaled once; headDim is at most
 * 512, or i32 would overflow. The weights of a page, times the scales of its values, are rounded to 16 bits as well: the
 * sums of a page are exact, and are scaled and chained page by page.
 */
export class HeadQ8 {
  /**
   * `scores[t] = scale * dot(q, keys[t])`, four positions at a time, of which the last may not exist.
   *
   *   q: | i16[headDim] | f32: the scale, times that of q |
   */
  static score(q: usize, keys: usize, scores: usize, headDim: i32, count: i32): void {
    const qEnd = q + (usize(headDim) << 1);
    const qScale = Lanes.splatAt(qEnd);
    let scales = keys + usize(PAGE_POSITIONS) * usize(headDim);
    for (let t = 0; t < count; t += 4, scores += 16, scales += 16) {
      let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
      for (let x = q; x < qEnd; x += 32, keys += 64) {
        const x0 = v128.load(x), x1 = v128.load(x, 16);
        a0 = i32x4.add(a0, i32x4.dot_i16x8_s(v128.load_ext<i8>(keys), x0));
        a1 = i32x4.add(a1, i32x4.dot_i16x8_s(v128.load_ext<i8>(keys, 16), x0));
        a2 = i32x4.add(a2, i32x4.dot_i16x8_s(v128.load_ext<i8>(keys, 32), x0));
        a3 = i32x4.add(a3, i32x4.dot_i16x8_s(v128.load_ext<i8>(keys, 48), x0));
        a0 = i32x4.add(a0, i32x4.dot_i16x8_s(v128.load_ext<i8>(keys, 8), x1));
        a1 = i32x4.add(a1, i32x4.dot_i16x8_s(v128.load_ext<i8>(keys, 24), x1));
        a2 = i32x4.add(a2, i32x4.dot_i16x8_s(v128.load_ext<i8>(keys, 40), x1));
        a3 = i32x4.add(a3, i32x4.dot_i16x8_s(v128.load_ext<i8>(keys, 56), x1));
      }
      const dots = f32x4.convert_i32x4_s(HeadQ8.sums(a0, a1, a2, a3));
      v128.store(scores, f32x4.mul(f32x4.mul(dots, v128.load(scales)), qScale));
    }
  }

  /** The sums of four vectors, one in each lane. */
  @inline
  static sums(a: v128, b: v128, c: v128, d: v128): v128 {
    const ab = i32x4.add(v128.shuffle<u32>(a, b, 0, 1, 4, 5), v128.shuffle<u32>(a, b, 2, 3, 6, 7));
    const cd = i32x4.add(v128.shuffle<u32>(c, d, 0, 1, 4, 5), v128.shuffle<u32>(c, d, 2, 3, 6, 7));
    return i32x4.add(
      v128.shuffle<u32>(ab, cd, 0, 2, 4, 6),
      v128.shuffle<u32>(ab, cd, 1, 3, 5, 7),
    );
  }

  /**
   * `weights[t] * scales[t]` of a page, in place, and rounded to i16 with zeros after them in `steps`. Returns what a
   * step is worth.
   */
  static scaleWeights(weights: usize, scales: usize, steps: usize, count: i32): f32 {
    const end = usize(count) << 2;
    for (let byte: usize = 0; byte < end; byte += 16) {
      v128.store(weights + byte, f32x4.mul(v128.load(weights + byte), v128.load(scales + byte)));
    }
    // Scales of places that have no position may be anything.
    for (let byte = end; byte < usize(PAGE_POSITIONS) << 2; byte += 4) {
      store<f32>(weights + byte, 0);
    }
    return Row.round16(weights, steps, PAGE_POSITIONS);
  }

  /** `sums[c] += weights[t] * values[t][c]`, 16 columns at a time; `steps`: scratch, i16[PAGE_POSITIONS]. */
  static mix(
    values: usize,
    sums: usize,
    weights: usize,
    steps: usize,
    headDim: i32,
    count: i32,
  ): void {
    const scales = values + usize(PAGE_POSITIONS) * usize(headDim);
    const step = f32x4.splat(HeadQ8.scaleWeights(weights, scales, steps, count));
    const stepsEnd = steps + (usize(count + 1 >> 1) << 2);
    for (; values < scales; values += usize(PAGE_POSITIONS) << 4, sums += 64) {
      let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
      let p = values;
      for (let s = steps; s < stepsEnd; s += 4, p += 32) {
        const two = v128.load_splat<u32>(s);
        a0 = i32x4.add(a0, i32x4.dot_i16x8_s(v128.load_ext<i8>(p), two));
        a1 = i32x4.add(a1, i32x4.dot_i16x8_s(v128.load_ext<i8>(p, 8), two));
        a2 = i32x4.add(a2, i32x4.dot_i16x8_s(v128.load_ext<i8>(p, 16), two));
        a3 = i32x4.add(a3, i32x4.dot_i16x8_s(v128.load_ext<i8>(p, 24), two));
      }
      HeadQ8.flush(a0, step, sums);
      HeadQ8.flush(a1, step, sums + 16);
      HeadQ8.flush(a2, step, sums + 32);
      HeadQ8.flush(a3, step, sums + 48);
    }
  }

  @inline
  static flush(dot: v128, step: v128, sum: usize): void {
    v128.store(sum, Lanes.madd(f32x4.convert_i32x4_s(dot), step, v128.load(sum)));
  }
}
