/**
 * Exact sums of q8 and q4 down columns: integers on grids.
 *
 * A neuron's coefficients (activation times the scale of each block) are rounded to i16 on a grid that suits its
 * largest one: grid g counts in steps of 2^(4 g - 44), and the largest coefficient is 2^11 to 2^15 steps. Products of
 * such integers and bytes are added in one i32 per column and grid, without any rounding. So a sum does not depend on
 * the order of neurons, on passes, or on how many are added at once.
 *
 * The grids are the digits of one long number to the base 16: where an i32 could overflow, what it holds is carried to
 * the grid above it, which changes digits but not the number. In the end `finish` carries everything, so that the
 * digits, too, are a function of the number alone.
 *
 *   accumulator: | 18 digits: i32[cols] each | desks, one per 32 columns |
 *
 * The last two digits belong to no neuron, they only take carries. Each lane keeps its books at the desk of its first
 * column, so one without columns has no desk, and must not touch any:
 *
 *   desk: | used grids: u32 bits | spoilt: f32, 0 or NaN | bound of each digit: u32[18], in 128 steps |
 *
 * A coefficient that is NaN, infinite, or 2^31 and above spoils the sum: it becomes NaN.
 */
const COUNT: usize = 16;
const DIGITS: usize = 18;

const BOUNDS: usize = 8;
const DESK: usize = BOUNDS + 4 * DIGITS;

/** The exponent of a step of grid 0. */
export const STEP: i32 = -44;

/** A sum is carried on before it reaches 128 times this: 2^30, so that a carry always finds room. */
const BOUND: u32 = 1 << 23;

/** What the neurons that wait, 8 of q8 or 64 of q4, may add to it. */
const BOUND_OF_WAITING: u32 = 8 << 15;

export class Grid {
  static readonly COUNT: usize = COUNT;

  /** The books of the lane whose first column is `part`. */
  @inline
  static desk(accumulator: usize, part: usize, cols: usize): usize {
    return accumulator + cols * (4 * DIGITS) + (part >> 5) * DESK;
  }

  /** The sum of column `part` on a grid. */
  @inline
  static digit(accumulator: usize, grid: usize, part: usize, cols: usize): usize {
    return accumulator + ((grid * cols + part) << 2);
  }

  /** The grid of a neuron whose largest coefficient is `largest` > 0; -1 if none is coarse enough. */
  @inline
  static of(largest: f32): i32 {
    // A little more than it is, so that it cannot be rounded up to 2^15 steps.
    const exponent = i32(reinterpret<u32>(largest * (1.0 + 1.0 / 8192)) >> 23) - 127;
    const grid = max<i32>(exponent - 11 - STEP, 0) >> 2;
    return grid < i32(COUNT) ? grid : -1;
  }

  /** Steps of a grid in 1. */
  @inline
  static stepsInOne(grid: usize): f32 {
    return reinterpret<f32>(u32(127 - STEP - (i32(grid) << 2)) << 23);
  }

  /** Makes the sum NaN. */
  @inline
  static spoil(desk: usize): void {
    store<f32>(desk, NaN, 4);
  }

  /** Notes that a neuron will be added, and makes room for it. */
  static reserve(
    accumulator: usize,
    desk: usize,
    grid: usize,
    largest: f32,
    part: usize,
    width: usize,
    cols: usize,
  ): void {
    store<u32>(desk, load<u32>(desk) | (1 << u32(grid)));
    Grid.raise(
      accumulator,
      desk,
      grid,
      u32(largest * Grid.stepsInOne(grid)) + 1,
      part,
      width,
      cols,
    );
  }

  /** Raises the bound of a digit by `by`, having carried what it holds if it would become too large. */
  static raise(
    accumulator: usize,
    desk: usize,
    digit: usize,
    by: u32,
    part: usize,
    width: usize,
    cols: usize,
  ): void {
    const at = desk + BOUNDS + (digit << 2);
    let bound = load<u32>(at) + by;
    if (bound > BOUND && digit + 1 < DIGITS) {
      Grid.raise(accumulator, desk, digit + 1, (bound >> 4) + 1, part, width, cols);
      const y = Grid.digit(accumulator, digit, part, cols), next = cols << 2;
      for (let byte: usize = 0; byte < width << 2; byte += 16) {
        const sum = v128.load(y + byte);
        const carry = Grid.carry(sum);
        v128.store(y + byte, i32x4.sub(sum, i32x4.shl(carry, 4)));
        v128.store(y + byte + next, i32x4.add(v128.load(y + byte + next), carry));
      }
      bound = BOUND_OF_WAITING;
    }
    store<u32>(at, bound);
  }

  /** What of four sums belongs to the next grid, so that -8 to 7 remain. */
  @inline
  static carry(sum: v128): v128 {
    return i32x4.shr_s(i32x4.add(sum, i32x4.splat(8)), 4);
  }

  /**
   * `residual[c] += sum[c] + bias[c]` for columns part <= c < part + width; clears sums and desk.
   *
   * Sums are carried from the lowest grid in use to two above the highest one, and added in this order.
   */
  static finish(
    accumulator: usize,
    bias: usize,
    residual: usize,
    part: usize,
    width: usize,
    cols: usize,
  ): void {
    const desk = Grid.desk(accumulator, part, cols);
    const used = load<u32>(desk);
    const spoilt = v128.load_splat<f32>(desk, 4);
    const low = used == 0 ? 0 : usize(ctz<u32>(used));
    const high = used == 0 ? 0 : usize(33 - clz<u32>(used));
    const step = f32x4.splat(1 / Grid.stepsInOne(high));
    const sixteenth = f32x4.splat(0.0625);
    const next = cols << 2;
    const end = (part + width) << 2;
    for (let byte = part << 2; byte < end; byte += 16) {
      let sum = spoilt, carried = i32x4.splat(0);
      let y = Grid.digit(accumulator, low, 0, cols) + byte;
      for (let digit = low; digit < high; digit++, y += next) {
        const all = i32x4.add(v128.load(y), carried);
        v128.store(y, i32x4.splat(0));
        carried = Grid.carry(all);
        const rest = f32x4.convert_i32x4_s(i32x4.sub(all, i32x4.shl(carried, 4)));
        sum = f32x4.mul(f32x4.add(sum, rest), sixteenth);
      }
      sum = f32x4.add(sum, f32x4.convert_i32x4_s(i32x4.add(v128.load(y), carried)));
      v128.store(y, i32x4.splat(0));
      sum = f32x4.mul(sum, step);
      if (bias != 0) sum = f32x4.add(sum, v128.load(bias + byte));
      v128.store(residual + byte, f32x4.add(v128.load(residual + byte), sum));
    }
    memory.fill(desk, 0, DESK);
  }
}
