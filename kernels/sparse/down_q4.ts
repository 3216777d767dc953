import { Nibbles } from "../nibbles";
import { Coefficients } from "./coefficients";
import { Grid } from "./grid";
import { Neuron } from "./neuron";
import { Queues } from "./queues";
import { Touch } from "./touch";

/**
 * For entries k = 0 .. count - 1 of a list and columns colFrom <= c < colTo (multiples of 32):
 * `accumulator[c] += activations[k] * down column of the bundle at addresses[k]`, q4 bundles. Entries whose activation
 * is zero are not read.
 *
 * Sums are exact integers, as in downQ8. Coefficients (activation times scale) are rounded to i8, as weights of four bits
 * ask for no more; 16 neurons whose coefficients count in the same units are then added in i16 before any of it is
 * widened.
 *
 * `accumulator`: see grid.ts; all zero at first. finishDownQ8 reads and clears it. `scratch`: see
 * queues.ts; 16-byte aligned, and the caller's own.
 */
export function downQ4(
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
      const bytes = downOffset + (all >> 4) + (part >> 1);
      touched = Touch.down(addresses, activations, k, n, bytes, width >> 1);
    }
    const bundle = Neuron.address(addresses, k) + downOffset;
    const activation = load<f32>(activations + (k << 2));
    const largest = abs<f32>(activation) * Coefficients.largestScale(bundle, all);
    if (largest == 0) continue;
    const queue = Queues.of(largest);
    if (queue < 0) {
      Grid.spoil(desk);
      continue;
    }
    Grid.reserve(accumulator, desk, queue >> 2, largest, part, width, all);
    if (Queues.push(scratch, queue, bundle, activation * Queues.unitsInOne(queue)) == 16) {
      Columns.add(accumulator, scratch, queue, 16, part, width, all);
    }
  }
  for (let queue: usize = 0; queue < Queues.COUNT; queue++) {
    const waiting = Queues.waiting(scratch, queue);
    if (waiting != 0) Columns.add(accumulator, scratch, queue, waiting, part, width, all);
  }
}

/** Adding neurons that wait in one queue. */
class Columns {
  /** All that wait, 1 to 16; then none does. */
  static add(
    accumulator: usize,
    scratch: usize,
    queue: usize,
    waiting: usize,
    part: usize,
    width: usize,
    cols: usize,
  ): void {
    const c = Queues.coefficients(scratch), next = Queues.stride(width);
    // The row of offsets, behind those of eight pairs: what 8 times all coefficients is too much.
    const offsets = c + 8 * next, blocks = width >> 5;
    memory.fill(offsets, 0, blocks << 2);
    // A place without a neuron is the last one's again, times zero.
    if (waiting & 1) Queues.copyEntry(scratch, queue, waiting - 1, waiting);
    for (let i: usize = 0; i < waiting; i += 2) {
      const a = Queues.entry(scratch, queue, i), b = Queues.entry(scratch, queue, i + 1);
      Coefficients.storeBytes(
        c + (i >> 1) * next,
        offsets,
        usize(load<u32>(a)) + (part >> 4),
        load<f32>(a, 4),
        usize(load<u32>(b)) + (part >> 4),
        i + 1 < waiting ? load<f32>(b, 4) : 0,
        blocks,
      );
    }
    Queues.clearWaiting(scratch, queue);
    const y = Grid.digit(accumulator, queue >> 2, part, cols);
    const at = (cols >> 4) + (part >> 1), steps = i32x4.splat(i32(Queues.stepsInUnit(queue)));
    Columns.addPairs(y, c, next, scratch, queue, waiting, at, width, steps);
  }

