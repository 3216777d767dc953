import { Half } from "../half";
import { Lanes } from "../lanes";
import { Nibbles } from "../nibbles";
import { Neuron } from "./neuron";
import { Touch } from "./touch";

/**
 * For entries k of a list (the j-th in `order`, from <= j < to):
 * `activations[k] = activation(dot(row at addresses[k] + upOffset, x) + bias[neurons[k]])`, q4 bundles.
 *
 * Same bits as matvecQ4 of the same row. Returns how many activations are not zero. Four bundles at a time, one a lane;
 * where fewer are left, the last one stands in for the others.
 */
export function upQ4(
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
  const even = Half.even(), odd = Half.odd(), mask = Half.mask();
  const xEnd = xp + usize(cols);
  const last = to - 1;
  let active = 0;
  for (let j = from; j < to; j += 4) {
    if ((j - from & 7) == 0) {
      active += Touch.up(addresses, order, j, to, upOffset, scalesLength + (usize(cols) >> 1));
    }
    const k0 = Neuron.entry(order, j), k1 = Neuron.entry(order, min<i32>(j + 1, last));
    const k2 = Neuron.entry(order, min<i32>(j + 2, last));
    const k3 = Neuron.entry(order, min<i32>(j + 3, last));
    let s0 = Neuron.address(addresses, k0) + upOffset, p0 = s0 + scalesLength;
    let s1 = Neuron.address(addresses, k1) + upOffset, p1 = s1 + scalesLength;
    let s2 = Neuron.address(addresses, k2) + upOffset, p2 = s2 + scalesLength;
    let s3 = Neuron.address(addresses, k3) + upOffset, p3 = s3 + scalesLength;
    let a = f32x4.splat(0);
    let x = xp;
    let xScales = xEnd;
    // Scales of four blocks at once, as long as there are four: those of two blocks are the halves of a lane.
    for (; x + 128 <= xEnd; x += 128, xScales += 32) {
      const s01 = v128.shuffle<u32>(v128.load64_zero(s0), v128.load64_zero(s1), 0, 4, 1, 5);
      const s23 = v128.shuffle<u32>(v128.load64_zero(s2), v128.load64_zero(s3), 0, 4, 1, 5);
      const low = v128.shuffle<u64>(s01, s23, 0, 2), high = v128.shuffle<u64>(s01, s23, 1, 3);
      a = Bundles.block(x, xScales, p0, p1, p2, p3, Half.widen(low, even, mask), a);
      a = Bundles.block(
        x + 32,
        xScales + 8,
        p0 + 16,
        p1 + 16,
        p2 + 16,
        p3 + 16,
        Half.widen(low, odd, mask),
        a,
      );
      a = Bundles.block(
        x + 64,
        xScales + 16,
        p0 + 32,
        p1 + 32,
        p2 + 32,
        p3 + 32,
        Half.widen(high, even, mask),
        a,
      );
      a = Bundles.block(
        x + 96,
        xScales + 24,
        p0 + 48,
        p1 + 48,
        p2 + 48,
        p3 + 48,
        Half.widen(high, odd, mask),
        a,
      );
      s0 += 8, s1 += 8, s2 += 8, s3 += 8;
      p0 += 64, p1 += 64, p2 += 64, p3 += 64;
    }
    for (; x < xEnd; x += 32, xScales += 8) {
      let four = i32x4.splat(load<u16>(s0));
      four = i32x4.replace_lane(four, 1, load<u16>(s1));
      four = i32x4.replace_lane(four, 2, load<u16>(s2));
      four = i32x4.replace_lane(four, 3, load<u16>(s3));
      a = Bundles.block(x, xScales, p0, p1, p2, p3, Half.widen(four, even, mask), a);
      s0 += 2, s1 += 2, s2 += 2, s3 += 2;
      p0 += 16, p1 += 16, p2 += 16, p3 += 16;
    }
    const total = f32x4.mul(a, Half.scale());
    const d0 = f32x4.extract_lane(total, 0), d1 = f32x4.extract_lane(total, 1);
    const d2 = f32x4.extract_lane(total, 2), d3 = f32x4.extract_lane(total, 3);
    active += Neuron.activate(activations, neurons, bias, kind, threshold, k0, d0);
    if (j + 1 > last) break;
    active += Neuron.activate(activations, neurons, bias, kind, threshold, k1, d1);
    if (j + 2 > last) break;
    active += Neuron.activate(activations, neurons, bias, kind, threshold, k2, d2);
    if (j + 3 > last) break;
    active += Neuron.activate(activations, neurons, bias, kind, threshold, k3, d3);
  }
  return active;
}

class Bundles {
  /** `sums` and a block of four bundles, whose scales are `scales`. */
  @inline
  static block(
    x: usize,
    xScales: usize,
    p0: usize,
    p1: usize,
    p2: usize,
    p3: usize,
    scales: v128,
    sums: v128,
  ): v128 {
    const mask = Nibbles.mask(), ones = Nibbles.ones();
    const x0 = v128.load(x), x1 = v128.load(x, 16);
    const dots = Nibbles.sums(
      Nibbles.block(v128.load(p0), x0, x1, mask),
      Nibbles.block(v128.load(p1), x0, x1, mask),
      Nibbles.block(v128.load(p2), x0, x1, mask),
      Nibbles.block(v128.load(p3), x0, x1, mask),
      ones,
    );
    const offset = i32x4.dot_i16x8_s(v128.load_splat<u32>(xScales, 4), ones);
    const whole = f32x4.convert_i32x4_s(i32x4.add(dots, offset));
    return Lanes.madd(whole, f32x4.mul(scales, Lanes.splatAt(xScales)), sums);
  }
}
