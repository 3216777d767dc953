import { Coefficients } from "./coefficients";
import { Grid } from "./grid";
import { Neuron } from "./neuron";
import { Queues } from "./queues";
import { Touch } from "./touch";

/**
 * For entries k = 0 .. count - 1 of a list and columns colFrom <= c < colTo (multiples of 32):
 * `accumulator[c] += activations[k] * down column of the bundle at addresses[k]`, q8 bundles. Entries whose activation
 * is zero are not read.
 *
 * Sums are exact integers on the grids of grid.ts, so that neither the order of a list nor its passes matter. That
 * frees this kernel to add neurons of one grid eight at a time: the i16 of two neurons interleaved, and multiplied by
 * two coefficients at once, need half the instructions of f32.
 *
 * `accumulator`: see grid.ts; all zero at first. finishDownQ8 reads and clears it. `scratch`: see
 * queues.ts; 16-byte aligned, and the caller's own.
 */
export function downQ8(
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
    if (k >= touched) {
      const bytes = downOffset + (all >> 4) + part;
      touched = Touch.down(addresses, activations, k, n, bytes, width);
    }
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
    if (Queues.push(scratch, grid, bundle, activation * Grid.stepsInOne(grid)) == 8) {
      Columns.addEight(accumulator, scratch, grid, part, width, all);
    }
  }
  for (let grid: usize = 0; grid < Grid.COUNT; grid++) {
    const waiting = Queues.waiting(scratch, grid);
    for (let i: usize = 0; i < waiting; i += 2) {
      Columns.addTwo(accumulator, scratch, grid, i, i + 1 < waiting, part, width, all);
    }
    Queues.clearWaiting(scratch, grid);
  }
}

