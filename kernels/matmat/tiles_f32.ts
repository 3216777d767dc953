import { Lanes } from "../lanes";
import { Half } from "../half";
import { Tile } from "../matvec/tile";

/**
 * Sums of 8 rows and a group of up to 4 positions over a panel of columns, f32 tiles; f16 ones are widened first.
 *
 *   x, 4 columns, 64 bytes: | position 0: 4 f32 | ... | position 3 |
 *   sums:                   | row 0: f32x4 of each position | ... | row 7 |
 *
 * Places in x of positions that a group does not have are never read. A sum has the operations of matvecF32 or matvecF16
 * in their order; rows and positions of a tile share what they load. Each block begins by asking for all of its weights.
 */
export class TilesF32 {
  /** Packs prepared activations of `count` positions side by side. */
  static pack(xs: usize, xStride: usize, count: i32, packed: usize, cols: i32): void {
    for (let t: usize = 0; t < usize(count); t++, xs += xStride) {
      let p = packed + t * 16;
      for (let x = xs, end = xs + (usize(cols) << 2); x < end; x += 32, p += 128) {
        v128.store(p, v128.load(x));
        v128.store(p, v128.load(x, 16), 64);
      }
    }
  }

  /**
   * f16 tiles as f32 tiles, in the order of prepareF16 (of eight columns the even ones, then the odd ones) and 2^-112 of
   * themselves.
   */
  static widen(w: usize, end: usize, wide: usize): void {
    const even = Half.even(), odd = Half.odd(), mask = Half.mask();
    for (; w < end; w += 16, wide += 32) {
      const h = v128.load(w);
      v128.store(wide, Half.widen(h, even, mask));
      v128.store(wide, Half.widen(h, odd, mask), 16);
    }
  }

  /** Adds columns [x, xEnd) to the sums of 2 to 4 positions. */
  static run(positions: i32, w: usize, x: usize, xEnd: usize, sums: usize): void {
    const rows: usize = positions == 2 ? 4 : 2;
    let bits: u32 = 0;
    for (let row: usize = 0; row < 8; row += rows) {
      if (positions == 4) bits |= TilesF32.run2x4(w, x, xEnd, sums);
      else if (positions == 3) bits |= TilesF32.run2x3(w, x, xEnd, sums);
      else bits |= TilesF32.run4x2(w, x, xEnd, sums);
      w += rows * 128;
      sums += rows * usize(positions) << 4;
    }
    Tile.use(bits);
  }

  /** Two rows, four positions. */
  static run2x4(w: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let a3 = v128.load(sums, 48);
    let a4 = v128.load(sums, 64);
    let a5 = v128.load(sums, 80);
    let a6 = v128.load(sums, 96);
    let a7 = v128.load(sums, 112);
    let bits: u32 = 0;
    while (x < xEnd) {
      bits |= Tile.ahead(w) | Tile.ahead(w + 64);
      bits |= Tile.ahead(w + 128) | Tile.ahead(w + 192);
      for (const end = x + 512; x < end; x += 128, w += 32) {
        {
          const x0 = v128.load(x),
            x1 = v128.load(x, 16),
            x2 = v128.load(x, 32),
            x3 = v128.load(x, 48);
          const w0 = v128.load(w);
          a0 = Lanes.madd(w0, x0, a0);
          a1 = Lanes.madd(w0, x1, a1);
          a2 = Lanes.madd(w0, x2, a2);
          a3 = Lanes.madd(w0, x3, a3);
          const w1 = v128.load(w, 128);
          a4 = Lanes.madd(w1, x0, a4);
          a5 = Lanes.madd(w1, x1, a5);
          a6 = Lanes.madd(w1, x2, a6);
          a7 = Lanes.madd(w1, x3, a7);
        }
        {
          const x0 = v128.load(x, 64),
            x1 = v128.load(x, 80),
            x2 = v128.load(x, 96),
            x3 = v128.load(x, 112);
          const w0 = v128.load(w, 16);
          a0 = Lanes.madd(w0, x0, a0);
          a1 = Lanes.madd(w0, x1, a1);
          a2 = Lanes.madd(w0, x2, a2);
          a3 = Lanes.madd(w0, x3, a3);
          const w1 = v128.load(w, 144);
          a4 = Lanes.madd(w1, x0, a4);
          a5 = Lanes.madd(w1, x1, a5);
          a6 = Lanes.madd(w1, x2, a6);
          a7 = Lanes.madd(w1, x3, a7);
        }
      }
      w += 1024 - 128;
    }
    v128.store(sums, a0);
    v128.store(sums, a1, 16);
    v128.store(sums, a2, 32);
    v128.store(sums, a3, 48);
    v128.store(sums, a4, 64);
    v128.store(sums, a5, 80);
    v128.store(sums, a6, 96);
    v128.store(sums, a7, 112);
    return bits;
  }

