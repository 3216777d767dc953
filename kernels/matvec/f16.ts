import { Half } from "../half";
import { Lanes } from "../lanes";
import { Tile } from "./tile";

/**
 * `y[row] = dot(w[row], x) + bias[row]` for rowFrom <= row < rowTo (multiples of 8), f16 tiles.
 *
 *   block of 8 rows x 32 columns, 512 bytes: | row 0: 32 f16 | row 1 | ... | row 7 |
 *
 * `xp`: prepareF16. `bias`, `y`: f32[rows, padded to 8]; bias 0: none.
 */
export function matvecF16(
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
  const xEnd = xp + (usize(cols) << 2);
  let bits: u32 = 0;
  for (let row = rowFrom; row < rowTo; row += 8) {
    let p = w + (usize(row) * usize(cols) << 1);
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    for (let x = xp; x < xEnd;) {
      const ahead = x + 128 < xEnd ? x + 128 : xp;
      bits |= Tile.ahead(ahead) | Tile.ahead(ahead + 64);
      for (const blockEnd = x + 128; x < blockEnd; x += 32, p += 16) {
        const x0 = v128.load(x), x1 = v128.load(x, 16);
        let h = v128.load(p);
        a0 = Lanes.madd(Half.widen(h, even, mask), x0, a0);
        a0 = Lanes.madd(Half.widen(h, odd, mask), x1, a0);
        h = v128.load(p, 64);
        a1 = Lanes.madd(Half.widen(h, even, mask), x0, a1);
        a1 = Lanes.madd(Half.widen(h, odd, mask), x1, a1);
        h = v128.load(p, 128);
        a2 = Lanes.madd(Half.widen(h, even, mask), x0, a2);
        a2 = Lanes.madd(Half.widen(h, odd, mask), x1, a2);
        h = v128.load(p, 192);
        a3 = Lanes.madd(Half.widen(h, even, mask), x0, a3);
        a3 = Lanes.madd(Half.widen(h, odd, mask), x1, a3);
        h = v128.load(p, 256);
        a4 = Lanes.madd(Half.widen(h, even, mask), x0, a4);
        a4 = Lanes.madd(Half.widen(h, odd, mask), x1, a4);
        h = v128.load(p, 320);
        a5 = Lanes.madd(Half.widen(h, even, mask), x0, a5);
        a5 = Lanes.madd(Half.widen(h, odd, mask), x1, a5);
        h = v128.load(p, 384);
        a6 = Lanes.madd(Half.widen(h, even, mask), x0, a6);
        a6 = Lanes.madd(Half.widen(h, odd, mask), x1, a6);
        h = v128.load(p, 448);
        a7 = Lanes.madd(Half.widen(h, even, mask), x0, a7);
        a7 = Lanes.madd(Half.widen(h, odd, mask), x1, a7);
      }
      p += 512 - 64;
    }
    const scale = Half.scale();
    const low = f32x4.mul(Lanes.sums(a0, a1, a2, a3), scale);
    const high = f32x4.mul(Lanes.sums(a4, a5, a6, a7), scale);
    Tile.finish(low, y, bias, usize(row) << 2);
    Tile.finish(high, y, bias, (usize(row) << 2) + 16);
  }
  Tile.use(bits);
}
