import { Neuron } from "../sparse/neuron";
import { Touch } from "../sparse/touch";
import { Bitmap } from "./bitmap";
import { Positions } from "./positions";

/**
 * Vectors of pruned bundles, which are stored without their zeros, as the other kernels read them.
 *
 *   stored, q8:  | scales: cols / 32 f16 | bitmap: cols / 8 bytes | the numbers that are not zero: i8 ... |
 *           f16: | bitmap: cols / 8 bytes | the numbers that are not zero: f16 ... |
 *
 * For entries k of a list (the j-th in `order`, from <= j < to) columns colFrom <= c < colTo (multiples of 32) of the
 * vector at `addresses[k] + offset` are written to `target + (j - from) * stride`, whose address becomes `expanded[k]`;
 * of q8 all scales. Up to 16 bytes behind what is stored are read, and a bitmap with more bits than there are numbers
 * reads what lies behind them. Returns how many vectors that were.
 *
 * For several positions, which all compute with what was expanded once, by the kernels of other bundles. For one, kernels
 * expand in registers: up_q8.ts and the like.
 */
export function expandQ8(
  addresses: usize,
  order: usize,
  from: i32,
  to: i32,
  offset: usize,
  target: usize,
  stride: usize,
  expanded: usize,
  colFrom: i32,
  colTo: i32,
  cols: i32,
): i32 {
  assert(colFrom % 32 == 0 && colTo % 32 == 0 && colTo <= cols);
  const scalesLength = usize(cols) >> 4, bitmapLength = usize(cols) >> 3;
  const first = usize(colFrom) >> 3, end = usize(colTo) >> 3;
  let count = to - from;
  for (let j = from; j < to; j++, target += stride) {
    if ((j - from & 7) == 0) count += Touch.up(addresses, order, j, to, offset, 512);
    const k = Neuron.entry(order, j), s = Neuron.address(addresses, k) + offset;
    store<u32>(expanded + (k << 2), u32(target));
    // The last of them may take some of the bitmap along, to where numbers come next.
    for (let byte: usize = 0; byte < scalesLength; byte += 16) {
      v128.store(target + byte, v128.load(s + byte));
    }
    let m = s + scalesLength, y = target + scalesLength + usize(colFrom);
    const mEnd = m + end;
    let p = m + bitmapLength + Bitmap.count(m, first);
    for (m += first; m < mEnd; m += 4, y += 32) {
      const bits = load<u32>(m);
      v128.store(y, Positions.shuffle(v128.load(p), Positions.sixteen(bits)));
      const q = p + usize(popcnt<u32>(bits << 16));
      v128.store(y, Positions.shuffle(v128.load(q), Positions.sixteen(bits >> 16)), 16);
      p += usize(popcnt<u32>(bits));
    }
  }
  return count;
}

/** The same for f16. */
export function expandF16(
  addresses: usize,
  order: usize,
  from: i32,
  to: i32,
  offset: usize,
  target: usize,
  stride: usize,
  expanded: usize,
  colFrom: i32,
  colTo: i32,
  cols: i32,
): i32 {
  assert(colFrom % 32 == 0 && colTo % 32 == 0 && colTo <= cols);
  const bitmapLength = usize(cols) >> 3;
  const first = usize(colFrom) >> 3, end = usize(colTo) >> 3;
  let count = to - from;
  for (let j = from; j < to; j++, target += stride) {
    if ((j - from & 7) == 0) count += Touch.up(addresses, order, j, to, offset, 512);
    const k = Neuron.entry(order, j);
    store<u32>(expanded + (k << 2), u32(target));
    let m = Neuron.address(addresses, k) + offset, y = target + (usize(colFrom) << 1);
    const mEnd = m + end;
    let p = m + bitmapLength + (Bitmap.count(m, first) << 1);
    for (m += first; m < mEnd; m += 4, y += 64) {
      const bits = load<u32>(m);
      v128.store(y, Positions.shuffle(v128.load(p), Positions.eightHalves(bits << 4)));
      let q = p + (usize(popcnt<u32>(bits << 24)) << 1);
      v128.store(y, Positions.shuffle(v128.load(q), Positions.eightHalves(bits >> 4)), 16);
      q = p + (usize(popcnt<u32>(bits << 16)) << 1);
      v128.store(y, Positions.shuffle(v128.load(q), Positions.eightHalves(bits >> 12)), 32);
      q = p + (usize(popcnt<u32>(bits << 8)) << 1);
      v128.store(y, Positions.shuffle(v128.load(q), Positions.eightHalves(bits >> 20)), 48);
      p += usize(popcnt<u32>(bits)) << 1;
    }
  }
  return count;
}
