import { Block } from "../block";
import { Half } from "../half";
import { Lanes } from "../lanes";
import { Neuron } from "./neuron";
import { Touch } from "./touch";

/**
 * For entries k = 0 .. count - 1 of a list, in this order, and columns colFrom <= c < colTo (multiples of 32):
 * `accumulator[c] += activations[k] * down column of the bundle at addresses[k]`, q8 bundles. Entries whose activation
 * is zero are not read. A list that comes in several passes gives the same bits as one.
 *
 * `accumulator`: f32[cols] in an order of the kernel's own, zero at first; finishDownQ8 reads and clears it.
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
): void {
  assert(colFrom % 32 == 0 && colTo % 32 == 0 && colTo <= cols);
  const mask = Half.mask(), scale = Half.scale();
  const even = Half.pickEven(), odd = Half.pickOdd();
  const n = usize(count);
  const scalesFrom = downOffset + (usize(colFrom) >> 4);
  const bytesFrom = downOffset + (usize(cols) >> 4) + usize(colFrom);
  const yFrom = accumulator + (usize(colFrom) << 2), yEnd = accumulator + (usize(colTo) << 2);
  let touched: usize = 0;
  let k0 = Neuron.nextActive(activations, 0, n);
  while (k0 < n) {
    if (k0 >= touched) {
      const width = usize(colTo - colFrom);
      touched = Touch.down(addresses, activations, k0, n, bytesFrom, width);
    }
    const k1 = Neuron.nextActive(activations, k0 + 1, n);
    const k2 = Neuron.nextActive(activations, k1 + 1, n);
    const k3 = Neuron.nextActive(activations, k2 + 1, n);
    // Where the next scales and bytes lie in each bundle.
    let s = scalesFrom, p = bytesFrom;
    let y = yFrom;
    const b0 = Neuron.address(addresses, k0);
    const f0 = f32x4.mul(Lanes.splatAt(activations + (k0 << 2)), scale);
    if (k3 < n) {
      const b1 = Neuron.address(addresses, k1);
      const f1 = f32x4.mul(Lanes.splatAt(activations + (k1 << 2)), scale);
      const b2 = Neuron.address(addresses, k2);
      const f2 = f32x4.mul(Lanes.splatAt(activations + (k2 << 2)), scale);
      const b3 = Neuron.address(addresses, k3);
      const f3 = f32x4.mul(Lanes.splatAt(activations + (k3 << 2)), scale);
      for (; y + 512 <= yEnd; y += 512, s += 8, p += 128) {
        Columns.add4x128(y, b0, b1, b2, b3, s, p, f0, f1, f2, f3, mask, even, odd);
      }
      for (; y < yEnd; y += 128, s += 2, p += 32) {
        Columns.add4(
          y,
          b0 + p,
          b1 + p,
          b2 + p,
          b3 + p,
          Block.scale(b0 + s, f0, mask),
          Block.scale(b1 + s, f1, mask),
          Block.scale(b2 + s, f2, mask),
          Block.scale(b3 + s, f3, mask),
          even,
          odd,
        );
      }
      k0 = Neuron.nextActive(activations, k3 + 1, n);
    } else {
      for (; y < yEnd; y += 128, s += 2, p += 32) {
        Columns.add(y, b0 + p, Block.scale(b0 + s, f0, mask), even, odd);
      }
      k0 = k1;
    }
  }
}

/** 32 columns of sums, those of eight as | even | odd |. */
class Columns {
  /** Adds one neuron. */
  @inline
  static add(y: usize, p: usize, c: v128, even: v128, odd: v128): void {
    for (const end = y + 128; y < end; y += 32, p += 8) {
      const w = v128.load_ext<i8>(p);
      v128.store(y, Lanes.madd(Block.numbers(w, even), c, v128.load(y)));
      v128.store(y, Lanes.madd(Block.numbers(w, odd), c, v128.load(y, 16)), 16);
    }
  }

  /** Adds four neurons, one after the other, while the sums stay in registers. */
  @inline
  static add4(
    y: usize,
    p0: usize,
    p1: usize,
    p2: usize,
    p3: usize,
    c0: v128,
    c1: v128,
    c2: v128,
    c3: v128,
    even: v128,
    odd: v128,
  ): void {
    for (const end = y + 128; y < end; y += 32) {
      let a = v128.load(y), b = v128.load(y, 16);
      const w0 = v128.load_ext<i8>(p0);
      a = Lanes.madd(Block.numbers(w0, even), c0, a);
      b = Lanes.madd(Block.numbers(w0, odd), c0, b);
      const w1 = v128.load_ext<i8>(p1);
      a = Lanes.madd(Block.numbers(w1, even), c1, a);
      b = Lanes.madd(Block.numbers(w1, odd), c1, b);
      const w2 = v128.load_ext<i8>(p2);
      a = Lanes.madd(Block.numbers(w2, even), c2, a);
      b = Lanes.madd(Block.numbers(w2, odd), c2, b);
      const w3 = v128.load_ext<i8>(p3);
      a = Lanes.madd(Block.numbers(w3, even), c3, a);
      b = Lanes.madd(Block.numbers(w3, odd), c3, b);
      v128.store(y, a);
      v128.store(y, b, 16);
      p0 += 8, p1 += 8, p2 += 8, p3 += 8;
    }
  }

  /** Adds four neurons to four blocks of columns: scales of four blocks at once. */
  @inline
  static add4x128(
    y: usize,
    b0: usize,
    b1: usize,
    b2: usize,
    b3: usize,
    s: usize,
    p: usize,
    f0: v128,
    f1: v128,
    f2: v128,
    f3: v128,
    mask: v128,
    even: v128,
    odd: v128,
  ): void {
    const c0 = Block.scales(b0 + s, f0, mask), c1 = Block.scales(b1 + s, f1, mask);
    const c2 = Block.scales(b2 + s, f2, mask), c3 = Block.scales(b3 + s, f3, mask);
    const p0 = b0 + p, p1 = b1 + p, p2 = b2 + p, p3 = b3 + p;
    Columns.add4(
      y,
      p0,
      p1,
      p2,
      p3,
      Block.splat(c0, 0),
      Block.splat(c1, 0),
      Block.splat(c2, 0),
      Block.splat(c3, 0),
      even,
      odd,
    );
    Columns.add4(
      y + 128,
      p0 + 32,
      p1 + 32,
      p2 + 32,
      p3 + 32,
      Block.splat(c0, 1),
      Block.splat(c1, 1),
      Block.splat(c2, 1),
      Block.splat(c3, 1),
      even,
      odd,
    );
    Columns.add4(
      y + 256,
      p0 + 64,
      p1 + 64,
      p2 + 64,
      p3 + 64,
      Block.splat(c0, 2),
      Block.splat(c1, 2),
      Block.splat(c2, 2),
      Block.splat(c3, 2),
      even,
      odd,
    );
    Columns.add4(
      y + 384,
      p0 + 96,
      p1 + 96,
      p2 + 96,
      p3 + 96,
      Block.splat(c0, 3),
      Block.splat(c1, 3),
      Block.splat(c2, 3),
      Block.splat(c3, 3),
      even,
      odd,
    );
  }
}
