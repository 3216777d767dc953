import { Lanes } from "../lanes";
import { Neuron } from "./neuron";
import { Touch } from "./touch";

/**
 * For entries k = 0 .. count - 1 of a list, in this order, and columns colFrom <= c < colTo (multiples of 32):
 * `accumulator[c] += activations[k] * down column of the bundle at addresses[k]`, f32 bundles. Entries whose activation
 * is zero are not read. A list that comes in several passes gives the same bits as one.
 *
 * `accumulator`: f32[cols] in an order of the kernel's own, zero at first; finishDownF32 reads and clears it.
 */
export function downF32(
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
  const n = usize(count);
  const start = downOffset + (usize(colFrom) << 2);
  const yFrom = accumulator + (usize(colFrom) << 2), yEnd = accumulator + (usize(colTo) << 2);
  let k0 = Neuron.nextActive(activations, 0, n);
  let touched: usize = 0;
  while (k0 < n) {
    if (k0 >= touched) {
      touched = Touch.down(addresses, activations, k0, n, start, usize(colTo - colFrom) << 2);
    }
    const k1 = Neuron.nextActive(activations, k0 + 1, n);
    const k2 = Neuron.nextActive(activations, k1 + 1, n);
    const k3 = Neuron.nextActive(activations, k2 + 1, n);
    let p0 = Neuron.address(addresses, k0) + start;
    const s0 = Lanes.splatAt(activations + (k0 << 2));
    if (k3 < n) {
      let p1 = Neuron.address(addresses, k1) + start, p2 = Neuron.address(addresses, k2) + start;
      let p3 = Neuron.address(addresses, k3) + start;
      const s1 = Lanes.splatAt(activations + (k1 << 2)),
        s2 = Lanes.splatAt(activations + (k2 << 2));
      const s3 = Lanes.splatAt(activations + (k3 << 2));
      for (let y = yFrom; y < yEnd; y += 32) {
        let a = v128.load(y), b = v128.load(y, 16);
        a = Lanes.madd(v128.load(p0), s0, a);
        b = Lanes.madd(v128.load(p0, 16), s0, b);
        a = Lanes.madd(v128.load(p1), s1, a);
        b = Lanes.madd(v128.load(p1, 16), s1, b);
        a = Lanes.madd(v128.load(p2), s2, a);
        b = Lanes.madd(v128.load(p2, 16), s2, b);
        a = Lanes.madd(v128.load(p3), s3, a);
        b = Lanes.madd(v128.load(p3, 16), s3, b);
        v128.store(y, a);
        v128.store(y, b, 16);
        p0 += 32, p1 += 32, p2 += 32, p3 += 32;
      }
      k0 = Neuron.nextActive(activations, k3 + 1, n);
    } else {
      for (let y = yFrom; y < yEnd; y += 16, p0 += 16) {
        v128.store(y, Lanes.madd(v128.load(p0), s0, v128.load(y)));
      }
      k0 = k1;
    }
  }
}
