import { Half, SCALE } from "../half";
import { Lanes } from "../lanes";
import { Neuron } from "../sparse/neuron";
import { Touch } from "../sparse/touch";
import { Positions } from "./positions";

/**
 * upF16 of rows that are stored without their zeros (expand.ts draws them): eight columns are expanded in registers, of
 * four bundles at a time. Same bits as upF16 of the same rows with their zeros. Up to 16 bytes behind a row are read.
 */
export function upPrunedF16(
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
  const even = Half.even(), odd = Half.odd(), mask = Half.mask();
  const bitmapLength = usize(cols) >> 3, xEnd = xp + (usize(cols) << 2);
  let active = 0;
  let j = from;
  for (; j + 4 <= to; j += 4) {
    if ((j - from & 7) == 0) active += Touch.up(addresses, order, j, to, upOffset, 512);
    const k0 = Neuron.entry(order, j), k1 = Neuron.entry(order, j + 1);
    const k2 = Neuron.entry(order, j + 2), k3 = Neuron.entry(order, j + 3);
    let m0 = Neuron.address(addresses, k0) + upOffset, p0 = m0 + bitmapLength;
    let m1 = Neuron.address(addresses, k1) + upOffset, p1 = m1 + bitmapLength;
    let m2 = Neuron.address(addresses, k2) + upOffset, p2 = m2 + bitmapLength;
    let m3 = Neuron.address(addresses, k3) + upOffset, p3 = m3 + bitmapLength;
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
    for (let x = xp; x < xEnd; x += 32, m0++, m1++, m2++, m3++) {
      const x0 = v128.load(x), x1 = v128.load(x, 16);
      const b0: u32 = load<u8>(m0), b1: u32 = load<u8>(m1);
      const b2: u32 = load<u8>(m2), b3: u32 = load<u8>(m3);
      const h0 = Positions.shuffle(v128.load(p0), Positions.eightHalves(b0 << 4));
      a0 = Lanes.madd(Half.widen(h0, even, mask), x0, a0);
      a0 = Lanes.madd(Half.widen(h0, odd, mask), x1, a0);
      const h1 = Positions.shuffle(v128.load(p1), Positions.eightHalves(b1 << 4));
      a1 = Lanes.madd(Half.widen(h1, even, mask), x0, a1);
      a1 = Lanes.madd(Half.widen(h1, odd, mask), x1, a1);
      const h2 = Positions.shuffle(v128.load(p2), Positions.eightHalves(b2 << 4));
      a2 = Lanes.madd(Half.widen(h2, even, mask), x0, a2);
      a2 = Lanes.madd(Half.widen(h2, odd, mask), x1, a2);
      const h3 = Positions.shuffle(v128.load(p3), Positions.eightHalves(b3 << 4));
      a3 = Lanes.madd(Half.widen(h3, even, mask), x0, a3);
      a3 = Lanes.madd(Half.widen(h3, odd, mask), x1, a3);
      p0 += usize(popcnt<u32>(b0)) << 1, p1 += usize(popcnt<u32>(b1)) << 1;
      p2 += usize(popcnt<u32>(b2)) << 1, p3 += usize(popcnt<u32>(b3)) << 1;
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
    let m = Neuron.address(addresses, k) + upOffset, p = m + bitmapLength;
    let a = f32x4.splat(0);
    for (let x = xp; x < xEnd; x += 32, m++) {
      const bits: u32 = load<u8>(m);
      const h = Positions.shuffle(v128.load(p), Positions.eightHalves(bits << 4));
      a = Lanes.madd(Half.widen(h, even, mask), v128.load(x), a);
      a = Lanes.madd(Half.widen(h, odd, mask), v128.load(x, 16), a);
      p += usize(popcnt<u32>(bits)) << 1;
    }
    const total = Lanes.sum(a) * SCALE;
    active += Neuron.activate(activations, neurons, bias, kind, threshold, k, total);
  }
  return active;
}
