import { Coefficients } from "../sparse/coefficients";
import { Columns } from "../sparse/down_q8";
import { Grid } from "../sparse/grid";
import { Neuron } from "../sparse/neuron";
import { Queues } from "../sparse/queues";
import { Touch } from "../sparse/touch";
import { Bitmap } from "./bitmap";
import { Positions } from "./positions";

/**
 * downQ8 of columns that are stored without their zeros (expand.ts draws them): sixteen columns are expanded in
 * registers, of four bundles at a time, as sums are exact and need no order. Same bits as downQ8 of the same bundles with
 * their zeros. Up to 16 bytes behind a column are read.
 */
export function downPrunedQ8(
  addresses: usize,
  downOffset: usize,
  activations: usize,
  count: i32,
  accumulator: usize,
  colFrom: i32,
  colTo: i32,
  cols: i32,
  scratch: usize,
): void {
  assert(colFrom % 32 == 0 && colTo % 32 == 0 && colTo <= cols);
  if (colFrom >= colTo) return; // The desk there is that of whoever has the column.
  const n = usize(count);
  const part = usize(colFrom), width = usize(colTo - colFrom), all = usize(cols);
  const desk = Grid.desk(accumulator, part, all);
  Queues.clear(scratch);
  let touched: usize = 0;
  let k = Neuron.nextActive(activations, 0, n);
  for (; k < n; k = Neuron.nextActive(activations, k + 1, n)) {
    if (k >= touched) touched = Touch.down(addresses, activations, k, n, downOffset, 512);
    const bundle = Neuron.address(addresses, k) + downOffset;
    const activation = load<f32>(activations + (k << 2));
    const largest = abs<f32>(activation) * Coefficients.largestScale(bundle, all);
    if (largest == 0) continue;
    const grid = Grid.of(largest);
    if (grid < 0) {
      Grid.spoil(desk);
      continue;
    }
    Grid.reserve(accumulator, desk, grid, largest, part, width, all);
    if (Queues.push(scratch, grid, bundle, activation * Grid.stepsInOne(grid)) == 4) {
      SparseColumns.addFour(accumulator, scratch, grid, part, width, all);
    }
  }
  for (let grid: usize = 0; grid < Grid.COUNT; grid++) {
    const waiting = Queues.waiting(scratch, grid);
    for (let i: usize = 0; i < waiting; i += 2) {
      SparseColumns.addTwo(accumulator, scratch, grid, i, i + 1 < waiting, part, width, all);
    }
    Queues.clearWaiting(scratch, grid);
  }
}

class SparseColumns {
  /** Four neurons, and then none waits. */
  static addFour(
    accumulator: usize,
    scratch: usize,
    grid: usize,
    part: usize,
    width: usize,
    cols: usize,
  ): void {
    const next = Queues.stride(width);
    let c = Queues.coefficients(scratch);
    Columns.prepare(c, scratch, grid, 0, true, part, width);
    Columns.prepare(c + next, scratch, grid, 2, true, part, width);
    Queues.clearWaiting(scratch, grid);
    let m0 = SparseColumns.bitmap(scratch, grid, 0, cols),
      p0 = m0 + SparseColumns.at(m0, part, cols);
    let m1 = SparseColumns.bitmap(scratch, grid, 1, cols),
      p1 = m1 + SparseColumns.at(m1, part, cols);
    let m2 = SparseColumns.bitmap(scratch, grid, 2, cols),
      p2 = m2 + SparseColumns.at(m2, part, cols);
    let m3 = SparseColumns.bitmap(scratch, grid, 3, cols),
      p3 = m3 + SparseColumns.at(m3, part, cols);
    const first = part >> 3;
    m0 += first, m1 += first, m2 += first, m3 += first;
    let y = Grid.digit(accumulator, grid, part, cols);
    for (const end = y + (width << 2); y < end; y += 128, c += 4) {
      const c0 = v128.load_splat<u32>(c), c1 = v128.load_splat<u32>(c + next);
      const b0 = load<u32>(m0), b1 = load<u32>(m1), b2 = load<u32>(m2), b3 = load<u32>(m3);
      SparseColumns.addSixteen(
        y,
        SparseColumns.expand(p0, b0),
        SparseColumns.expand(p1, b1),
        SparseColumns.expand(p2, b2),
        SparseColumns.expand(p3, b3),
        c0,
        c1,
      );
      SparseColumns.addSixteen(
        y + 64,
        SparseColumns.expand(p0 + usize(popcnt<u32>(b0 << 16)), b0 >> 16),
        SparseColumns.expand(p1 + usize(popcnt<u32>(b1 << 16)), b1 >> 16),
        SparseColumns.expand(p2 + usize(popcnt<u32>(b2 << 16)), b2 >> 16),
        SparseColumns.expand(p3 + usize(popcnt<u32>(b3 << 16)), b3 >> 16),
        c0,
        c1,
      );
      p0 += usize(popcnt<u32>(b0)), p1 += usize(popcnt<u32>(b1));
      p2 += usize(popcnt<u32>(b2)), p3 += usize(popcnt<u32>(b3));
      m0 += 4, m1 += 4, m2 += 4, m3 += 4;
    }
  }

