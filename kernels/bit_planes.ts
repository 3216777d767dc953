/**
 * Scores of a training-free predictor: rows of a few bits a weight, products in integers, so that bits depend on nobody.
 *
 * The input less a mean is rounded to levels x[c] from -15 to 15, and each weight is sum over planes j of
 * 2^j * (bit ? 1 : -1), so a dot product adds and subtracts levels. Four columns have 16 such sums: they are computed
 * once, and a swizzle looks them up for 16 rows at a time. (`and` and `popcnt` with planes of the input's bits give the
 * same integers and take four times as long on x86, which has no popcnt of bytes; docs/decisions.md has the figures.)
 */
import { Lanes } from "./lanes";

/** Smaller inputs count as zero, as in prepareQ8. */
const TINY: f32 = 8.673617379884035e-19; // 2^-60
const LEVEL_MAX: f32 = 15;
/** Columns whose sums fit into i16: each pair of lookups adds at most 8 * 15. */
const COLS_MAX: usize = 2048;

class Levels {
  /** Four levels as i32: `nearest((x - mean) * inverse)`. */
  @inline
  static at(x: usize, mean: usize, inverse: v128): v128 {
    const value = f32x4.mul(f32x4.sub(v128.load(x), v128.load(mean)), inverse);
    return i32x4.trunc_sat_f32x4_s(f32x4.nearest(value));
  }

  /** Byte i: the four levels, each added where its bit of i is set and else subtracted. */
  @inline
  static sums(levels: v128): v128 {
    const zero = i8x16.splat(0);
    let sums = zero;
    sums = Levels.add(sums, i32x4.extract_lane(levels, 0), i16x8.splat(-256));
    sums = Levels.add(sums, i32x4.extract_lane(levels, 1), i32x4.splat(-65536));
    sums = Levels.add(sums, i32x4.extract_lane(levels, 2), i64x2.splat(-4294967296));
    return Levels.add(sums, i32x4.extract_lane(levels, 3), i64x2(0, -1));
  }

  /** `sums + level` where the mask is set, else `sums - level`. */
  @inline
  static add(sums: v128, level: i32, mask: v128): v128 {
    const level16 = i8x16.splat(i8(level));
    return i8x16.add(sums, v128.bitselect(level16, i8x16.neg(level16), mask));
  }
}

/**
 * x less `mean` (f32[cols]) in levels of `max|x - mean| / 15`, as what the lookups of `planeScores` want; cols a multiple
 * of 32. A NaN or an infinity makes the scale NaN or infinite, and so the scores.
 *
 *   tables: | cols / 4 times 16 i8 | f32: scale |       (4 * cols + 4 bytes)
 */
export function preparePlanes(x: usize, mean: usize, tables: usize, cols: i32): void {
  assert(cols % 32 == 0);
  const byteLength = usize(cols) << 2;
  let largest = f32x4.splat(0);
  for (let byte: usize = 0; byte < byteLength; byte += 16) {
    const value = f32x4.sub(v128.load(x + byte), v128.load(mean + byte));
    largest = f32x4.max(largest, f32x4.abs(value));
  }
  largest = f32x4.max(largest, v128.shuffle<u32>(largest, largest, 2, 3, 0, 1));
  largest = f32x4.max(largest, v128.shuffle<u32>(largest, largest, 1, 0, 3, 2));
  const bound = f32x4.extract_lane(largest, 0);
  store<f32>(tables + byteLength, bound < TINY ? 0 : bound / LEVEL_MAX);
  const inverse = f32x4.splat(LEVEL_MAX / bound);
  for (let byte: usize = 0; byte < byteLength; byte += 16) {
    v128.store(tables + byte, Levels.sums(Levels.at(x + byte, mean + byte, inverse)));
  }
}

/**
 * `y[row] = dot(weights of row, levels) * scale * rowScales[row]` for rowFrom <= row < rowTo (multiples of 16).
 * `planes`: layout `planes` of docs/model_format.md; `tables`: preparePlanes; `rowScales`, `y`: f32[rows].
 */
export function planeScores(
  planes: usize,
  tables: usize,
  rowScales: usize,
  y: usize,
  rowFrom: i32,
  rowTo: i32,
  bits: i32,
  cols: i32,
): void {
  assert(rowFrom % 16 == 0 && rowTo % 16 == 0 && cols % 32 == 0);
  const end = tables + (usize(cols) << 2);
  const scale = Lanes.splatAt(end);
  const low4 = i8x16.splat(15);
  let p = planes + usize(rowFrom >> 4) * (usize(bits * cols) << 1);
  for (let row = rowFrom; row < rowTo; row += 16) {
    let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
    for (let plane = 0; plane < bits; plane++) {
      for (let table = tables; table < end;) {
        const last = min(table + (COLS_MAX << 2), end);
        let low = i16x8.splat(0), high = low;
        for (; table < last; table += 64, p += 32) {
          const w = v128.load(p), w2 = v128.load(p, 16);
          const sums = i8x16.add(
            Nibbles.look(v128.load(table), v128.and(w, low4)),
            Nibbles.look(v128.load(table, 16), v128.and(i16x8.shr_u(w, 4), low4)),
          );
          const sums2 = i8x16.add(
            Nibbles.look(v128.load(table, 32), v128.and(w2, low4)),
            Nibbles.look(v128.load(table, 48), v128.and(i16x8.shr_u(w2, 4), low4)),
          );
          low = i16x8.add(low, i16x8.extend_low_i8x16_s(sums));
          high = i16x8.add(high, i16x8.extend_high_i8x16_s(sums));
          low = i16x8.add(low, i16x8.extend_low_i8x16_s(sums2));
          high = i16x8.add(high, i16x8.extend_high_i8x16_s(sums2));
        }
        a0 = i32x4.add(a0, i32x4.shl(i32x4.extend_low_i16x8_s(low), plane));
        a1 = i32x4.add(a1, i32x4.shl(i32x4.extend_high_i16x8_s(low), plane));
        a2 = i32x4.add(a2, i32x4.shl(i32x4.extend_low_i16x8_s(high), plane));
        a3 = i32x4.add(a3, i32x4.shl(i32x4.extend_high_i16x8_s(high), plane));
      }
    }
    const at = usize(row) << 2;
    Nibbles.finish(a0, scale, rowScales + at, y + at);
    Nibbles.finish(a1, scale, rowScales + at + 16, y + at + 16);
    Nibbles.finish(a2, scale, rowScales + at + 32, y + at + 32);
    Nibbles.finish(a3, scale, rowScales + at + 48, y + at + 48);
  }
}

class Nibbles {
  /** Byte `index[i]` of the table for each i. Indices are below 16, where both instructions agree. */
  @inline
  static look(table: v128, index: v128): v128 {
    if (ASC_FEATURE_RELAXED_SIMD) return i8x16.relaxed_swizzle(table, index);
    return i8x16.swizzle(table, index);
  }

  @inline
  static finish(sums: v128, scale: v128, rowScales: usize, y: usize): void {
    const scaled = f32x4.mul(f32x4.convert_i32x4_s(sums), scale);
    v128.store(y, f32x4.mul(scaled, v128.load(rowScales)));
  }
}
