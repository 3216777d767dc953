import { Block } from "../block";
import { Half, SCALE } from "../half";
import { Lanes } from "../lanes";
import { Neuron } from "./neuron";
import { Touch } from "./touch";

/**
 * For entries k of a list (the j-th in `order`, from <= j < to):
 * `activations[k] = activation(dot(row at addresses[k] + upOffset, x) + bias[neurons[k]])`, q8 bundles.
 *
 * Same bits as matvecQ8 of the same row. Returns how many activations are not zero. Four bundles at a time, so that
 * four reads of memory overlap.
 */
export function upQ8(
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
  const scalesLength = usize(cols) >> 4;
  const mask = Half.mask();
  const xEnd = xp + (usize(cols) << 1);
  let active = 0;
  let j = from;
  for (; j + 4 <= to; j += 4) {
    if ((j - from & 7) == 0) {
      active += Touch.up(addresses, order, j, to, upOffset, scalesLength + usize(cols));
    }
    const k0 = Neuron.entry(order, j), k1 = Neuron.entry(order, j + 1);
    const k2 = Neuron.entry(order, j + 2), k3 = Neuron.entry(order, j + 3);
    let s0 = Neuron.address(addresses, k0) + upOffset, p0 = s0 + scalesLength;
    let s1 = Neuron.address(addresses, k1) + upOffset, p1 = s1 + scalesLength;
    let s2 = Neuron.address(addresses, k2) + upOffset, p2 = s2 + scalesLength;
    let s3 = Neuron.address(addresses, k3) + upOffset, p3 = s3 + scalesLength;
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
    let x = xp;
    let xScales = xEnd;
    // Scales of four blocks at once, as long as there are four.
    for (; x + 256 <= xEnd; x += 256, xScales += 16) {
      const xScale = v128.load(xScales);
      const c0 = Block.scales(s0, xScale, mask);
      const c1 = Block.scales(s1, xScale, mask);
      const c2 = Block.scales(s2, xScale, mask);
      const c3 = Block.scales(s3, xScale, mask);
      {
        const x0 = v128.load(x, 0), x1 = v128.load(x, 16);
        const x2 = v128.load(x, 32), x3 = v128.load(x, 48);
        a0 = Lanes.madd(Block.dot(p0, x0, x1, x2, x3), Block.splat(c0, 0), a0);
        a1 = Lanes.madd(Block.dot(p1, x0, x1, x2, x3), Block.splat(c1, 0), a1);
        a2 = Lanes.madd(Block.dot(p2, x0, x1, x2, x3), Block.splat(c2, 0), a2);
        a3 = Lanes.madd(Block.dot(p3, x0, x1, x2, x3), Block.splat(c3, 0), a3);
      }
      {
        const x0 = v128.load(x, 64), x1 = v128.load(x, 80);
        const x2 = v128.load(x, 96), x3 = v128.load(x, 112);
        a0 = Lanes.madd(Block.dot(p0 + 32, x0, x1, x2, x3), Block.splat(c0, 1), a0);
        a1 = Lanes.madd(Block.dot(p1 + 32, x0, x1, x2, x3), Block.splat(c1, 1), a1);
        a2 = Lanes.madd(Block.dot(p2 + 32, x0, x1, x2, x3), Block.splat(c2, 1), a2);
        a3 = Lanes.madd(Block.dot(p3 + 32, x0, x1, x2, x3), Block.splat(c3, 1), a3);
      }
      {
        const x0 = v128.load(x, 128), x1 = v128.load(x, 144);
        const x2 = v128.load(x, 160), x3 = v128.load(x, 176);
        a0 = Lanes.madd(Block.dot(p0 + 64, x0, x1, x2, x3), Block.splat(c0, 2), a0);
        a1 = Lanes.madd(Block.dot(p1 + 64, x0, x1, x2, x3), Block.splat(c1, 2), a1);
        a2 = Lanes.madd(Block.dot(p2 + 64, x0, x1, x2, x3), Block.splat(c2, 2), a2);
        a3 = Lanes.madd(Block.dot(p3 + 64, x0, x1, x2, x3), Block.splat(c3, 2), a3);
      }
      {
        const x0 = v128.load(x, 192), x1 = v128.load(x, 208);
        const x2 = v128.load(x, 224), x3 = v128.load(x, 240);
        a0 = Lanes.madd(Block.dot(p0 + 96, x0, x1, x2, x3), Block.splat(c0, 3), a0);
        a1 = Lanes.madd(Block.dot(p1 + 96, x0, x1, x2, x3), Block.splat(c1, 3), a1);
        a2 = Lanes.madd(Block.dot(p2 + 96, x0, x1, x2, x3), Block.splat(c2, 3), a2);
        a3 = Lanes.madd(Block.dot(p3 + 96, x0, x1, x2, x3), Block.splat(c3, 3), a3);
      }
      s0 += 8, s1 += 8, s2 += 8, s3 += 8;
      p0 += 128, p1 += 128, p2 += 128, p3 += 128;
    }
    for (; x < xEnd; x += 64, xScales += 4) {
      const xScale = Lanes.splatAt(xScales);
      const x0 = v128.load(x), x1 = v128.load(x, 16);
      const x2 = v128.load(x, 32), x3 = v128.load(x, 48);
      a0 = Lanes.madd(Block.dot(p0, x0, x1, x2, x3), Block.scale(s0, xScale, mask), a0);
      a1 = Lanes.madd(Block.dot(p1, x0, x1, x2, x3), Block.scale(s1, xScale, mask), a1);
      a2 = Lanes.madd(Block.dot(p2, x0, x1, x2, x3), Block.scale(s2, xScale, mask), a2);
      a3 = Lanes.madd(Block.dot(p3, x0, x1, x2, x3), Block.scale(s3, xScale, mask), a3);
      s0 += 2, s1 += 2, s2 += 2, s3 += 2;
      p0 += 32, p1 += 32, p2 += 32, p3 += 32;
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
    let s = Neuron.address(addresses, k) + upOffset;
    let p = s + scalesLength;
    let x = xp;
    let xScales = xEnd;
    let a = f32x4.splat(0);
    for (; x < xEnd; x += 64, xScales += 4, s += 2, p += 32) {
      const dot = Block.dot(
        p,
        v128.load(x),
        v128.load(x, 16),
        v128.load(x, 32),
        v128.load(x, 48),
      );
      a = Lanes.madd(dot, Block.scale(s, Lanes.splatAt(xScales), mask), a);
    }
    const total = Lanes.sum(a) * SCALE;
    active += Neuron.activate(activations, neurons, bias, kind, threshold, k, total);
  }
  return active;
}
