import { Lanes } from "../lanes";

/**
 * Products of f32 matrices for fitting, C = A B, of operands that were packed into panels.
 *
 *   left  panel, 4 rows of A:    | a0[0] a1[0] a2[0] a3[0] | a0[1] ... |      depth x 4
 *   right panel, 8 columns of B: | b[0][0] ... b[0][7] | b[1][0] ... |        depth x 8
 *
 * Rows and columns beyond the end are zeros in the panels. Each number of C is one chain of additions over the depth.
 */

/** Packs `rows` x `depth` of a row-major matrix into panels of `width` rows; `stride` is in numbers. */
export function packRows(
  source: usize,
  stride: i32,
  rows: i32,
  depth: i32,
  width: i32,
  target: usize,
): void {
  const rowBytes = usize(stride) << 2;
  const step = usize(width) << 2;
  for (let row = 0; row < rows; row += width) {
    for (let r = 0; r < width; r++) {
      let to = target + (usize(r) << 2);
      if (row + r < rows) {
        let from = source + usize(row + r) * rowBytes;
        for (const end = from + (usize(depth) << 2); from < end; from += 4, to += step) {
          store<f32>(to, load<f32>(from));
        }
      } else {
        for (let k = 0; k < depth; k++, to += step) store<f32>(to, 0);
      }
    }
    target += usize(depth) * step;
  }
}

/** Packs `depth` x `cols` of a row-major matrix into panels of `width` columns (4 or 8). */
export function packColumns(
  source: usize,
  stride: i32,
  cols: i32,
  depth: i32,
  width: i32,
  target: usize,
): void {
  const rowBytes = usize(stride) << 2;
  for (let col = 0; col < cols; col += width) {
    let from = source + (usize(col) << 2);
    const present = min(width, cols - col);
    if (present == width) {
      for (let k = 0; k < depth; k++, from += rowBytes, target += usize(width) << 2) {
        v128.store(target, v128.load(from));
        if (width == 8) v128.store(target, v128.load(from, 16), 16);
      }
    } else {
      for (let k = 0; k < depth; k++, from += rowBytes, target += usize(width) << 2) {
        for (let c = 0; c < width; c++) {
          const at = usize(c) << 2;
          store<f32>(target + at, c < present ? load<f32>(from + at) : 0);
        }
      }
    }
  }
}

/**
 * C = A B, or C += A B, from packed operands. `c`: f32[rows][stride], where rows and columns are rounded up to whole
 * panels: C must have room for `rows` rounded up to 4, and `stride` be at least `cols` rounded up to 8.
 */
export function multiplyPacked(
  left: usize,
  right: usize,
  c: usize,
  rows: i32,
  cols: i32,
  depth: i32,
  stride: i32,
  accumulate: i32,
): void {
  const leftBytes = usize(depth) << 4, rightBytes = usize(depth) << 5;
  const rowBytes = usize(stride) << 2;
  const zero = f32x4.splat(0);
  for (let col = 0; col < cols; col += 8, right += rightBytes) {
    let a = left;
    for (let row = 0; row < rows; row += 4) {
      const c0 = c + usize(row) * rowBytes + (usize(col) << 2);
      const c1 = c0 + rowBytes, c2 = c1 + rowBytes, c3 = c2 + rowBytes;
      let s00 = zero, s01 = zero, s10 = zero, s11 = zero;
      let s20 = zero, s21 = zero, s30 = zero, s31 = zero;
      if (accumulate) {
        s00 = v128.load(c0), s01 = v128.load(c0, 16), s10 = v128.load(c1), s11 = v128.load(c1, 16);
        s20 = v128.load(c2), s21 = v128.load(c2, 16), s30 = v128.load(c3), s31 = v128.load(c3, 16);
      }
      let b = right;
      for (const end = a + leftBytes; a < end; a += 16, b += 32) {
        const b0 = v128.load(b), b1 = v128.load(b, 16);
        const x0 = Lanes.splatAt(a);
        s00 = Lanes.madd(x0, b0, s00);
        s01 = Lanes.madd(x0, b1, s01);
        const x1 = Lanes.splatAt(a + 4);
        s10 = Lanes.madd(x1, b0, s10);
        s11 = Lanes.madd(x1, b1, s11);
        const x2 = Lanes.splatAt(a + 8);
        s20 = Lanes.madd(x2, b0, s20);
        s21 = Lanes.madd(x2, b1, s21);
        const x3 = Lanes.splatAt(a + 12);
        s30 = Lanes.madd(x3, b0, s30);
        s31 = Lanes.madd(x3, b1, s31);
      }
      v128.store(c0, s00), v128.store(c0, s01, 16), v128.store(c1, s10), v128.store(c1, s11, 16);
      v128.store(c2, s20), v128.store(c2, s21, 16), v128.store(c3, s30), v128.store(c3, s31, 16);
    }
  }
}
