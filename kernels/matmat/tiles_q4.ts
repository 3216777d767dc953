import { Half } from "../half";
import { Lanes } from "../lanes";
import { Nibbles } from "../nibbles";

/**
 * Sums of 8 rows and a group of up to 4 positions over a panel of columns, q4 tiles.
 *
 *   x, 32 columns, 160 bytes: | columns 0..3 of each position: 4 i8 | columns 4..7 | ... | 4 x 2 i16 offsets | 4 f32 scales |
 *   sums:                     | rows 0 2 4 6 of each position: f32x4 | rows 1 3 5 7 of each position |
 *
 * Places in x of positions that a group does not have are never read. A sum has the operations of matvecQ4 in their
 * order; positions share the weights' nibbles.
 */
export class TilesQ4 {
  /** Packs prepared activations of `count` positions side by side. */
  static pack(xs: usize, xStride: usize, count: i32, packed: usize, cols: i32): void {
    for (let t: usize = 0; t < usize(count); t++, xs += xStride) {
      let p = packed + t * 4, x = xs, xScale = xs + usize(cols);
      for (const end = xScale; x < end; xScale += 8, p += 32) {
        for (const blockEnd = x + 32; x < blockEnd; x += 4, p += 16) store<u32>(p, load<u32>(x));
        store<u32>(p, load<u32>(xScale, 4));
        store<f32>(p, load<f32>(xScale), 16);
      }
    }
  }

  /** Adds columns [x, xEnd) to the sums of 2 to 4 positions. */
  static run(positions: i32, w: usize, x: usize, xEnd: usize, sums: usize): void {
    if (positions == 4) TilesQ4.run4(w, x, xEnd, sums);
    else if (positions == 3) TilesQ4.run3(w, x, xEnd, sums);
    else TilesQ4.run2(w, x, xEnd, sums);
  }

  /** Four positions. */
  static run4(w: usize, x: usize, xEnd: usize, sums: usize): void {
    const even = Half.even(), odd = Half.odd(), mask = Half.mask(), four = Nibbles.mask();
    for (; x < xEnd; w += 16) {
      // The offsets, beyond this block's columns; an i16 may wrap on the way (matvecQ4).
      let s0 = v128.load_splat<u32>(x, 128), z0 = s0;
      let s1 = v128.load_splat<u32>(x, 132), z1 = s1;
      let s2 = v128.load_splat<u32>(x, 136), z2 = s2;
      let s3 = v128.load_splat<u32>(x, 140), z3 = s3;
      const scales = w;
      for (const end = x + 128; x < end; x += 16) {
        w += 16;
        const b = v128.load(w), low = Nibbles.low(b, four), high = Nibbles.high(b, four);
        let n = v128.load_splat<u32>(x);
        s0 = i16x8.add(s0, Nibbles.dot(n, low));
        z0 = i16x8.add(z0, Nibbles.dot(n, high));
        n = v128.load_splat<u32>(x, 4);
        s1 = i16x8.add(s1, Nibbles.dot(n, low));
        z1 = i16x8.add(z1, Nibbles.dot(n, high));
        n = v128.load_splat<u32>(x, 8);
        s2 = i16x8.add(s2, Nibbles.dot(n, low));
        z2 = i16x8.add(z2, Nibbles.dot(n, high));
        n = v128.load_splat<u32>(x, 12);
        s3 = i16x8.add(s3, Nibbles.dot(n, low));
        z3 = i16x8.add(z3, Nibbles.dot(n, high));
      }
      const eight = v128.load(scales);
      const e = Half.widen(eight, even, mask), o = Half.widen(eight, odd, mask);
      let scale = v128.load_splat<f32>(x, 16);
      Sum.add(s0, f32x4.mul(e, scale), sums);
      Sum.add(z0, f32x4.mul(o, scale), sums + 64);
      scale = v128.load_splat<f32>(x, 20);
      Sum.add(s1, f32x4.mul(e, scale), sums + 16);
      Sum.add(z1, f32x4.mul(o, scale), sums + 80);
      scale = v128.load_splat<f32>(x, 24);
      Sum.add(s2, f32x4.mul(e, scale), sums + 32);
      Sum.add(z2, f32x4.mul(o, scale), sums + 96);
      scale = v128.load_splat<f32>(x, 28);
      Sum.add(s3, f32x4.mul(e, scale), sums + 48);
      Sum.add(z3, f32x4.mul(o, scale), sums + 112);
      x += 32;
    }
  }