  /** Two rows, three positions. */
  static run2x3(w: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let a3 = v128.load(sums, 48);
    let a4 = v128.load(sums, 64);
    let a5 = v128.load(sums, 80);
    let bits: u32 = 0;
    while (x < xEnd) {
      bits |= Tile.ahead(w) | Tile.ahead(w + 64);
      bits |= Tile.ahead(w + 128) | Tile.ahead(w + 192);
      for (const end = x + 512; x < end; x += 128, w += 32) {
        {
          const x0 = v128.load(x), x1 = v128.load(x, 16), x2 = v128.load(x, 32);
          const w0 = v128.load(w);
          a0 = Lanes.madd(w0, x0, a0);
          a1 = Lanes.madd(w0, x1, a1);
          a2 = Lanes.madd(w0, x2, a2);
          const w1 = v128.load(w, 128);
          a3 = Lanes.madd(w1, x0, a3);
          a4 = Lanes.madd(w1, x1, a4);
          a5 = Lanes.madd(w1, x2, a5);
        }
        {
          const x0 = v128.load(x, 64), x1 = v128.load(x, 80), x2 = v128.load(x, 96);
          const w0 = v128.load(w, 16);
          a0 = Lanes.madd(w0, x0, a0);
          a1 = Lanes.madd(w0, x1, a1);
          a2 = Lanes.madd(w0, x2, a2);
          const w1 = v128.load(w, 144);
          a3 = Lanes.madd(w1, x0, a3);
          a4 = Lanes.madd(w1, x1, a4);
          a5 = Lanes.madd(w1, x2, a5);
        }
      }
      w += 1024 - 128;
    }
    v128.store(sums, a0);
    v128.store(sums, a1, 16);
    v128.store(sums, a2, 32);
    v128.store(sums, a3, 48);
    v128.store(sums, a4, 64);
    v128.store(sums, a5, 80);
    return bits;
  }

  /** Four rows, two positions. */
  static run4x2(w: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let a3 = v128.load(sums, 48);
    let a4 = v128.load(sums, 64);
    let a5 = v128.load(sums, 80);
    let a6 = v128.load(sums, 96);
    let a7 = v128.load(sums, 112);
    let bits: u32 = 0;
    while (x < xEnd) {
      bits |= Tile.ahead(w) | Tile.ahead(w + 64);
      bits |= Tile.ahead(w + 128) | Tile.ahead(w + 192);
      bits |= Tile.ahead(w + 256) | Tile.ahead(w + 320);
      bits |= Tile.ahead(w + 384) | Tile.ahead(w + 448);
      for (const end = x + 512; x < end; x += 128, w += 32) {
        {
          const x0 = v128.load(x), x1 = v128.load(x, 16);
          const w0 = v128.load(w);
          a0 = Lanes.madd(w0, x0, a0);
          a1 = Lanes.madd(w0, x1, a1);
          const w1 = v128.load(w, 128);
          a2 = Lanes.madd(w1, x0, a2);
          a3 = Lanes.madd(w1, x1, a3);
          const w2 = v128.load(w, 256);
          a4 = Lanes.madd(w2, x0, a4);
          a5 = Lanes.madd(w2, x1, a5);
          const w3 = v128.load(w, 384);
          a6 = Lanes.madd(w3, x0, a6);
          a7 = Lanes.madd(w3, x1, a7);
        }
        {
          const x0 = v128.load(x, 64), x1 = v128.load(x, 80);
          const w0 = v128.load(w, 16);
          a0 = Lanes.madd(w0, x0, a0);
          a1 = Lanes.madd(w0, x1, a1);
          const w1 = v128.load(w, 144);
          a2 = Lanes.madd(w1, x0, a2);
          a3 = Lanes.madd(w1, x1, a3);
          const w2 = v128.load(w, 272);
          a4 = Lanes.madd(w2, x0, a4);
          a5 = Lanes.madd(w2, x1, a5);
          const w3 = v128.load(w, 400);
          a6 = Lanes.madd(w3, x0, a6);
          a7 = Lanes.madd(w3, x1, a7);
        }
      }
      w += 1024 - 128;
    }
    v128.store(sums, a0);
    v128.store(sums, a1, 16);
    v128.store(sums, a2, 32);
    v128.store(sums, a3, 48);
    v128.store(sums, a4, 64);
    v128.store(sums, a5, 80);
    v128.store(sums, a6, 96);
    v128.store(sums, a7, 112);
    return bits;
  }
}
