import { Half } from "../half";
import { Lanes } from "../lanes";
import { matvecF16 } from "../matvec/f16";
import { matvecF32 } from "../matvec/f32";
import { matvecQ8 } from "../matvec/q8";
import { Tile } from "../matvec/tile";
import { TilesF32 } from "./tiles_f32";
import { TilesQ8 } from "./tiles_q8";

/**
 * `y_t[row] = dot(w[row], x_t) + bias[row]` for t < count and rowFrom <= row < rowTo (multiples of 8): many positions
 * against tiles of weights, each weight read from memory once. The bits are those of matvec, for each position alone.
 *
 *   x_t: at xs + t * xStride, prepared for the dtype     y_t: at y + t * yStride, f32[rows, padded to 8]
 *   bias: f32[rows, padded to 8]; bias 0: none           scratch: 20480 + 68 * cols bytes, its own
 *
 * Four sums (f32x4) of each row and position must stay apart to the end, which are more than there are registers. So
 * they wait in scratch while a panel of columns is multiplied:
 *
 *   for some rows (which fit into L2)
 *     for a chunk of positions, packed into scratch (L2): groups of 8, in f32 and f16 of 4
 *       for 8 rows
 *         for a panel of 512 columns (L1)
 *           for each group: sums of 8 rows x group += panel
 *         y = sums, scaled, plus bias
 *
 * Positions are divided evenly among chunks and groups, as small groups are less efficient.
 */
export function matmatF32(
  w: usize,
  xs: usize,
  xStride: usize,
  count: i32,
  bias: usize,
  y: usize,
  yStride: usize,
  rowFrom: i32,
  rowTo: i32,
  cols: i32,
  scratch: usize,
): void {
  if (count == 1) matvecF32(w, xs, bias, y, rowFrom, rowTo, cols);
  else Product.run(F32, w, xs, xStride, count, bias, y, yStride, rowFrom, rowTo, cols, scratch);
}

/** matmatF32 with f16 tiles. */
export function matmatF16(
  w: usize,
  xs: usize,
  xStride: usize,
  count: i32,
  bias: usize,
  y: usize,
  yStride: usize,
  rowFrom: i32,
  rowTo: i32,
  cols: i32,
  scratch: usize,
): void {
  if (count == 1) matvecF16(w, xs, bias, y, rowFrom, rowTo, cols);
  else Product.run(F16, w, xs, xStride, count, bias, y, yStride, rowFrom, rowTo, cols, scratch);
}

/** matmatF32 with q8 tiles. */
export function matmatQ8(
  w: usize,
  xs: usize,
  xStride: usize,
  count: i32,
  bias: usize,
  y: usize,
  yStride: usize,
  rowFrom: i32,
  rowTo: i32,
  cols: i32,
  scratch: usize,
): void {
  if (count == 1) matvecQ8(w, xs, bias, y, rowFrom, rowTo, cols);
  else Product.run(Q8, w, xs, xStride, count, bias, y, yStride, rowFrom, rowTo, cols, scratch);
}

const F32: i32 = 0, F16: i32 = 1, Q8: i32 = 2;

/** Groups of a chunk, at most. */
const GROUPS: i32 = 4;

/** Blocks of 32 columns in a panel: weights and a group's x take 13 (q8) to 24 KiB (f32). */
const PANEL: i32 = 16;

/** Bytes of sums: 8 rows, 32 positions, 16 bytes. */
const SUMS: usize = 4096;

/** Bytes of a panel of f16 weights, or of q8 scales, as f32. */
const WIDE: usize = 16384;

class Product {
  static run(
    dtype: i32,
    w: usize,
    xs: usize,
    xStride: usize,
    count: i32,
    bias: usize,
    y: usize,
    yStride: usize,
    rowFrom: i32,
    rowTo: i32,
    cols: i32,
    scratch: usize,
  ): void {
    assert(rowFrom % 8 == 0 && rowTo % 8 == 0 && cols % 32 == 0 && count > 0);
    const rows = dtype == Q8 ? 64 : 32;
    const chunks = Product.parts(count, GROUPS * Product.groupMax(dtype));
    for (let from = rowFrom; from < rowTo; from += rows) {
      const to = min(from + rows, rowTo);
      let t = 0;
      for (let chunk = 0; chunk < chunks; chunk++) {
        const n = Product.part(count - t, chunks - chunk);
        const x = xs + usize(t) * xStride, o = y + usize(t) * yStride;
        if (chunks > 1 || from == rowFrom) {
          Product.pack(dtype, x, xStride, n, scratch + SUMS + WIDE, cols);
        }
        for (let row = from; row < to; row += 8) {
          Product.multiply(dtype, w, n, row, rowTo, cols, scratch);
          Product.finish(dtype, scratch, n, bias, o, yStride, row);
        }
        t += n;
      }
    }
  }

