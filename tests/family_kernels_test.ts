/** What kernels do for families that are not OPT, against plain arithmetic. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ACTIVATION } from "../src/kernels.ts";
import type { Kernels } from "../src/kernels.ts";
import { KV_QUANTIZATIONS, PAGE_POSITIONS, pageByteLength } from "../src/kv_page.ts";
import { keysOffset, pagedScratchByteLength, valuesOffset } from "../src/kv_page.ts";
import type { KvQuantization } from "../src/kv_page.ts";
import { bitsOf, BUILDS, floatsAt, KernelArena, kernelsOf, wordsAt } from "./kernel_arena.ts";
import { Random } from "./kernel_twins.ts";

const ODD = [0, -0, 1e-30, -1e-30, 1, -1, 3.5, -3.5, 12, -12, 60, -60, 200, -200, 3e5, -3e5];

/** Each activation in f64; the normal distribution by its own series and continued fraction. */
const EXACT: Record<string, (x: number, threshold: number) => number> = {
  relu: (x) => Math.max(x, 0),
  relu2: (x) => Math.max(x, 0) ** 2,
  fatrelu: (x, threshold) => x > threshold ? x : 0,
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => x * normal(x),
  "gelu-tanh": (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** The normal distribution: a series up to 3, a continued fraction beyond. */
function normal(x: number): number {
  if (x < 0) return 1 - normal(-x);
  const density = Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
  if (x < 3) {
    let sum = x, term = x;
    for (let n = 1; n < 200; n++) sum += term *= x * x / (2 * n + 1);
    return 0.5 + density * sum;
  }
  let fraction = x;
  for (let n = 60; n > 0; n--) fraction = x + n / fraction;
  return 1 - density / fraction;
}

function assertClose(found: number, wanted: number, tolerance: number, what: string): void {
  const off = Math.abs(found - wanted);
  assert.ok(off <= tolerance * Math.max(1, Math.abs(wanted)), `${what}: ${found}, not ${wanted}`);
}

for (const build of BUILDS) {
  const kernels = kernelsOf(build);

  test(`activeMask computes every activation, and names what is not zero (${build})`, () => {
    const values = Float32Array.of(...ODD, ...new Random(3).vector(48, 4));
    for (const [name, exact] of Object.entries(EXACT)) {
      const arena = new KernelArena(), at = arena.floats(values), mask = arena.words([7, 7]);
      const kind = ACTIVATION[name as keyof typeof ACTIVATION];
      const count = kernels.activeMask(at, mask, 0, 64, kind, 0.5, 0);
      const found = floatsAt(at, 64), bits = wordsAt(mask, 2);
      values.forEach((x, i) => assertClose(found[i], exact(x, 0.5), 4e-7, `${name}(${x})`));
      const named = [...found.keys()].filter((i) => bits[i >> 5] >>> (i & 31) & 1);
      assert.deepEqual(named, [...found.keys()].filter((i) => found[i] !== 0), name);
      assert.equal(count, named.length);
      arena.assertCanaries();
    }
  });

  test(`activeMask cuts what is below a magnitude, and keeps NaN (${build})`, () => {
    const kinds = ["relu", "silu", "gelu", "gelu-tanh"] as const;
    for (const name of kinds) {
      const values = Float32Array.of(NaN, ...new Random(5).vector(63, 2)), kind = ACTIVATION[name];
      const arena = new KernelArena(), whole = arena.floats(values), mask = arena.words([7, 7]);
      kernels.activeMask(whole, mask, 0, 64, kind, 0, 0);
      // One of the magnitudes itself: what has it is not below it.
      const plain = Float32Array.from(floatsAt(whole, 64)), positive = plain.filter((y) => y > 0);
      const cut = positive.sort()[positive.length >> 1], at = arena.floats(values);
      const count = kernels.activeMask(at, mask, 0, 64, kind, 0, cut), bits = wordsAt(mask, 2);
      const wanted = plain.map((y) => Math.abs(y) < cut ? 0 : y);
      assert.deepEqual([...floatsAt(at, 64)], [...wanted], name);
      const named = [...wanted.keys()].filter((i) => bits[i >> 5] >>> (i & 31) & 1);
      assert.deepEqual(named, [...wanted.keys()].filter((i) => wanted[i] !== 0), name);
      assert.equal(count, named.length);
      assert.ok(count > 10 && count < 54, `${name}: ${count}`);
      arena.assertCanaries();
    }
  });

  test(`activations keep NaN (${build})`, () => {
    for (const name of Object.keys(EXACT)) {
      const arena = new KernelArena(), at = arena.floats(new Float32Array(32).fill(NaN));
      const kind = ACTIVATION[name as keyof typeof ACTIVATION];
      assert.equal(kernels.activeMask(at, arena.words([0]), 0, 32, kind, 0.5, 0), 32, name);
      assert.ok(floatsAt(at, 32).every(Number.isNaN), name);
    }
  });

  test(`up multiplies gates by the up row's product, or by its ReLU (${build})`, () => {
    const arena = new KernelArena(), cols = 64, rows = 7, random = new Random(8);
    const weights = random.vector(rows * cols), x = random.vector(cols), bias = random.vector(rows);
    const at = arena.floats(weights), xp = arena.reserve(4 * cols + 72);
    kernels.prepare.f32(arena.floats(x), xp, cols);
    const addresses = arena.words(Array.from({ length: rows }, (_, row) => at + 4 * cols * row));
    const neurons = arena.words(Array.from({ length: rows }, (_, row) => row));
    const dots = Array.from(
      { length: rows },
      (_, row) => x.reduce((sum, value, c) => sum + value * weights[row * cols + c], bias[row]),
    );
    const gates = Float32Array.of(2, 0, 0.5, 1, 3, 0, 4);
    for (const [kind, factor] of [[ACTIVATION.times, 0], [ACTIVATION.timesRelu, 1]] as const) {
      const y = arena.floats(gates), picked = arena.words(new Array(rows).fill(99));
      const count = kernels.pickActive(0, 0, rows, y, picked);
      assert.deepEqual([...wordsAt(picked, rows)], [0, 2, 3, 4, 6, 99, 99]);
      const biasAt = arena.floats(bias);
      const active = kernels.up.f32(
        addresses,
        neurons,
        picked,
        0,
        count,
        0,
        xp,
        biasAt,
        y,
        cols,
        kind,
        0,
      );
      const wanted = dots.map((dot, row) => gates[row] * (factor ? Math.max(dot, 0) : dot));
      floatsAt(y, rows).forEach((value, row) => assertClose(value, wanted[row], 1e-5, `${row}`));
      assert.equal(active, wanted.filter((value) => value !== 0).length);
    }
    arena.assertCanaries();
  });

  test(`pickActive goes by an order, which it may overwrite (${build})`, () => {
    const arena = new KernelArena(), y = arena.floats(Float32Array.of(0, 1, NaN, 0, 5));
    const order = arena.words([4, 3, 2, 0, 1]);
    assert.equal(kernels.pickActive(order, 1, 5, y, order), 2);
    assert.deepEqual([...wordsAt(order, 5)].slice(0, 2), [2, 1]);
  });

  test(`rmsNorm divides by the root of the mean square (${build})`, () => {
    for (const n of [16, 64, 4096]) {
      const arena = new KernelArena(), random = new Random(n);
      const x = random.vector(n, 3), weight = random.vector(n);
      const at = arena.floats(x), y = arena.reserve(4 * n);
      kernels.rmsNorm(at, arena.floats(weight), y, n, 1e-5);
      const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / n + 1e-5);
      floatsAt(y, n).forEach((v, i) => assertClose(v, x[i] * scale * weight[i], 1e-6, `${i}`));
      arena.assertCanaries();
    }
  });

  test(`rotate turns pairs of halves, and leaves the rest of each head (${build})`, () => {
    const arena = new KernelArena(), heads = 3, headDim = 32, dims = 16, half = dims / 2;
    const x = new Random(4).vector(heads * headDim), at = arena.floats(x);
    const angle = (i: number) => 0.3 + 0.7 * i;
    const angles = Float32Array.from(
      { length: dims },
      (_, i) => i < half ? Math.cos(angle(i)) : Math.sin(angle(i - half)),
    );
    kernels.rotate(at, arena.floats(angles), heads, headDim, dims);
    const found = floatsAt(at, heads * headDim);
    for (let head = 0; head < heads * headDim; head += headDim) {
      for (let i = 0; i < half; i++) {
        const [a, b] = [x[head + i], x[head + half + i]],
          [c, s] = [
            Math.cos(angle(i)),
            Math.sin(angle(i)),
          ];
        assertClose(found[head + i], a * c - b * s, 1e-6, `${i}`);
        assertClose(found[head + half + i], b * c + a * s, 1e-6, `${half + i}`);
      }
      for (let i = dims; i < headDim; i++) assert.equal(found[head + i], x[head + i]);
    }
    arena.assertCanaries();
  });

  test(`softcap, scale and addScaled (${build})`, () => {
    const arena = new KernelArena(), x = Float32Array.of(...ODD), at = arena.floats(x);
    kernels.softcap(at, 30, 0, 16);
    x.forEach((v, i) => assertClose(floatsAt(at, 16)[i], 30 * Math.tanh(v / 30), 3e-6, `${v}`));
    const y = arena.floats(new Float32Array(16).fill(2));
    kernels.addScaled(y, arena.floats(x), 0.25, 4, 12);
    const wanted = x.map((v, i) => i >= 4 && i < 12 ? Math.fround(2 + Math.fround(v / 4)) : 2);
    assert.deepEqual(floatsAt(y, 16), wanted);
    kernels.scale(y, 3, 0, 8);
    assert.deepEqual(
      floatsAt(y, 16).slice(),
      wanted.map((v, i) => i < 8 ? Math.fround(3 * v) : v),
    );
    arena.assertCanaries();
  });

  for (const kv of KV_QUANTIZATIONS) {
    test(`attentionPages leaves out what lies before a window, and caps scores (${kv}, ${build})`, () => {
      const arena = new KernelArena(), count = 40;
      const whole = paged(kernels, arena, kv, count, new Random(21).vector(count * 3 * 16));
      for (const first of [1, 5, 15]) {
        // The same without those positions: other places in pages, so other orders of sums.
        const cut = paged(kernels, arena, kv, count - first, whole.rows.subarray(first * 3 * 16));
        for (const cap of [0, 0.5]) {
          const [found, wanted] = [whole.attend(first, cap), cut.attend(0, cap)];
          found.forEach((value, i) => assertClose(value, wanted[i], 2e-2, `${first} ${cap} ${i}`));
          if (kv !== "f32") continue;
          found.forEach((value, i) => assertClose(value, wanted[i], 1e-5, `${first} ${cap} ${i}`));
          const exact = attention(whole.rows.subarray(first * 3 * 16), cap);
          found.forEach((value, i) => assertClose(value, exact[i], 1e-5, `${first} ${cap} ${i}`));
        }
      }
      assert.notDeepEqual(bitsOf(whole.attend(0, 0)), bitsOf(whole.attend(1, 0)));
      arena.assertCanaries();
    });
  }
}

/** One head of 16 numbers over `rows` of [query, key, value]; the query is the last one's. */
function paged(
  kernels: Kernels,
  arena: KernelArena,
  kv: KvQuantization,
  count: number,
  rows: Float32Array,
) {
  const heads = { numKeyValueHeads: 1, headDim: 16 };
  const pages = Array.from(
    { length: Math.ceil(count / PAGE_POSITIONS) },
    () => arena.reserve(pageByteLength(kv, heads)),
  );
  const row = arena.reserve(64);
  for (let t = 0; t < count; t++) {
    const page = pages[Math.floor(t / PAGE_POSITIONS)], place = t % PAGE_POSITIONS;
    floatsAt(row, 16).set(rows.subarray(t * 48 + 16, t * 48 + 32));
    kernels.storeKey[kv](row, page + keysOffset(kv, heads, 0), place, 16);
    floatsAt(row, 16).set(rows.subarray(t * 48 + 32, t * 48 + 48));
    kernels.storeValue[kv](row, page + valuesOffset(kv, heads, 0), place, 16);
  }
  const table = arena.words(pages), out = arena.reserve(64);
  const q = arena.floats(rows.slice((count - 1) * 48, (count - 1) * 48 + 16));
  const scratch = arena.reserve(pagedScratchByteLength(1, 16, count));
  const attend = (first: number, cap: number) => {
    kernels.attentionPages[kv](q, table, 1, 0, 1, 1, out, scratch, 16, count, first, 0.5, cap);
    return floatsAt(out, 16).slice();
  };
  return { rows, attend };
}

/** In f64: softmax(cap tanh(0.5 keys q / cap)) values, the query of the last row. */
function attention(rows: Float32Array, cap: number): number[] {
  const count = rows.length / 48,
    part = (t: number, from: number) => rows.subarray(t * 48 + from, t * 48 + from + 16);
  const q = part(count - 1, 0);
  const scores = Array.from({ length: count }, (_, t) => {
    const score = 0.5 * part(t, 16).reduce((sum, k, c) => sum + k * q[c], 0);
    return cap === 0 ? score : cap * Math.tanh(score / cap);
  });
  const weights = scores.map(Math.exp), all = weights.reduce((sum, w) => sum + w, 0);
  return Array.from(
    { length: 16 },
    (_, c) => weights.reduce((sum, w, t) => sum + w * part(t, 32)[c], 0) / all,
  );
}
