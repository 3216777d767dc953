import { Half } from "../half";
import { Lanes } from "../lanes";
import { Neuron } from "./neuron";
import { Touch } from "./touch";

/**
 * For entries k = 0 .. count - 1 of a list, in this order, and columns colFrom <= c < colTo (multiples of 32):
 * `accumulator[c] += activations[k] * down column of the bundle at addresses[k]`, f16 bundles. Entries whose activation
 * is zero are not read. A list that comes in several passes gives the same bits as one.
 *
 * `accumulator`: f32[cols] in an order of the kernel's own, zero at first; finishDownF16 reads and clears it.
 */
export function downF16(
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
  const n = usize(count);
  const start = downOffset + (usize(colFrom) << 1);
  const yFrom = accumulator + (usize(colFrom) << 2), yEnd = accumulator + (usize(colTo) << 2);
  let k0 = Neuron.nextActive(activations, 0, n);
  let touched: usize = 0;
  while (k0 < n) {
    if (k0 >= touched) {
      touched = Touch.down(addresses, activations, k0, n, start, usize(colTo - colFrom) << 1);
    }
    const k1 = Neuron.nextActive(activations, k0 + 1, n);
    const k2 = Neuron.nextActive(activations, k1 + 1, n);
    const k3 = Neuron.nextActive(activations, k2 + 1, n);
    let p0 = Neuron.address(addresses, k0) + start;
    const s0 = f32x4.mul(Lanes.splatAt(activations + (k0 << 2)), scale);
    if (k3 < n) {
      let p1 = Neuron.address(addresses, k1) + start, p2 = Neuron.address(addresses, k2) + start;
      let p3 = Neuron.address(addresses, k3) + start;
      const s1 = f32x4.mul(Lanes.splatAt(activations + (k1 << 2)), scale);
      const s2 = f32x4.mul(Lanes.splatAt(activations + (k2 << 2)), scale);
      const s3 = f32x4.mul(Lanes.splatAt(activations + (k3 << 2)), scale);
      for (let y = yFrom; y < yEnd; y += 32) {
        let a = v128.load(y), b = v128.load(y, 16);
        const h0 = v128.load(p0);
        a = Lanes.madd(Half.widen(h0, even, mask), s0, a);
        b = Lanes.madd(Half.widen(h0, odd, mask), s0, b);
        const h1 = v128.load(p1);
        a = Lanes.madd(Half.widen(h1, even, mask), s1, a);
        b = Lanes.madd(Half.widen(h1, odd, mask), s1, b);
        const h2 = v128.load(p2);
        a = Lanes.madd(Half.widen(h2, even, mask), s2, a);
        b = Lanes.madd(Half.widen(h2, odd, mask), s2, b);
        const h3 = v128.load(p3);
        a = Lanes.madd(Half.widen(h3, even, mask), s3, a);
        b = Lanes.madd(Half.widen(h3, odd, mask), s3, b);
        v128.store(y, a);
        v128.store(y, b, 16);
        p0 += 16, p1 += 16, p2 += 16, p3 += 16;
      }
      k0 = Neuron.nextActive(activations, k3 + 1, n);
    } else {
      for (let y = yFrom; y < yEnd; y += 32, p0 += 16) {
        const h = v128.load(p0);
        v128.store(y, Lanes.madd(Half.widen(h, even, mask), s0, v128.load(y)));
        v128.store(y, Lanes.madd(Half.widen(h, odd, mask), s0, v128.load(y, 16)), 16);
      }
      k0 = k1;
    }
  }
}
