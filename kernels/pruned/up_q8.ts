import { Block } from "../block";
import { Half, SCALE } from "../half";
import { Lanes } from "../lanes";
import { Neuron } from "../sparse/neuron";
import { Touch } from "../sparse/touch";
import { Positions } from "./positions";

/**
 * upQ8 of rows that are stored without their zeros (expand.ts draws them): blocks are expanded in registers, of four
 * bundles at a time. Same bits as upQ8 of the same rows with their zeros. Up to 16 bytes behind a row are read.
 */
export function upPrunedQ8(
  addresses: usize,
  neurons: usize,
  order: usize,
  from: i32,
  to: i32,
  upOffset: usize,
  xp: usize,
  bias: usize,
  activations: usize,
  cols: i32,
  kind: i32,
  threshold: f32,
): i32 {
  assert(from >= 0 && cols % 32 == 0);
  const scalesLength = usize(cols) >> 4, bitmapLength = usize(cols) >> 3;
  const mask = Half.mask();
  const xEnd = xp + (usize(cols) << 1);
  let active = 0;
  let j = from;
  for (; j + 4 <= to; j += 4) {
    if ((j - from & 7) == 0) active += Touch.up(addresses, order, j, to, upOffset, 512);
    const k0 = Neuron.entry(order, j), k1 = Neuron.entry(order, j + 1);
    const k2 = Neuron.entry(order, j + 2), k3 = Neuron.entry(order, j + 3);
    let s0 = Neuron.address(addresses, k0) + upOffset, m0 = s0 + scalesLength;
    let s1 = Neuron.address(addresses, k1) + upOffset, m1 = s1 + scalesLength;
    let s2 = Neuron.address(addresses, k2) + upOffset, m2 = s2 + scalesLength;
    let s3 = Neuron.address(addresses, k3) + upOffset, m3 = s3 + scalesLength;
    let p0 = m0 + bitmapLength, p1 = m1 + bitmapLength;
    let p2 = m2 + bitmapLength, p3 = m3 + bitmapLength;
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
    for (let x = xp, xScales = xEnd; x < xEnd; x += 64, xScales += 4) {
      const xScale = Lanes.splatAt(xScales);
      const x0 = v128.load(x), x1 = v128.load(x, 16);
      const x2 = v128.load(x, 32), x3 = v128.load(x, 48);
      const b0 = load<u32>(m0), b1 = load<u32>(m1), b2 = load<u32>(m2), b3 = load<u32>(m3);
      a0 = Lanes.madd(Sparse.dot(p0, b0, x0, x1, x2, x3), Block.scale(s0, xScale, mask), a0);
      a1 = Lanes.madd(Sparse.dot(p1, b1, x0, x1, x2, x3), Block.scale(s1, xScale, mask), a1);
      a2 = Lanes.madd(Sparse.dot(p2, b2, x0, x1, x2, x3), Block.scale(s2, xScale, mask), a2);
      a3 = Lanes.madd(Sparse.dot(p3, b3, x0, x1, x2, x3), Block.scale(s3, xScale, mask), a3);
      p0 += usize(popcnt<u32>(b0)), p1 += usize(popcnt<u32>(b1));
      p2 += usize(popcnt<u32>(b2)), p3 += usize(popcnt<u32>(b3));
      m0 += 4, m1 += 4, m2 += 4, m3 += 4;
      s0 += 2, s1 += 2, s2 += 2, s3 += 2;
    }
    const total = f32x4.mul(Lanes.sums(a0, a1, a2, a3), Half.scale());
    active += Neuron.activateFour(
      activations,
      neurons,
      bias,
      kind,
      threshold,
      k0,
      k1,
      k2,
      k3,
      total,
    );
  }
  for (; j < to; j++) {
    const k = Neuron.entry(order, j);
    let s = Neuron.address(addresses, k) + upOffset, m = s + scalesLength, p = m + bitmapLength;
    let a = f32x4.splat(0);
    for (let x = xp, xScales = xEnd; x < xEnd; x += 64, xScales += 4, s += 2, m += 4) {
      const bits = load<u32>(m);
      const dot = Sparse.dot(
        p,
        bits,
        v128.load(x),
        v128.load(x, 16),
        v128.load(x, 32),
        v128.load(x, 48),
      );
      a = Lanes.madd(dot, Block.scale(s, Lanes.splatAt(xScales), mask), a);
      p += usize(popcnt<u32>(bits));
    }
    const total = Lanes.sum(a) * SCALE;
    active += Neuron.activate(activations, neurons, bias, kind, threshold, k, total);
  }
  return active;
}

class Sparse {
  /** `Block.dot` of the numbers from `p` on, which stand where `bits` are set. */
  @inline
  static dot(p: usize, bits: u32, x0: v128, x1: v128, x2: v128, x3: v128): v128 {
    const q = p + usize(popcnt<u32>(bits << 16));
    const low = Positions.shuffle(v128.load(p), Positions.sixteen(bits));
    const high = Positions.shuffle(v128.load(q), Positions.sixteen(bits >> 16));
    let sum = i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(low), x0);
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(low), x1));
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(high), x2));
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(high), x3));
    return f32x4.convert_i32x4_s(sum);
  }
}
