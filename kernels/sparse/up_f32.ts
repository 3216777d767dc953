import { Lanes } from "../lanes";
import { Neuron } from "./neuron";
import { Touch } from "./touch";

/**
 * For entries k of a list (the j-th in `order`, from <= j < to):
 * `activations[k] = activation(dot(row at addresses[k] + upOffset, x) + bias[neurons[k]])`, f32 bundles.
 *
 * Same bits as matvecF32 of the same row. Returns how many activations are not zero. Four bundles at a time, so that
 * four reads of memory overlap.
 */
export function upF32(
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
  const xEnd = xp + (usize(cols) << 2);
  let active = 0;
  let j = from;
  for (; j + 4 <= to; j += 4) {
    if ((j - from & 7) == 0) {
      active += Touch.up(addresses, order, j, to, upOffset, usize(cols) << 2);
    }
    const k0 = Neuron.entry(order, j), k1 = Neuron.entry(order, j + 1);
    const k2 = Neuron.entry(order, j + 2), k3 = Neuron.entry(order, j + 3);
    let p0 = Neuron.address(addresses, k0) + upOffset,
      p1 = Neuron.address(addresses, k1) + upOffset;
    let p2 = Neuron.address(addresses, k2) + upOffset,
      p3 = Neuron.address(addresses, k3) + upOffset;
    let x = xp;
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
    for (; x < xEnd; x += 32, p0 += 32, p1 += 32, p2 += 32, p3 += 32) {
      const x0 = v128.load(x), x1 = v128.load(x, 16);
      a0 = Lanes.madd(v128.load(p0), x0, a0);
      a1 = Lanes.madd(v128.load(p1), x0, a1);
      a2 = Lanes.madd(v128.load(p2), x0, a2);
      a3 = Lanes.madd(v128.load(p3), x0, a3);
      a0 = Lanes.madd(v128.load(p0, 16), x1, a0);
      a1 = Lanes.madd(v128.load(p1, 16), x1, a1);
      a2 = Lanes.madd(v128.load(p2, 16), x1, a2);
      a3 = Lanes.madd(v128.load(p3, 16), x1, a3);
    }
    const total = Lanes.sums(a0, a1, a2, a3);
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
    let p = Neuron.address(addresses, k) + upOffset;
    let x = xp;
    let a = f32x4.splat(0);
    for (; x < xEnd; x += 16, p += 16) a = Lanes.madd(v128.load(p), v128.load(x), a);
    const total = Lanes.sum(a);
    active += Neuron.activate(activations, neurons, bias, kind, threshold, k, total);
  }
  return active;
}