  static pack(
    dtype: i32,
    xs: usize,
    xStride: usize,
    count: i32,
    packed: usize,
    cols: i32,
  ): void {
    const groups = Product.parts(count, Product.groupMax(dtype));
    for (let group = 0; group < groups; group++) {
      const n = Product.part(count, groups - group);
      if (dtype == Q8) TilesQ8.pack(xs, xStride, n, packed, cols);
      else TilesF32.pack(xs, xStride, n, packed, cols);
      count -= n;
      xs += usize(n) * xStride;
      packed += usize(cols >> 5) * Product.xBlock(dtype);
    }
  }

  /** The sums of 8 rows and of a chunk: for each group f32x4[8][positions]. */
  static multiply(
    dtype: i32,
    w: usize,
    count: i32,
    row: i32,
    rowTo: i32,
    cols: i32,
    scratch: usize,
  ): void {
    const wide = scratch + SUMS;
    memory.fill(scratch, 0, usize(count) * 128);
    const blocks = cols >> 5;
    const tile: usize = dtype == Q8 ? 272 : dtype == F16 ? 512 : 1024;
    const xBlock = Product.xBlock(dtype);
    const groups = Product.parts(count, Product.groupMax(dtype));
    const end = w + usize(rowTo >> 3) * usize(blocks) * tile;
    w += usize(row >> 3) * usize(blocks) * tile;
    for (let block = 0; block < blocks; block += PANEL) {
      const length = usize(min(PANEL, blocks - block)), next = w + length * tile;
      if (dtype == Q8) TilesQ8.widenScales(w, next, wide);
      if (dtype == F16) TilesF32.widen(w, next, wide);
      let ahead = next + length * tile <= end ? next : w;
      let sums = scratch, x = wide + WIDE + usize(block) * xBlock;
      for (let group = 0, left = count; group < groups; group++) {
        const n = Product.part(left, groups - group);
        const xEnd = x + length * xBlock;
        if (dtype == Q8) TilesQ8.run(n, w, wide, ahead, x, xEnd, sums);
        else TilesF32.run(n, dtype == F16 ? wide : w, x, xEnd, sums);
        ahead = w;
        left -= n;
        sums += usize(n) * 128;
        x += usize(blocks) * xBlock;
      }
      w = next;
    }
  }

  static finish(
    dtype: i32,
    sums: usize,
    count: i32,
    bias: usize,
    y: usize,
    yStride: usize,
    row: i32,
  ): void {
    const scale = Half.scale();
    const groups = Product.parts(count, Product.groupMax(dtype));
    for (let group = 0, left = count; group < groups; group++) {
      const n = Product.part(left, groups - group), next = usize(n) << 4;
      for (let i = 0; i < n; i++, y += yStride, sums += 16) {
        for (let half: usize = 0; half < 8; half += 4) {
          const s = sums + half * next;
          let four = Lanes.sums(
            v128.load(s),
            v128.load(s + next),
            v128.load(s + 2 * next),
            v128.load(s + 3 * next),
          );
          if (dtype != F32) four = f32x4.mul(four, scale);
          Tile.finish(four, y, bias, (usize(row) + half) << 2);
        }
      }
      sums += 7 * next;
      left -= n;
    }
  }

  /** Positions of a group, at most. */
  @inline
  static groupMax(dtype: i32): i32 {
    return dtype == Q8 ? 8 : 4;
  }

  /** Bytes of 32 columns of a group. */
  @inline
  static xBlock(dtype: i32): usize {
    return dtype == Q8 ? 544 : 512;
  }

  /** How many parts of at most `most` there are in `count`. */
  @inline
  static parts(count: i32, most: i32): i32 {
    return (count + most - 1) / most;
  }

  /** The next of `parts` even parts of `count`, larger ones first. */
  @inline
  static part(count: i32, parts: i32): i32 {
    return (count + parts - 1) / parts;
  }
}
