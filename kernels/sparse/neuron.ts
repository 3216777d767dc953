import { Activation, RELU } from "../activation";

/**
 * Lists of neurons, as the sparse kernels read them: entry k has the address of its bundle in `addresses[k]` (u32), its
 * neuron's index in `neurons[k]` (u32), and its activation in `activations[k]` (f32).
 */
export class Neuron {
  /** The entry that comes j-th: entries may be visited in an order of their own, `order` (u32), or 0 for none. */
  @inline
  static entry(order: usize, j: i32): usize {
    return order != 0 ? usize(load<u32>(order + (usize(j) << 2))) : usize(j);
  }

  @inline
  static address(addresses: usize, k: usize): usize {
    return usize(load<u32>(addresses + (k << 2)));
  }

  /** Stores what becomes of `dot + bias` of entry k (kernels/activation.ts). Returns 1 if that is not zero (NaN is not). */
  @inline
  static activate(
    activations: usize,
    neurons: usize,
    bias: usize,
    kind: i32,
    threshold: f32,
    k: usize,
    dot: f32,
  ): i32 {
    if (bias != 0) dot += load<f32>(bias + (usize(load<u32>(neurons + (k << 2))) << 2));
    const at = activations + (k << 2);
    const activation = kind == RELU
      ? max<f32>(dot, 0)
      : Activation.of(kind, dot, threshold, load<f32>(at));
    store<f32>(at, activation);
    return i32(activation != 0);
  }

  /** The same for four entries, whose dots are the lanes of `dots`. Returns how many activations are not zero. */
  @inline
  static activateFour(
    activations: usize,
    neurons: usize,
    bias: usize,
    kind: i32,
    threshold: f32,
    k0: usize,
    k1: usize,
    k2: usize,
    k3: usize,
    dots: v128,
  ): i32 {
    const d0 = f32x4.extract_lane(dots, 0), d1 = f32x4.extract_lane(dots, 1);
    const d2 = f32x4.extract_lane(dots, 2), d3 = f32x4.extract_lane(dots, 3);
    return Neuron.activate(activations, neurons, bias, kind, threshold, k0, d0) +
      Neuron.activate(activations, neurons, bias, kind, threshold, k1, d1) +
      Neuron.activate(activations, neurons, bias, kind, threshold, k2, d2) +
      Neuron.activate(activations, neurons, bias, kind, threshold, k3, d3);
  }

  /**
   * The first entry from k on whose activation is not zero (NaN counts), or `count`. Of a prompt's pass few entries are a
   * position's own, so four are looked at at once.
   */
  @inline
  static nextActive(activations: usize, k: usize, count: usize): usize {
    const zero = f32x4.splat(0);
    while (k + 4 <= count) {
      if (v128.any_true(f32x4.ne(v128.load(activations + (k << 2)), zero))) break;
      k += 4;
    }
    while (k < count && load<f32>(activations + (k << 2)) == 0) k++;
    return k;
  }
}
