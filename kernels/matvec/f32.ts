import { Lanes } from "../lanes";
import { Tile } from "./tile";

/**
 * `y[row] = dot(w[row], x) + bias[row]` for rowFrom <= row < rowTo (multiples of 8), f32 tiles.
 *
 *   block of 8 rows x 32 columns, 1024 bytes: | row 0: 32 f32 | row 1 | ... | row 7 |
 *
 * `xp`: prepareF32. `bias`, `y`: f32[rows, padded to 8]; bias 0: none.
 */
export function matvecF32(
  w: usize,
  xp: usize,
  bias: usize,
  y: usize,
  rowFrom: i32,
  rowTo: i32,
  cols: i32,
): void {
  assert(rowFrom % 8 == 0 && rowTo % 8 == 0 && cols % 32 == 0);
  const xEnd = xp + (usize(cols) << 2);
  let bits: u32 = 0;
  for (let row = rowFrom; row < rowTo; row += 8) {
    let p = w + (usize(row) * usize(cols) << 2);
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    for (let x = xp; x < xEnd;) {
      const ahead = x + 128 < xEnd ? x + 128 : xp;
      bits |= Tile.ahead(ahead) | Tile.ahead(ahead + 64);
      // One cache line of each row after the other: better than 16 bytes of each row in turn.
      for (const blockEnd = x + 128; x < blockEnd; x += 64, p += 64) {
        const x0 = v128.load(x), x1 = v128.load(x, 16);
        const x2 = v128.load(x, 32), x3 = v128.load(x, 48);
        a0 = Lanes.madd(v128.load(p), x0, a0);
        a0 = Lanes.madd(v128.load(p, 16), x1, a0);
        a0 = Lanes.madd(v128.load(p, 32), x2, a0);
        a0 = Lanes.madd(v128.load(p, 48), x3, a0);
        a1 = Lanes.madd(v128.load(p, 128), x0, a1);
        a1 = Lanes.madd(v128.load(p, 144), x1, a1);
        a1 = Lanes.madd(v128.load(p, 160), x2, a1);
        a1 = Lanes.madd(v128.load(p, 176), x3, a1);
        a2 = Lanes.madd(v128.load(p, 256), x0, a2);
        a2 = Lanes.madd(v128.load(p, 272), x1, a2);
        a2 = Lanes.madd(v128.load(p, 288), x2, a2);
        a2 = Lanes.madd(v128.load(p, 304), x3, a2);
        a3 = Lanes.madd(v128.load(p, 384), x0, a3);
        a3 = Lanes.madd(v128.load(p, 400), x1, a3);
        a3 = Lanes.madd(v128.load(p, 416), x2, a3);
        a3 = Lanes.madd(v128.load(p, 432), x3, a3);
        a4 = Lanes.madd(v128.load(p, 512), x0, a4);
        a4 = Lanes.madd(v128.load(p, 528), x1, a4);
        a4 = Lanes.madd(v128.load(p, 544), x2, a4);
        a4 = Lanes.madd(v128.load(p, 560), x3, a4);
        a5 = Lanes.madd(v128.load(p, 640), x0, a5);
        a5 = Lanes.madd(v128.load(p, 656), x1, a5);
        a5 = Lanes.madd(v128.load(p, 672), x2, a5);
        a5 = Lanes.madd(v128.load(p, 688), x3, a5);
        a6 = Lanes.madd(v128.load(p, 768), x0, a6);
        a6 = Lanes.madd(v128.load(p, 784), x1, a6);
        a6 = Lanes.madd(v128.load(p, 800), x2, a6);
        a6 = Lanes.madd(v128.load(p, 816), x3, a6);
        a7 = Lanes.madd(v128.load(p, 896), x0, a7);
        a7 = Lanes.madd(v128.load(p, 912), x1, a7);
        a7 = Lanes.madd(v128.load(p, 928), x2, a7);
        a7 = Lanes.madd(v128.load(p, 944), x3, a7);
      }
      p += 1024 - 128;
    }
    Tile.finish(Lanes.sums(a0, a1, a2, a3), y, bias, usize(row) << 2);
    Tile.finish(Lanes.sums(a4, a5, a6, a7), y, bias, (usize(row) << 2) + 16);
  }
  Tile.use(bits);
}
