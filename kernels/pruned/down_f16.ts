import { Half } from "../half";
import { Lanes } from "../lanes";
import { Neuron } from "../sparse/neuron";
import { Touch } from "../sparse/touch";
import { Bitmap } from "./bitmap";
import { Positions } from "./positions";

/**
 * downF16 of columns that are stored without their zeros (expand.ts draws them): eight columns are expanded in registers,
 * of four bundles at a time. Same bits as downF16 of the same bundles with their zeros, as ±0 changes no sum that began
 * at +0. Up to 16 bytes behind a column are read.
 */
export function downPrunedF16(
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
  const even = Half.even(), odd = Half.odd(), mask = Half.mask(), scale = Half.scale();
  const n = usize(count), first = usize(colFrom) >> 3, bitmapLength = usize(cols) >> 3;
  const yFrom = accumulator + (usize(colFrom) << 2), yEnd = accumulator + (usize(colTo) << 2);
  let k0 = Neuron.nextActive(activations, 0, n);
  let touched: usize = 0;
  while (k0 < n) {
    if (k0 >= touched) touched = Touch.down(addresses, activations, k0, n, downOffset, 512);
    const k1 = Neuron.nextActive(activations, k0 + 1, n);
    const k2 = Neuron.nextActive(activations, k1 + 1, n);
    const k3 = Neuron.nextActive(activations, k2 + 1, n);
    let m0 = Neuron.address(addresses, k0) + downOffset;
    let p0 = m0 + bitmapLength + (Bitmap.count(m0, first) << 1);
    const s0 = f32x4.mul(Lanes.splatAt(activations + (k0 << 2)), scale);
    m0 += first;
    if (k3 < n) {
      let m1 = Neuron.address(addresses, k1) + downOffset;
      let m2 = Neuron.address(addresses, k2) + downOffset;
      let m3 = Neuron.address(addresses, k3) + downOffset;
      let p1 = m1 + bitmapLength + (Bitmap.count(m1, first) << 1);
      let p2 = m2 + bitmapLength + (Bitmap.count(m2, first) << 1);
      let p3 = m3 + bitmapLength + (Bitmap.count(m3, first) << 1);
      const s1 = f32x4.mul(Lanes.splatAt(activations + (k1 << 2)), scale);
      const s2 = f32x4.mul(Lanes.splatAt(activations + (k2 << 2)), scale);
      const s3 = f32x4.mul(Lanes.splatAt(activations + (k3 << 2)), scale);
      m1 += first, m2 += first, m3 += first;
      for (let y = yFrom; y < yEnd; y += 32, m0++, m1++, m2++, m3++) {
        let a = v128.load(y), b = v128.load(y, 16);
        const b0: u32 = load<u8>(m0), b1: u32 = load<u8>(m1);
        const b2: u32 = load<u8>(m2), b3: u32 = load<u8>(m3);
        const h0 = Positions.shuffle(v128.load(p0), Positions.eightHalves(b0 << 4));
        a = Lanes.madd(Half.widen(h0, even, mask), s0, a);
        b = Lanes.madd(Half.widen(h0, odd, mask), s0, b);
        const h1 = Positions.shuffle(v128.load(p1), Positions.eightHalves(b1 << 4));
        a = Lanes.madd(Half.widen(h1, even, mask), s1, a);
        b = Lanes.madd(Half.widen(h1, odd, mask), s1, b);
        const h2 = Positions.shuffle(v128.load(p2), Positions.eightHalves(b2 << 4));
        a = Lanes.madd(Half.widen(h2, even, mask), s2, a);
        b = Lanes.madd(Half.widen(h2, odd, mask), s2, b);
        const h3 = Positions.shuffle(v128.load(p3), Positions.eightHalves(b3 << 4));
        a = Lanes.madd(Half.widen(h3, even, mask), s3, a);
        b = Lanes.madd(Half.widen(h3, odd, mask), s3, b);
        v128.store(y, a);
        v128.store(y, b, 16);
        p0 += usize(popcnt<u32>(b0)) << 1, p1 += usize(popcnt<u32>(b1)) << 1;
        p2 += usize(popcnt<u32>(b2)) << 1, p3 += usize(popcnt<u32>(b3)) << 1;
      }
      k0 = Neuron.nextActive(activations, k3 + 1, n);
    } else {
      for (let y = yFrom; y < yEnd; y += 32, m0++) {
        const bits: u32 = load<u8>(m0);
        const h = Positions.shuffle(v128.load(p0), Positions.eightHalves(bits << 4));
        v128.store(y, Lanes.madd(Half.widen(h, even, mask), s0, v128.load(y)));
        v128.store(y, Lanes.madd(Half.widen(h, odd, mask), s0, v128.load(y, 16)), 16);
        p0 += usize(popcnt<u32>(bits)) << 1;
      }
      k0 = k1;
    }
  }
}