/** Adding neurons that wait for one grid. */
export class Columns {
  /** Eight neurons, and then none waits. */
  static addEight(
    accumulator: usize,
    scratch: usize,
    grid: usize,
    part: usize,
    width: usize,
    cols: usize,
  ): void {
    const next = Queues.stride(width);
    let c = Queues.coefficients(scratch);
    for (let i: usize = 0; i < 8; i += 2) {
      Columns.prepare(c + (i >> 1) * next, scratch, grid, i, true, part, width);
    }
    Queues.clearWaiting(scratch, grid);
    const at = (cols >> 4) + part;
    const p0 = usize(load<u32>(Queues.entry(scratch, grid, 0))) + at;
    const p1 = usize(load<u32>(Queues.entry(scratch, grid, 1))) + at;
    const p2 = usize(load<u32>(Queues.entry(scratch, grid, 2))) + at;
    const p3 = usize(load<u32>(Queues.entry(scratch, grid, 3))) + at;
    const p4 = usize(load<u32>(Queues.entry(scratch, grid, 4))) + at;
    const p5 = usize(load<u32>(Queues.entry(scratch, grid, 5))) + at;
    const p6 = usize(load<u32>(Queues.entry(scratch, grid, 6))) + at;
    const p7 = usize(load<u32>(Queues.entry(scratch, grid, 7))) + at;
    let y = Grid.digit(accumulator, grid, part, cols);
    // One offset for all eight: eight growing addresses would not fit into registers. Unrolled by hand, as V8 adds no
    // constants to addresses.
    for (let o: usize = 0; o < width; o += 32, c += 4, y += 128) {
      const c0 = v128.load_splat<u32>(c), c1 = v128.load_splat<u32>(c + next);
      const c2 = v128.load_splat<u32>(c + 2 * next), c3 = v128.load_splat<u32>(c + 3 * next);
      let low = v128.load(y), high = v128.load(y, 16);
      let a = v128.load_ext<i8>(p0 + o), b = v128.load_ext<i8>(p1 + o);
      low = i32x4.add(low, Columns.low(a, b, c0));
      high = i32x4.add(high, Columns.high(a, b, c0));
      a = v128.load_ext<i8>(p2 + o), b = v128.load_ext<i8>(p3 + o);
      low = i32x4.add(low, Columns.low(a, b, c1));
      high = i32x4.add(high, Columns.high(a, b, c1));
      a = v128.load_ext<i8>(p4 + o), b = v128.load_ext<i8>(p5 + o);
      low = i32x4.add(low, Columns.low(a, b, c2));
      high = i32x4.add(high, Columns.high(a, b, c2));
      a = v128.load_ext<i8>(p6 + o), b = v128.load_ext<i8>(p7 + o);
      low = i32x4.add(low, Columns.low(a, b, c3));
      high = i32x4.add(high, Columns.high(a, b, c3));
      v128.store(y, low);
      v128.store(y, high, 16);
      low = v128.load(y, 32), high = v128.load(y, 48);
      a = v128.load_ext<i8>(p0 + o, 8), b = v128.load_ext<i8>(p1 + o, 8);
      low = i32x4.add(low, Columns.low(a, b, c0));
      high = i32x4.add(high, Columns.high(a, b, c0));
      a = v128.load_ext<i8>(p2 + o, 8), b = v128.load_ext<i8>(p3 + o, 8);
      low = i32x4.add(low, Columns.low(a, b, c1));
      high = i32x4.add(high, Columns.high(a, b, c1));
      a = v128.load_ext<i8>(p4 + o, 8), b = v128.load_ext<i8>(p5 + o, 8);
      low = i32x4.add(low, Columns.low(a, b, c2));
      high = i32x4.add(high, Columns.high(a, b, c2));
      a = v128.load_ext<i8>(p6 + o, 8), b = v128.load_ext<i8>(p7 + o, 8);
      low = i32x4.add(low, Columns.low(a, b, c3));
      high = i32x4.add(high, Columns.high(a, b, c3));
      v128.store(y, low, 32);
      v128.store(y, high, 48);
      low = v128.load(y, 64), high = v128.load(y, 80);
      a = v128.load_ext<i8>(p0 + o, 16), b = v128.load_ext<i8>(p1 + o, 16);
      low = i32x4.add(low, Columns.low(a, b, c0));
      high = i32x4.add(high, Columns.high(a, b, c0));
      a = v128.load_ext<i8>(p2 + o, 16), b = v128.load_ext<i8>(p3 + o, 16);
      low = i32x4.add(low, Columns.low(a, b, c1));
      high = i32x4.add(high, Columns.high(a, b, c1));
      a = v128.load_ext<i8>(p4 + o, 16), b = v128.load_ext<i8>(p5 + o, 16);
      low = i32x4.add(low, Columns.low(a, b, c2));
      high = i32x4.add(high, Columns.high(a, b, c2));
      a = v128.load_ext<i8>(p6 + o, 16), b = v128.load_ext<i8>(p7 + o, 16);
      low = i32x4.add(low, Columns.low(a, b, c3));
      high = i32x4.add(high, Columns.high(a, b, c3));
      v128.store(y, low, 64);
      v128.store(y, high, 80);
      low = v128.load(y, 96), high = v128.load(y, 112);
      a = v128.load_ext<i8>(p0 + o, 24), b = v128.load_ext<i8>(p1 + o, 24);
      low = i32x4.add(low, Columns.low(a, b, c0));
      high = i32x4.add(high, Columns.high(a, b, c0));
      a = v128.load_ext<i8>(p2 + o, 24), b = v128.load_ext<i8>(p3 + o, 24);
      low = i32x4.add(low, Columns.low(a, b, c1));
      high = i32x4.add(high, Columns.high(a, b, c1));
      a = v128.load_ext<i8>(p4 + o, 24), b = v128.load_ext<i8>(p5 + o, 24);
      low = i32x4.add(low, Columns.low(a, b, c2));
      high = i32x4.add(high, Columns.high(a, b, c2));
      a = v128.load_ext<i8>(p6 + o, 24), b = v128.load_ext<i8>(p7 + o, 24);
      low = i32x4.add(low, Columns.low(a, b, c3));
      high = i32x4.add(high, Columns.high(a, b, c3));
      v128.store(y, low, 96);
      v128.store(y, high, 112);
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
    const at = (cols >> 4) + part;
    let p0 = usize(load<u32>(Queues.entry(scratch, grid, i))) + at;
    let p1 = usize(load<u32>(Queues.entry(scratch, grid, isPair ? i + 1 : i))) + at;
    let y = Grid.digit(accumulator, grid, part, cols);
    for (const end = y + (width << 2); y < end; c += 4) {
      const c0 = v128.load_splat<u32>(c);
      for (const blockEnd = y + 128; y < blockEnd; y += 32, p0 += 8, p1 += 8) {
        const a = v128.load_ext<i8>(p0), b = v128.load_ext<i8>(p1);
        v128.store(y, i32x4.add(v128.load(y), Columns.low(a, b, c0)));
        v128.store(y, i32x4.add(v128.load(y, 16), Columns.high(a, b, c0)), 16);
      }
    }
  }

  /** The coefficients of two neurons that wait; without a second one, its are zero. */
  static prepare(
    target: usize,
    scratch: usize,
    grid: usize,
    i: usize,
    isPair: bool,
    part: usize,
    width: usize,
  ): void {
    const a = Queues.entry(scratch, grid, i), b = Queues.entry(scratch, grid, isPair ? i + 1 : i);
    const scales = part >> 4;
    Coefficients.store(
      target,
      usize(load<u32>(a)) + scales,
      load<f32>(a, 4),
      usize(load<u32>(b)) + scales,
      isPair ? load<f32>(b, 4) : 0,
      width >> 5,
    );
  }

  /** Columns 0 to 3 of two neurons, by their two coefficients. */
  @inline
  static low(a: v128, b: v128, pair: v128): v128 {
    return i32x4.dot_i16x8_s(v128.shuffle<u16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11), pair);
  }

  /** Columns 4 to 7. */
  @inline
  static high(a: v128, b: v128, pair: v128): v128 {
    return i32x4.dot_i16x8_s(v128.shuffle<u16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15), pair);
  }
}
