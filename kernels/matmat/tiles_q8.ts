import { Half } from "../half";
import { Tile } from "../matvec/tile";
import { Place } from "./place";

/**
 * Sums of 8 rows and a group of up to 8 positions over a panel of columns, q8 tiles.
 *
 *   x, 32 columns, 544 bytes: | position 0: 32 i16 | ... | position 7 | 8 f32 scales |
 *   sums:                     | row 0: f32x4 of each position | ... | row 7 |
 *
 * Places in x of positions that a group does not have are never read. A sum has the operations of matvecQ8 in their
 * order; positions share the widened weights of a row.
 */
export class TilesQ8 {
  /** Packs prepared activations of `count` positions side by side. */
  static pack(xs: usize, xStride: usize, count: i32, packed: usize, cols: i32): void {
    for (let t: usize = 0; t < usize(count); t++, xs += xStride) {
      let p = packed + t * 64, pScale = packed + 512 + t * 4;
      let x = xs, xScale = xs + (usize(cols) << 1);
      for (const end = xScale; x < end; x += 64, xScale += 4, p += 544, pScale += 544) {
        v128.store(p, v128.load(x));
        v128.store(p, v128.load(x, 16), 16);
        v128.store(p, v128.load(x, 32), 32);
        v128.store(p, v128.load(x, 48), 48);
        store<f32>(pScale, load<f32>(xScale));
      }
    }
  }

  /** The scales of q8 tiles as f32, 2^-112 of themselves, for each tile | rows 0 2 4 6 | rows 1 3 5 7 |. */
  static widenScales(w: usize, end: usize, scales: usize): void {
    const even = Half.even(), odd = Half.odd(), mask = Half.mask();
    for (; w < end; w += 272, scales += 32) {
      const h = v128.load(w);
      v128.store(scales, Half.widen(h, even, mask));
      v128.store(scales, Half.widen(h, odd, mask), 16);
    }
  }

  /**
   * Adds columns [x, xEnd) to the sums of 2 to 8 positions. Meanwhile asks for the weights at `ahead`, which come next
   * (or are the same), so that they arrive from memory while these are multiplied.
   */
  static run(
    positions: i32,
    w: usize,
    scales: usize,
    ahead: usize,
    x: usize,
    xEnd: usize,
    sums: usize,
  ): void {
    const rows: usize = positions == 2 ? 2 : 1;
    const share = ahead == w ? 0 : (xEnd - x) / 544 * 34 * rows;
    w += 16;
    let bits: u32 = 0;
    for (let row: usize = 0; row < 8; row += rows) {
      const s = scales + (row & 1) * 16 + (row >> 1) * 4;
      if (positions == 8) bits |= TilesQ8.run1x8(w, s, ahead, x, xEnd, sums);
      else if (positions == 7) bits |= TilesQ8.run1x7(w, s, ahead, x, xEnd, sums);
      else if (positions == 6) bits |= TilesQ8.run1x6(w, s, ahead, x, xEnd, sums);
      else if (positions == 5) bits |= TilesQ8.run1x5(w, s, ahead, x, xEnd, sums);
      else if (positions == 4) bits |= TilesQ8.run1x4(w, s, ahead, x, xEnd, sums);
      else if (positions == 3) bits |= TilesQ8.run1x3(w, s, ahead, x, xEnd, sums);
      else bits |= TilesQ8.run2x2(w, s, ahead, x, xEnd, sums);
      w += rows * 32;
      ahead += share;
      sums += rows * usize(positions) << 4;
    }
    Tile.use(bits);
  }