  /** Two neurons, or one, the i-th that waits and the one after it. */
  static addTwo(
    accumulator: usize,
    scratch: usize,
    grid: usize,
    i: usize,
    isPair: bool,
    part: usize,
    width: usize,
    cols: usize,
  ): void {
    let c = Queues.coefficients(scratch);
    Columns.prepare(c, scratch, grid, i, isPair, part, width);
    const j = isPair ? i + 1 : i;
    let m0 = SparseColumns.bitmap(scratch, grid, i, cols),
      p0 = m0 + SparseColumns.at(m0, part, cols);
    let m1 = SparseColumns.bitmap(scratch, grid, j, cols),
      p1 = m1 + SparseColumns.at(m1, part, cols);
    m0 += part >> 3, m1 += part >> 3;
    let y = Grid.digit(accumulator, grid, part, cols);
    for (const end = y + (width << 2); y < end; c += 4, m0 += 4, m1 += 4) {
      const c0 = v128.load_splat<u32>(c);
      let b0 = load<u32>(m0), b1 = load<u32>(m1);
      for (const blockEnd = y + 128; y < blockEnd; y += 64, b0 >>= 16, b1 >>= 16) {
        const d0 = SparseColumns.expand(p0, b0), d1 = SparseColumns.expand(p1, b1);
        SparseColumns.addEight(y, i16x8.extend_low_i8x16_s(d0), i16x8.extend_low_i8x16_s(d1), c0);
        SparseColumns.addEight(
          y + 32,
          i16x8.extend_high_i8x16_s(d0),
          i16x8.extend_high_i8x16_s(d1),
          c0,
        );
        p0 += usize(popcnt<u32>(b0 << 16)), p1 += usize(popcnt<u32>(b1 << 16));
      }
    }
  }

  /** The bitmap of the i-th neuron's column. */
  @inline
  static bitmap(scratch: usize, grid: usize, i: usize, cols: usize): usize {
    return usize(load<u32>(Queues.entry(scratch, grid, i))) + (cols >> 4);
  }

  /** How far behind its bitmap the numbers from column `part` on lie. */
  @inline
  static at(bitmap: usize, part: usize, cols: usize): usize {
    return (cols >> 3) + Bitmap.count(bitmap, part >> 3);
  }

  /** Sixteen numbers from `p` on, where the lowest bits are set. */
  @inline
  static expand(p: usize, bits: u32): v128 {
    return Positions.shuffle(v128.load(p), Positions.sixteen(bits));
  }

  /** Sixteen columns of two pairs. */
  @inline
  static addSixteen(
    y: usize,
    d0: v128,
    d1: v128,
    d2: v128,
    d3: v128,
    c0: v128,
    c1: v128,
  ): void {
    const a0 = i16x8.extend_low_i8x16_s(d0),
      a1 = i16x8.extend_low_i8x16_s(d1),
      a2 = i16x8.extend_low_i8x16_s(d2),
      a3 = i16x8.extend_low_i8x16_s(d3);
    let low = i32x4.add(v128.load(y), Columns.low(a0, a1, c0));
    let high = i32x4.add(v128.load(y, 16), Columns.high(a0, a1, c0));
    v128.store(y, i32x4.add(low, Columns.low(a2, a3, c1)));
    v128.store(y, i32x4.add(high, Columns.high(a2, a3, c1)), 16);
    const b0 = i16x8.extend_high_i8x16_s(d0),
      b1 = i16x8.extend_high_i8x16_s(d1),
      b2 = i16x8.extend_high_i8x16_s(d2),
      b3 = i16x8.extend_high_i8x16_s(d3);
    low = i32x4.add(v128.load(y, 32), Columns.low(b0, b1, c0));
    high = i32x4.add(v128.load(y, 48), Columns.high(b0, b1, c0));
    v128.store(y, i32x4.add(low, Columns.low(b2, b3, c1)), 32);
    v128.store(y, i32x4.add(high, Columns.high(b2, b3, c1)), 48);
  }

  /** Eight columns of a pair. */
  @inline
  static addEight(y: usize, a: v128, b: v128, pair: v128): void {
    v128.store(y, i32x4.add(v128.load(y), Columns.low(a, b, pair)));
    v128.store(y, i32x4.add(v128.load(y, 16), Columns.high(a, b, pair)), 16);
  }
}
