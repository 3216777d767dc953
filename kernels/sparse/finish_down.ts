import { Half } from "../half";
import { Grid } from "./grid";

/**
 * The end of a sparse FFN, for columns colFrom <= c < colTo (multiples of 32):
 * `residual[c] += sum[c] + bias[c]` (bias 0: none), and the accumulator is zero again.
 */
export function finishDownF32(
  accumulator: usize,
  bias: usize,
  residual: usize,
  colFrom: i32,
  colTo: i32,
  cols: i32,
): void {
  assert(colFrom % 32 == 0 && colTo % 32 == 0 && colTo <= cols);
  const end = usize(colTo) << 2;
  for (let byte = usize(colFrom) << 2; byte < end; byte += 16) {
    Column.finish(v128.load(accumulator + byte), bias, residual, byte);
    v128.store(accumulator + byte, f32x4.splat(0));
  }
}

/** As finishDownF32; the accumulator holds 2^-56 of the sums, of eight columns as | even | odd |. */
export function finishDownF16(
  accumulator: usize,
  bias: usize,
  residual: usize,
  colFrom: i32,
  colTo: i32,
  cols: i32,
): void {
  assert(colFrom % 32 == 0 && colTo % 32 == 0 && colTo <= cols);
  const scale = Half.scale();
  const end = usize(colTo) << 2;
  for (let byte = usize(colFrom) << 2; byte < end; byte += 32) {
    const even = f32x4.mul(v128.load(accumulator + byte), scale);
    const odd = f32x4.mul(v128.load(accumulator + byte, 16), scale);
    Column.finish(v128.shuffle<u32>(even, odd, 0, 4, 1, 5), bias, residual, byte);
    Column.finish(v128.shuffle<u32>(even, odd, 2, 6, 3, 7), bias, residual, byte + 16);
    v128.store(accumulator + byte, f32x4.splat(0));
    v128.store(accumulator + byte, f32x4.splat(0), 16);
  }
}

/** As finishDownF32, of the sums that downQ8 or downQ4 kept for exactly these columns. */
export function finishDownQ8(
  accumulator: usize,
  bias: usize,
  residual: usize,
  colFrom: i32,
  colTo: i32,
  cols: i32,
): void {
  assert(colFrom % 32 == 0 && colTo % 32 == 0 && colTo <= cols);
  if (colFrom >= colTo) return; // As in downQ8.
  const part = usize(colFrom), width = usize(colTo - colFrom);
  Grid.finish(accumulator, bias, residual, part, width, usize(cols));
}

class Column {
  @inline
  static finish(sum: v128, bias: usize, residual: usize, byte: usize): void {
    if (bias != 0) sum = f32x4.add(sum, v128.load(bias + byte));
    v128.store(residual + byte, f32x4.add(v128.load(residual + byte), sum));
  }
}