  /**
   * Adds a queue's neurons to the columns at y, two blocks of 32 at a time. `c`: coefficients of the first pair; `at`: of
   * the nibbles in a down column.
   */
  static addPairs(
    y: usize,
    c: usize,
    next: usize,
    scratch: usize,
    queue: usize,
    waiting: usize,
    at: usize,
    width: usize,
    steps: v128,
  ): void {
    const first = Queues.entry(scratch, queue, 0), end = Queues.entry(scratch, queue, waiting);
    const mask = Nibbles.mask();
    const byteEnd = at + (width >> 1);
    let byte = at;
    for (; byte + 32 <= byteEnd; byte += 32, c += 8, y += 256) {
      let s0 = v128.load_splat<u32>(c + 8 * next), s1 = s0, s2 = s0, s3 = s0;
      let t0 = v128.load_splat<u32>(c + 8 * next, 4), t1 = t0, t2 = t0, t3 = t0;
      for (let entry = first, k = c; entry < end; entry += 16, k += next) {
        const p = usize(load<u32>(entry)) + byte, q = usize(load<u32>(entry, 8)) + byte;
        let pair = v128.load_splat<u32>(k), a = v128.load(p), b = v128.load(q);
        let low = Columns.low(a, b), high = Columns.high(a, b);
        s0 = i16x8.add(s0, Nibbles.dot(pair, Nibbles.low(low, mask)));
        s1 = i16x8.add(s1, Nibbles.dot(pair, Nibbles.low(high, mask)));
        s2 = i16x8.add(s2, Nibbles.dot(pair, Nibbles.high(low, mask)));
        s3 = i16x8.add(s3, Nibbles.dot(pair, Nibbles.high(high, mask)));
        pair = v128.load_splat<u32>(k, 4), a = v128.load(p, 16), b = v128.load(q, 16);
        low = Columns.low(a, b), high = Columns.high(a, b);
        t0 = i16x8.add(t0, Nibbles.dot(pair, Nibbles.low(low, mask)));
        t1 = i16x8.add(t1, Nibbles.dot(pair, Nibbles.low(high, mask)));
        t2 = i16x8.add(t2, Nibbles.dot(pair, Nibbles.high(low, mask)));
        t3 = i16x8.add(t3, Nibbles.dot(pair, Nibbles.high(high, mask)));
      }
      Columns.store(y, s0, steps);
      Columns.store(y + 32, s1, steps);
      Columns.store(y + 64, s2, steps);
      Columns.store(y + 96, s3, steps);
      Columns.store(y + 128, t0, steps);
      Columns.store(y + 160, t1, steps);
      Columns.store(y + 192, t2, steps);
      Columns.store(y + 224, t3, steps);
    }
    if (byte == byteEnd) return;
    let s0 = v128.load_splat<u32>(c + 8 * next), s1 = s0, s2 = s0, s3 = s0;
    for (let entry = first, k = c; entry < end; entry += 16, k += next) {
      const a = v128.load(usize(load<u32>(entry)) + byte);
      const b = v128.load(usize(load<u32>(entry, 8)) + byte);
      const pair = v128.load_splat<u32>(k), low = Columns.low(a, b), high = Columns.high(a, b);
      s0 = i16x8.add(s0, Nibbles.dot(pair, Nibbles.low(low, mask)));
      s1 = i16x8.add(s1, Nibbles.dot(pair, Nibbles.low(high, mask)));
      s2 = i16x8.add(s2, Nibbles.dot(pair, Nibbles.high(low, mask)));
      s3 = i16x8.add(s3, Nibbles.dot(pair, Nibbles.high(high, mask)));
    }
    Columns.store(y, s0, steps);
    Columns.store(y + 32, s1, steps);
    Columns.store(y + 64, s2, steps);
    Columns.store(y + 96, s3, steps);
  }

  /** Bytes 0 to 7 of two neurons in turns. */
  @inline
  static low(a: v128, b: v128): v128 {
    return v128.shuffle<u8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  }

  /** Bytes 8 to 15. */
  @inline
  static high(a: v128, b: v128): v128 {
    return v128.shuffle<u8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }

  /** Adds eight sums, in units, to eight columns in steps. `steps`: u32, whose upper half is zero. */
  @inline
  static store(y: usize, sums: v128, steps: v128): void {
    const low = v128.shuffle<u16>(sums, sums, 0, 8, 1, 9, 2, 10, 3, 11);
    const high = v128.shuffle<u16>(sums, sums, 4, 12, 5, 13, 6, 14, 7, 15);
    v128.store(y, i32x4.add(v128.load(y), i32x4.dot_i16x8_s(low, steps)));
    v128.store(y, i32x4.add(v128.load(y, 16), i32x4.dot_i16x8_s(high, steps)), 16);
  }
}
