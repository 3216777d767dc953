import { Exp } from "./exp";

/** `y[i] += x[i]` for from <= i < to (multiples of 4), f32. */
export function add(y: usize, x: usize, from: i32, to: i32): void {
  const end = usize(to) << 2;
  for (let byte = usize(from) << 2; byte < end; byte += 16) {
    v128.store(y + byte, f32x4.add(v128.load(y + byte), v128.load(x + byte)));
  }
}

/** `y[i] += factor * x[i]` for from <= i < to (multiples of 4), f32; each product is rounded first. */
export function addScaled(y: usize, x: usize, factor: f32, from: i32, to: i32): void {
  const end = usize(to) << 2, factors = f32x4.splat(factor);
  for (let byte = usize(from) << 2; byte < end; byte += 16) {
    const product = f32x4.mul(v128.load(x + byte), factors);
    v128.store(y + byte, f32x4.add(v128.load(y + byte), product));
  }
}

/** `x[i] *= factor` for from <= i < to (multiples of 4), f32. */
export function scale(x: usize, factor: f32, from: i32, to: i32): void {
  const end = usize(to) << 2, factors = f32x4.splat(factor);
  for (let byte = usize(from) << 2; byte < end; byte += 16) {
    v128.store(x + byte, f32x4.mul(v128.load(x + byte), factors));
  }
}

/** `x[i] = cap * tanh(x[i] / cap)` for from <= i < to (multiples of 4), f32. NaN stays NaN. */
export function softcap(x: usize, cap: f32, from: i32, to: i32): void {
  const end = usize(to) << 2, caps = f32x4.splat(cap), one = f32x4.splat(1);
  const sign = i32x4.splat(i32.MIN_VALUE);
  for (let byte = usize(from) << 2; byte < end; byte += 16) {
    const value = v128.load(x + byte), unit = f32x4.div(value, caps);
    // tanh |u| = (1 - e^-2|u|) / (1 + e^-2|u|)
    const e = Exp.ofNegative(f32x4.mul(f32x4.abs(unit), f32x4.splat(-2)));
    const tanh = f32x4.div(f32x4.sub(one, e), f32x4.add(one, e));
    v128.store(x + byte, v128.or(f32x4.mul(tanh, caps), v128.and(value, sign)));
  }
}

/** Copies `byteLength` bytes; the ranges may overlap. */
export function copy(target: usize, source: usize, byteLength: usize): void {
  memory.copy(target, source, byteLength);
}

/** Sets `byteLength` bytes to zero. */
export function zero(address: usize, byteLength: usize): void {
  memory.fill(address, 0, byteLength);
}

/** `out[i] = values[indices[i]]` for from <= i < to; f32 values, u32 indices. */
export function gather(values: usize, indices: usize, out: usize, from: i32, to: i32): void {
  const end = usize(to) << 2;
  for (let byte = usize(from) << 2; byte < end; byte += 4) {
    store<f32>(out + byte, load<f32>(values + (usize(load<u32>(indices + byte)) << 2)));
  }
}

/** The index of the largest of n f32 (n >= 1), the first of equals; a NaN is never the largest. */
export function argmax(x: usize, n: i32): i32 {
  let best = 0;
  let largest: f32 = -Infinity;
  for (let i = 0; i < n; i++) {
    const value = load<f32>(x + (usize(i) << 2));
    if (value > largest) {
      largest = value;
      best = i;
    }
  }
  return best;
}

/**
 * The exclusive or of all u32 in a range, `byteLength` a multiple of 128. It does nothing else with what it reads, so
 * that its speed is the speed of memory: benches compare other kernels with it.
 */
export function fold(address: usize, byteLength: usize): u32 {
  let a = i32x4.splat(0), b = a, c = a, d = a;
  const end = address + byteLength;
  for (; address < end; address += 128) {
    a = v128.xor(a, v128.load(address));
    b = v128.xor(b, v128.load(address, 16));
    c = v128.xor(c, v128.load(address, 32));
    d = v128.xor(d, v128.load(address, 48));
    a = v128.xor(a, v128.load(address, 64));
    b = v128.xor(b, v128.load(address, 80));
    c = v128.xor(c, v128.load(address, 96));
    d = v128.xor(d, v128.load(address, 112));
  }
  const all = v128.xor(v128.xor(a, b), v128.xor(c, d));
  return i32x4.extract_lane(all, 0) ^ i32x4.extract_lane(all, 1) ^
    i32x4.extract_lane(all, 2) ^ i32x4.extract_lane(all, 3);
}
