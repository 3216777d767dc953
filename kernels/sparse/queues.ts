import { STEP } from "./grid";

/**
 * Neurons that wait for others to be added with, and the coefficients of those that are being added: what downQ8 and
 * downQ4 need on their way. Nothing of it lives longer than a call.
 *
 * q8 has a queue for each grid. q4 rounds coefficients to i8, times a power of two: so only neurons whose largest
 * coefficient has the same exponent are added together, and each grid has four queues.
 *
 *   scratch: | how many wait in each queue: u32[64] | 64 x 16 that wait: u32 down column, f32 activation in steps |
 *            | coefficients: 9 x u32[cols / 32] |
 */
const QUEUE_COUNT: usize = 64;
const ENTRIES: usize = 4 * QUEUE_COUNT;
const COEFFICIENTS: usize = ENTRIES + 128 * QUEUE_COUNT;

export class Queues {
  static readonly COUNT: usize = QUEUE_COUNT;

  /** Whatever scratch held: no neuron waits. */
  static clear(scratch: usize): void {
    const none = i32x4.splat(0);
    for (const end = scratch + ENTRIES; scratch < end; scratch += 16) v128.store(scratch, none);
  }

  /** Where the first pair's coefficients lie, from the lane's first column on; each pair takes `stride` bytes. */
  @inline
  static coefficients(scratch: usize): usize {
    return scratch + COEFFICIENTS;
  }

  /** Bytes of a pair's coefficients for `width` columns. */
  @inline
  static stride(width: usize): usize {
    return width >> 3;
  }

  /** The queue of a neuron of q4, of the same grid's four: its largest coefficient is 64 to 127 units, or less in queue 0. */
  @inline
  static of(largest: f32): i32 {
    // A little more than it is, so that it cannot be rounded up to 128 units.
    const exponent = i32(reinterpret<u32>(largest * (1.0 + 1.0 / 64)) >> 23) - 127;
    const queue = max<i32>(exponent - 11 - STEP, 0);
    return queue < i32(QUEUE_COUNT) ? queue : -1;
  }

  /** Steps in a unit of a queue of q4: 2^5 to 2^8. */
  @inline
  static stepsInUnit(queue: usize): u32 {
    return 32 << u32(queue & 3);
  }

  /** Units of a queue of q4 in 1. */
  @inline
  static unitsInOne(queue: usize): f32 {
    return reinterpret<f32>(u32(127 - STEP - 5 - i32(queue)) << 23);
  }

  /**
   * Lets a neuron wait for others that are added with it. Returns how many wait now. `activation` is in steps of the
   * grid, or in units of the queue.
   */
  @inline
  static push(scratch: usize, queue: usize, column: usize, activation: f32): usize {
    const at = scratch + (queue << 2);
    const waiting = usize(load<u32>(at));
    const entry = Queues.entry(scratch, queue, waiting);
    store<u32>(entry, u32(column));
    store<f32>(entry, activation, 4);
    store<u32>(at, u32(waiting + 1));
    return waiting + 1;
  }

  /** The i-th neuron that waits: u32 address of its down column, f32 activation. */
  @inline
  static entry(scratch: usize, queue: usize, i: usize): usize {
    return scratch + ENTRIES + (queue << 7) + (i << 3);
  }

  /** Copies the i-th neuron that waits to another place. */
  @inline
  static copyEntry(scratch: usize, queue: usize, i: usize, place: usize): void {
    store<u64>(Queues.entry(scratch, queue, place), load<u64>(Queues.entry(scratch, queue, i)));
  }

  @inline
  static waiting(scratch: usize, queue: usize): usize {
    return usize(load<u32>(scratch + (queue << 2)));
  }

  @inline
  static clearWaiting(scratch: usize, queue: usize): void {
    store<u32>(scratch + (queue << 2), 0);
  }
}
