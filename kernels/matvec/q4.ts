import { Half } from "../half";
import { Lanes } from "../lanes";
import { Nibbles } from "../nibbles";
import { Tile } from "./tile";

/**
 * `y[row] = dot(w[row], x) + bias[row]` for rowFrom <= row < rowTo (multiples of 8), q4 tiles.
 *
 *   block of 8 rows x 32 columns, 144 bytes: | 8 f16 scales | columns 0..3: 16 bytes | columns 4..7 | ... | 28..31 |
 *   four columns: | rows 0, 1: 4 bytes, one a column; row 0 low | rows 2, 3 | rows 4, 5 | rows 6, 7 |
 *
 * So each lane belongs to a row (and its neighbour), and the scales of four rows are multiplied at once. `xp`:
 * prepareQ4. `bias`, `y`: f32[rows, padded to 8]; bias 0: none. A block's products are summed exactly.
 */
export function matvecQ4(
  w: usize,
  xp: usize,
  bias: usize,
  y: usize,
  rowFrom: i32,
  rowTo: i32,
  cols: i32,
): void {
  assert(rowFrom % 8 == 0 && rowTo % 8 == 0 && cols % 32 == 0);
  const even = Half.even(), odd = Half.odd(), mask = Half.mask();
  const low = Nibbles.mask(), ones = Nibbles.ones();
  const xEnd = xp + usize(cols);
  for (let row = rowFrom; row < rowTo; row += 8) {
    let p = w + (usize(row >> 3) * usize(cols >> 5)) * 144;
    let scales = xEnd;
    let a0 = f32x4.splat(0), a1 = a0;
    for (let x = xp; x < xEnd; x += 32, p += 144, scales += 8) {
      // An i16 may wrap on the way; the sums of 16 products of n - 8 do fit.
      let s0 = v128.load_splat<u32>(scales, 4), s1 = s0;
      let b = v128.load(p, 16), four = v128.load_splat<u32>(x);
      s0 = i16x8.add(s0, Nibbles.dot(four, Nibbles.low(b, low)));
      s1 = i16x8.add(s1, Nibbles.dot(four, Nibbles.high(b, low)));
      b = v128.load(p, 32), four = v128.load_splat<u32>(x, 4);
      s0 = i16x8.add(s0, Nibbles.dot(four, Nibbles.low(b, low)));
      s1 = i16x8.add(s1, Nibbles.dot(four, Nibbles.high(b, low)));
      b = v128.load(p, 48), four = v128.load_splat<u32>(x, 8);
      s0 = i16x8.add(s0, Nibbles.dot(four, Nibbles.low(b, low)));
      s1 = i16x8.add(s1, Nibbles.dot(four, Nibbles.high(b, low)));
      b = v128.load(p, 64), four = v128.load_splat<u32>(x, 12);
      s0 = i16x8.add(s0, Nibbles.dot(four, Nibbles.low(b, low)));
      s1 = i16x8.add(s1, Nibbles.dot(four, Nibbles.high(b, low)));
      b = v128.load(p, 80), four = v128.load_splat<u32>(x, 16);
      s0 = i16x8.add(s0, Nibbles.dot(four, Nibbles.low(b, low)));
      s1 = i16x8.add(s1, Nibbles.dot(four, Nibbles.high(b, low)));
      b = v128.load(p, 96), four = v128.load_splat<u32>(x, 20);
      s0 = i16x8.add(s0, Nibbles.dot(four, Nibbles.low(b, low)));
      s1 = i16x8.add(s1, Nibbles.dot(four, Nibbles.high(b, low)));
      b = v128.load(p, 112), four = v128.load_splat<u32>(x, 24);
      s0 = i16x8.add(s0, Nibbles.dot(four, Nibbles.low(b, low)));
      s1 = i16x8.add(s1, Nibbles.dot(four, Nibbles.high(b, low)));
      b = v128.load(p, 128), four = v128.load_splat<u32>(x, 28);
      s0 = i16x8.add(s0, Nibbles.dot(four, Nibbles.low(b, low)));
      s1 = i16x8.add(s1, Nibbles.dot(four, Nibbles.high(b, low)));
      const xScale = Lanes.splatAt(scales), eight = v128.load(p);
      const e = f32x4.mul(Half.widen(eight, even, mask), xScale);
      const o = f32x4.mul(Half.widen(eight, odd, mask), xScale);
      a0 = Lanes.madd(f32x4.convert_i32x4_s(i32x4.dot_i16x8_s(s0, ones)), e, a0);
      a1 = Lanes.madd(f32x4.convert_i32x4_s(i32x4.dot_i16x8_s(s1, ones)), o, a1);
    }
    a0 = f32x4.mul(a0, Half.scale()), a1 = f32x4.mul(a1, Half.scale());
    Tile.finish(v128.shuffle<u32>(a0, a1, 0, 4, 1, 5), y, bias, usize(row) << 2);
    Tile.finish(v128.shuffle<u32>(a0, a1, 2, 6, 3, 7), y, bias, (usize(row) << 2) + 16);
  }
}