  /** One row, eight positions. */
  static run1x8(w: usize, s: usize, ahead: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let a3 = v128.load(sums, 48);
    let a4 = v128.load(sums, 64);
    let a5 = v128.load(sums, 80);
    let a6 = v128.load(sums, 96);
    let a7 = v128.load(sums, 112);
    let bits: u32 = 0;
    for (; x < xEnd; x += 544, w += 272, s += 32) {
      bits |= Tile.ahead(ahead);
      ahead += 34;
      const w0 = v128.load_ext<i8>(w), w1 = v128.load_ext<i8>(w, 8);
      const w2 = v128.load_ext<i8>(w, 16), w3 = v128.load_ext<i8>(w, 24);
      const scale = v128.load_splat<f32>(s);
      a0 = Place.add0(x, w0, w1, w2, w3, scale, a0);
      a1 = Place.add1(x, w0, w1, w2, w3, scale, a1);
      a2 = Place.add2(x, w0, w1, w2, w3, scale, a2);
      a3 = Place.add3(x, w0, w1, w2, w3, scale, a3);
      a4 = Place.add4(x, w0, w1, w2, w3, scale, a4);
      a5 = Place.add5(x, w0, w1, w2, w3, scale, a5);
      a6 = Place.add6(x, w0, w1, w2, w3, scale, a6);
      a7 = Place.add7(x, w0, w1, w2, w3, scale, a7);
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

  /** One row, seven positions. */
  static run1x7(w: usize, s: usize, ahead: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let a3 = v128.load(sums, 48);
    let a4 = v128.load(sums, 64);
    let a5 = v128.load(sums, 80);
    let a6 = v128.load(sums, 96);
    let bits: u32 = 0;
    for (; x < xEnd; x += 544, w += 272, s += 32) {
      bits |= Tile.ahead(ahead);
      ahead += 34;
      const w0 = v128.load_ext<i8>(w), w1 = v128.load_ext<i8>(w, 8);
      const w2 = v128.load_ext<i8>(w, 16), w3 = v128.load_ext<i8>(w, 24);
      const scale = v128.load_splat<f32>(s);
      a0 = Place.add0(x, w0, w1, w2, w3, scale, a0);
      a1 = Place.add1(x, w0, w1, w2, w3, scale, a1);
      a2 = Place.add2(x, w0, w1, w2, w3, scale, a2);
      a3 = Place.add3(x, w0, w1, w2, w3, scale, a3);
      a4 = Place.add4(x, w0, w1, w2, w3, scale, a4);
      a5 = Place.add5(x, w0, w1, w2, w3, scale, a5);
      a6 = Place.add6(x, w0, w1, w2, w3, scale, a6);
    }
    v128.store(sums, a0);
    v128.store(sums, a1, 16);
    v128.store(sums, a2, 32);
    v128.store(sums, a3, 48);
    v128.store(sums, a4, 64);
    v128.store(sums, a5, 80);
    v128.store(sums, a6, 96);
    return bits;
  }

  /** One row, six positions. */
  static run1x6(w: usize, s: usize, ahead: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let a3 = v128.load(sums, 48);
    let a4 = v128.load(sums, 64);
    let a5 = v128.load(sums, 80);
    let bits: u32 = 0;
    for (; x < xEnd; x += 544, w += 272, s += 32) {
      bits |= Tile.ahead(ahead);
      ahead += 34;
      const w0 = v128.load_ext<i8>(w), w1 = v128.load_ext<i8>(w, 8);
      const w2 = v128.load_ext<i8>(w, 16), w3 = v128.load_ext<i8>(w, 24);
      const scale = v128.load_splat<f32>(s);
      a0 = Place.add0(x, w0, w1, w2, w3, scale, a0);
      a1 = Place.add1(x, w0, w1, w2, w3, scale, a1);
      a2 = Place.add2(x, w0, w1, w2, w3, scale, a2);
      a3 = Place.add3(x, w0, w1, w2, w3, scale, a3);
      a4 = Place.add4(x, w0, w1, w2, w3, scale, a4);
      a5 = Place.add5(x, w0, w1, w2, w3, scale, a5);
    }
    v128.store(sums, a0);
    v128.store(sums, a1, 16);
    v128.store(sums, a2, 32);
    v128.store(sums, a3, 48);
    v128.store(sums, a4, 64);
    v128.store(sums, a5, 80);
    return bits;
  }

  /** One row, five positions. */
  static run1x5(w: usize, s: usize, ahead: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let a3 = v128.load(sums, 48);
    let a4 = v128.load(sums, 64);
    let bits: u32 = 0;
    for (; x < xEnd; x += 544, w += 272, s += 32) {
      bits |= Tile.ahead(ahead);
      ahead += 34;
      const w0 = v128.load_ext<i8>(w), w1 = v128.load_ext<i8>(w, 8);
      const w2 = v128.load_ext<i8>(w, 16), w3 = v128.load_ext<i8>(w, 24);
      const scale = v128.load_splat<f32>(s);
      a0 = Place.add0(x, w0, w1, w2, w3, scale, a0);
      a1 = Place.add1(x, w0, w1, w2, w3, scale, a1);
      a2 = Place.add2(x, w0, w1, w2, w3, scale, a2);
      a3 = Place.add3(x, w0, w1, w2, w3, scale, a3);
      a4 = Place.add4(x, w0, w1, w2, w3, scale, a4);
    }
    v128.store(sums, a0);
    v128.store(sums, a1, 16);
    v128.store(sums, a2, 32);
    v128.store(sums, a3, 48);
    v128.store(sums, a4, 64);
    return bits;
  }

  /** One row, four positions. */
  static run1x4(w: usize, s: usize, ahead: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let a3 = v128.load(sums, 48);
    let bits: u32 = 0;
    for (; x < xEnd; x += 544, w += 272, s += 32) {
      bits |= Tile.ahead(ahead);
      ahead += 34;
      const w0 = v128.load_ext<i8>(w), w1 = v128.load_ext<i8>(w, 8);
      const w2 = v128.load_ext<i8>(w, 16), w3 = v128.load_ext<i8>(w, 24);
      const scale = v128.load_splat<f32>(s);
      a0 = Place.add0(x, w0, w1, w2, w3, scale, a0);
      a1 = Place.add1(x, w0, w1, w2, w3, scale, a1);
      a2 = Place.add2(x, w0, w1, w2, w3, scale, a2);
      a3 = Place.add3(x, w0, w1, w2, w3, scale, a3);
    }
    v128.store(sums, a0);
    v128.store(sums, a1, 16);
    v128.store(sums, a2, 32);
    v128.store(sums, a3, 48);
    return bits;
  }

  /** One row, three positions. */
  static run1x3(w: usize, s: usize, ahead: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let bits: u32 = 0;
    for (; x < xEnd; x += 544, w += 272, s += 32) {
      bits |= Tile.ahead(ahead);
      ahead += 34;
      const w0 = v128.load_ext<i8>(w), w1 = v128.load_ext<i8>(w, 8);
      const w2 = v128.load_ext<i8>(w, 16), w3 = v128.load_ext<i8>(w, 24);
      const scale = v128.load_splat<f32>(s);
      a0 = Place.add0(x, w0, w1, w2, w3, scale, a0);
      a1 = Place.add1(x, w0, w1, w2, w3, scale, a1);
      a2 = Place.add2(x, w0, w1, w2, w3, scale, a2);
    }
    v128.store(sums, a0);
    v128.store(sums, a1, 16);
    v128.store(sums, a2, 32);
    return bits;
  }

  /** Two rows, two positions. */
  static run2x2(w: usize, s: usize, ahead: usize, x: usize, xEnd: usize, sums: usize): u32 {
    let a0 = v128.load(sums);
    let a1 = v128.load(sums, 16);
    let a2 = v128.load(sums, 32);
    let a3 = v128.load(sums, 48);
    let bits: u32 = 0;
    for (; x < xEnd; x += 544, w += 272, s += 32) {
      bits |= Tile.ahead(ahead);
      ahead += 68;
      {
        const w0 = v128.load_ext<i8>(w), w1 = v128.load_ext<i8>(w, 8);
        const w2 = v128.load_ext<i8>(w, 16), w3 = v128.load_ext<i8>(w, 24);
        const scale = v128.load_splat<f32>(s);
        a0 = Place.add0(x, w0, w1, w2, w3, scale, a0);
        a1 = Place.add1(x, w0, w1, w2, w3, scale, a1);
      }
      {
        const w0 = v128.load_ext<i8>(w, 32), w1 = v128.load_ext<i8>(w, 40);
        const w2 = v128.load_ext<i8>(w, 48), w3 = v128.load_ext<i8>(w, 56);
        const scale = v128.load_splat<f32>(s, 16);
        a2 = Place.add0(x, w0, w1, w2, w3, scale, a2);
        a3 = Place.add1(x, w0, w1, w2, w3, scale, a3);
      }
    }
    v128.store(sums, a0);
    v128.store(sums, a1, 16);
    v128.store(sums, a2, 32);
    v128.store(sums, a3, 48);
    return bits;
  }
}