  /** Three positions. */
  static run3(w: usize, x: usize, xEnd: usize, sums: usize): void {
    const even = Half.even(), odd = Half.odd(), mask = Half.mask(), four = Nibbles.mask();
    for (; x < xEnd; w += 16) {
      // The offsets, beyond this block's columns; an i16 may wrap on the way (matvecQ4).
      let s0 = v128.load_splat<u32>(x, 128), z0 = s0;
      let s1 = v128.load_splat<u32>(x, 132), z1 = s1;
      let s2 = v128.load_splat<u32>(x, 136), z2 = s2;
      const scales = w;
      for (const end = x + 128; x < end; x += 16) {
        w += 16;
        const b = v128.load(w), low = Nibbles.low(b, four), high = Nibbles.high(b, four);
        let n = v128.load_splat<u32>(x);
        s0 = i16x8.add(s0, Nibbles.dot(n, low));
        z0 = i16x8.add(z0, Nibbles.dot(n, high));
        n = v128.load_splat<u32>(x, 4);
        s1 = i16x8.add(s1, Nibbles.dot(n, low));
        z1 = i16x8.add(z1, Nibbles.dot(n, high));
        n = v128.load_splat<u32>(x, 8);
        s2 = i16x8.add(s2, Nibbles.dot(n, low));
        z2 = i16x8.add(z2, Nibbles.dot(n, high));
      }
      const eight = v128.load(scales);
      const e = Half.widen(eight, even, mask), o = Half.widen(eight, odd, mask);
      let scale = v128.load_splat<f32>(x, 16);
      Sum.add(s0, f32x4.mul(e, scale), sums);
      Sum.add(z0, f32x4.mul(o, scale), sums + 48);
      scale = v128.load_splat<f32>(x, 20);
      Sum.add(s1, f32x4.mul(e, scale), sums + 16);
      Sum.add(z1, f32x4.mul(o, scale), sums + 64);
      scale = v128.load_splat<f32>(x, 24);
      Sum.add(s2, f32x4.mul(e, scale), sums + 32);
      Sum.add(z2, f32x4.mul(o, scale), sums + 80);
      x += 32;
    }
  }

  /** Two positions. */
  static run2(w: usize, x: usize, xEnd: usize, sums: usize): void {
    const even = Half.even(), odd = Half.odd(), mask = Half.mask(), four = Nibbles.mask();
    for (; x < xEnd; w += 16) {
      // The offsets, beyond this block's columns; an i16 may wrap on the way (matvecQ4).
      let s0 = v128.load_splat<u32>(x, 128), z0 = s0;
      let s1 = v128.load_splat<u32>(x, 132), z1 = s1;
      const scales = w;
      for (const end = x + 128; x < end; x += 16) {
        w += 16;
        const b = v128.load(w), low = Nibbles.low(b, four), high = Nibbles.high(b, four);
        let n = v128.load_splat<u32>(x);
        s0 = i16x8.add(s0, Nibbles.dot(n, low));
        z0 = i16x8.add(z0, Nibbles.dot(n, high));
        n = v128.load_splat<u32>(x, 4);
        s1 = i16x8.add(s1, Nibbles.dot(n, low));
        z1 = i16x8.add(z1, Nibbles.dot(n, high));
      }
      const eight = v128.load(scales);
      const e = Half.widen(eight, even, mask), o = Half.widen(eight, odd, mask);
      let scale = v128.load_splat<f32>(x, 16);
      Sum.add(s0, f32x4.mul(e, scale), sums);
      Sum.add(z0, f32x4.mul(o, scale), sums + 32);
      scale = v128.load_splat<f32>(x, 20);
      Sum.add(s1, f32x4.mul(e, scale), sums + 16);
      Sum.add(z1, f32x4.mul(o, scale), sums + 48);
      x += 32;
    }
  }
}

class Sum {
  /** Four rows of a block: exact products, scaled, are added to what lies at `sum`. */
  @inline
  static add(dot: v128, scale: v128, sum: usize): void {
    const four = f32x4.convert_i32x4_s(i32x4.dot_i16x8_s(dot, Nibbles.ones()));
    v128.store(sum, Lanes.madd(four, scale, v128.load(sum)));
  }
}
