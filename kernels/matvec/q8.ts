import { Half } from "../half";
import { Lanes } from "../lanes";
import { Block } from "../block";
import { Tile } from "./tile";

/**
 * `y[row] = dot(w[row], x) + bias[row]` for rowFrom <= row < rowTo (multiples of 8), q8 tiles.
 *
 *   block of 8 rows x 32 columns, 272 bytes: | 8 f16 scales | row 0: 32 i8 | ... | row 7 |
 *
 * `xp`: prepareQ8. `bias`, `y`: f32[rows, padded to 8]; bias 0: none. Within a block the products of bytes and i16 are
 * summed exactly, in four i32 lanes.
 */
export function matvecQ8(
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
  const xEnd = xp + (usize(cols) << 1);
  for (let row = rowFrom; row < rowTo; row += 8) {
    let p = w + (usize(row >> 3) * usize(cols >> 5)) * 272;
    let xScales = xp + (usize(cols) << 1);
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    for (let x = xp; x < xEnd; x += 64, p += 272, xScales += 4) {
      const x0 = v128.load(x), x1 = v128.load(x, 16);
      const x2 = v128.load(x, 32), x3 = v128.load(x, 48);
      const xScale = Lanes.splatAt(xScales);
      const eight = v128.load(p);
      const e = f32x4.mul(Half.widen(eight, even, mask), xScale);
      const o = f32x4.mul(Half.widen(eight, odd, mask), xScale);
      a0 = Lanes.madd(Block.dot(p + 16, x0, x1, x2, x3), Block.splat(e, 0), a0);
      a1 = Lanes.madd(Block.dot(p + 48, x0, x1, x2, x3), Block.splat(o, 0), a1);
      a2 = Lanes.madd(Block.dot(p + 80, x0, x1, x2, x3), Block.splat(e, 1), a2);
      a3 = Lanes.madd(Block.dot(p + 112, x0, x1, x2, x3), Block.splat(o, 1), a3);
      a4 = Lanes.madd(Block.dot(p + 144, x0, x1, x2, x3), Block.splat(e, 2), a4);
      a5 = Lanes.madd(Block.dot(p + 176, x0, x1, x2, x3), Block.splat(o, 2), a5);
      a6 = Lanes.madd(Block.dot(p + 208, x0, x1, x2, x3), Block.splat(e, 3), a6);
      a7 = Lanes.madd(Block.dot(p + 240, x0, x1, x2, x3), Block.splat(o, 3), a7);
    }
    const scale = Half.scale();
    const low = f32x4.mul(Lanes.sums(a0, a1, a2, a3), scale);
    const high = f32x4.mul(Lanes.sums(a4, a5, a6, a7), scale);
    Tile.finish(low, y, bias, usize(row) << 2);
    Tile.finish(high, y, bias, (usize(row) << 2) + 16);
  }
}
