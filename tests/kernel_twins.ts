/**
 * Scalar twins of the kernels: plain loops over f32 numbers (`Math.fround` after each operation) in the kernels'
 * canonical order. The plain build gives exactly these bits; the relaxed build, where the runtime fuses multiply and
 * add, comes close to them.
 *
 * Rows of weights are row bytes as `storeRows` makes them, whatever layout the kernel reads them from.
 */
import type { Quantization } from "../src/format/layout.ts";
import { type KvQuantization, PAGE_POSITIONS } from "../src/kv_page.ts";

const f = Math.fround;
const SCALE = 2 ** 56;
const HALF = 2 ** -112;

/** A seeded generator (xorshift32) of numbers and test inputs. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 1;
  }

  /** An integer from 0 to `bound - 1`. */
  below(bound: number): number {
    let s = this.#state;
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    this.#state = s;
    return Math.floor((s >>> 0) / 2 ** 32 * bound);
  }

  /** `length` f32 of either sign, most of the size `scale`, a few much smaller or larger. */
  vector(length: number, scale = 1): Float32Array<ArrayBuffer> {
    return Float32Array.from({ length }, () => {
      const size = this.below(16) === 0 ? 2 ** (this.below(16) - 12) : 1;
      return (this.below(65536) / 32768 - 1) * scale * size;
    });
  }
}

function madd(a: number, b: number, accumulator: number): number {
  return f(accumulator + f(a * b));
}

function sumOfLanes(lanes: Float32Array): number {
  return f(f(lanes[0] + lanes[2]) + f(lanes[1] + lanes[3]));
}

/** One row as numbers, and for q8 its scales. f16 weights and scales are 2^-112 of themselves. */
function readRow(
  quantization: Quantization,
  row: Uint8Array<ArrayBuffer>,
): { numbers: Float32Array; scales: Float32Array } {
  if (quantization === "f32") {
    return { numbers: new Float32Array(row.slice().buffer), scales: new Float32Array() };
  }
  if (quantization === "f16") {
    const halves = new Float16Array(row.slice().buffer);
    return { numbers: Float32Array.from(halves, (h) => h * HALF), scales: new Float32Array() };
  }
  const cols = row.length / 34 * 32;
  const scales = Float32Array.from(
    new Float16Array(row.slice(0, cols / 16).buffer),
    (h) => h * HALF,
  );
  return { numbers: Float32Array.from(new Int8Array(row.slice(cols / 16).buffer)), scales };
}

/** What `prepare` makes of x: numbers and, for q8, the scale of each block. */
function prepare(quantization: Quantization, x: Float32Array): {
  numbers: Float32Array;
  scales: Float32Array;
} {
  if (quantization !== "q8") {
    const [tiny, scale] = quantization === "f32" ? [2 ** -96, 1] : [2 ** -60, SCALE];
    const numbers = x.map((value) => Math.abs(value) < tiny ? 0 : value * scale);
    return { numbers, scales: new Float32Array() };
  }
  const numbers = new Float32Array(x.length);
  const scales = new Float32Array(x.length / 32);
  for (let block = 0; block < scales.length; block++) {
    const values = x.subarray(block * 32, block * 32 + 32);
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    scales[block] = largest < 2 ** -60 ? 0 : f(largest / 32767) * SCALE;
    const inverse = f(32767 / largest);
    values.forEach((value, i) => {
      const rounded = roundToEven(f(value * inverse)) || 0; // NaN, too, becomes 0.
      numbers[block * 32 + i] = Math.max(-32768, Math.min(32767, rounded));
    });
  }
  return { numbers, scales };
}

function roundToEven(value: number): number {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/** dot(row, x) + bias, in the canonical order of the dtype. */
export function dotTwin(
  quantization: Quantization,
  rowBytes: Uint8Array<ArrayBuffer>,
  x: Float32Array,
  bias?: number,
): number {
  const row = readRow(quantization, rowBytes);
  const prepared = prepare(quantization, x);
  const lanes = new Float32Array(4);
  if (quantization === "q8") addBlocks(lanes, row, prepared);
  else {
    for (let c = 0; c < x.length; c++) {
      // f16: columns 2 l and 2 l + 1 of eight go to lane l.
      const lane = quantization === "f32" ? c & 3 : (c & 7) >> 1;
      lanes[lane] = madd(row.numbers[c], prepared.numbers[c], lanes[lane]);
    }
  }
  const total = f(sumOfLanes(lanes) * (quantization === "f32" ? 1 : SCALE));
  return bias === undefined ? total : f(total + bias);
}

function addBlocks(
  lanes: Float32Array,
  row: ReturnType<typeof readRow>,
  x: ReturnType<typeof prepare>,
): void {
  for (let block = 0; block < row.scales.length; block++) {
    const sums = [0, 0, 0, 0];
    for (let c = block * 32; c < block * 32 + 32; c++) {
      sums[(c & 7) >> 1] += row.numbers[c] * x.numbers[c];
    }
    const scale = f(row.scales[block] * x.scales[block]);
    for (let lane = 0; lane < 4; lane++) {
      lanes[lane] = madd(f(sums[lane]), scale, lanes[lane]);
    }
  }
}

/** The 31 levels of `x - mean` that a bit-planes predictor sees, and their scale. */
export function levelsTwin(
  x: Float32Array,
  mean: Float32Array,
): { levels: number[]; scale: number } {
  const centred = x.map((value, c) => value - mean[c]);
  const largest = centred.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const inverse = f(15 / largest);
  return {
    levels: Array.from(centred, (value) => roundToEven(f(value * inverse)) || 0),
    scale: largest < 2 ** -60 ? 0 : f(largest / 15),
  };
}

/** The score of a row of odd weights, i8[cols], in integers and then scaled twice. */
export function planeScoreTwin(
  weights: Int8Array,
  { levels, scale }: ReturnType<typeof levelsTwin>,
  rowScale: number,
): number {
  const sum = levels.reduce((total, level, c) => total + level * weights[c], 0);
  return f(f(sum * scale) * rowScale);
}

/** `residual + (sum over neurons of activation * column + bias)`, neurons in order, zeros left out. */
export function downTwin(
  quantization: Quantization,
  columns: readonly Uint8Array<ArrayBuffer>[],
  activations: Float32Array,
  bias: Float32Array | undefined,
  residual: Float32Array,
): Float32Array {
  if (quantization === "q8") return downTwinQ8(columns, activations, bias, residual);
  const sums = new Float32Array(residual.length);
  columns.forEach((bytes, k) => {
    if (activations[k] === 0) return;
    const column = readRow(quantization, bytes);
    const activation = quantization === "f32" ? activations[k] : f(activations[k] * SCALE);
    for (let c = 0; c < sums.length; c++) {
      sums[c] = madd(column.numbers[c], activation, sums[c]);
    }
  });
  return residual.map((value, c) => {
    const sum = quantization === "f32" ? sums[c] : f(sums[c] * SCALE);
    return f(value + (bias === undefined ? sum : f(sum + bias[c])));
  });
}

/** q8 sums are integers on grids (kernels/sparse/grid.ts); f64 holds them exactly. */
function downTwinQ8(
  columns: readonly Uint8Array<ArrayBuffer>[],
  activations: Float32Array,
  bias: Float32Array | undefined,
  residual: Float32Array,
): Float32Array {
  const grids = Array.from({ length: 18 }, () => new Float64Array(residual.length));
  let low = 15, high = -1, spoilt = 0;
  columns.forEach((bytes, k) => {
    const { numbers, scales } = readRow("q8", bytes);
    const largestScale = scales.reduce((most, scale) => Math.max(most, Math.abs(scale)), 0) / HALF;
    const largest = f(Math.abs(activations[k]) * largestScale);
    if (largest === 0) return;
    const exponent = Math.floor(Math.log2(f(largest * (1 + 1 / 8192))));
    const grid = Math.max(0, (exponent - 11 + 44) >> 2);
    if (!Number.isFinite(largest) || grid > 15) {
      spoilt = NaN;
      return;
    }
    [low, high] = [Math.min(low, grid), Math.max(high, grid)];
    const activation = f(activations[k] * 2 ** (44 - 4 * grid));
    const steps = scales.map((scale) => roundToEven(f(scale / HALF * activation)));
    for (let c = 0; c < numbers.length; c++) grids[grid][c] += steps[c >> 5] * numbers[c];
  });
  const top = high + 2;
  return residual.map((value, c) => {
    let sum = spoilt, carry = 0;
    for (let grid = low; high >= 0 && grid < top; grid++) {
      const all = grids[grid][c] + carry;
      carry = Math.floor((all + 8) / 16);
      sum = f(f(sum + (all - 16 * carry)) / 16);
    }
    if (high >= 0) sum = f(f(sum + f(grids[top][c] + carry)) * 2 ** (4 * top - 44));
    return f(value + (bias === undefined ? sum : f(sum + bias[c])));
  });
}

export function layerNormTwin(
  x: Float32Array,
  weight: Float32Array,
  bias: Float32Array,
  eps: number,
): Float32Array {
  const lanes = new Float32Array(4);
  x.forEach((value, i) => lanes[i & 3] += value);
  const mean = f(sumOfLanes(lanes) / x.length);
  lanes.fill(0);
  x.forEach((value, i) => {
    const difference = f(value - mean);
    lanes[i & 3] = madd(difference, difference, lanes[i & 3]);
  });
  const variance = f(f(sumOfLanes(lanes) / x.length) + f(eps));
  const inverse = f(1 / f(Math.sqrt(variance)));
  return x.map((value, i) => madd(f(f(value - mean) * inverse), weight[i], bias[i]));
}

/** e^x for x <= 0: the polynomial of Cephes' expf, as the kernel computes it. */
export function expTwin(x: number): number {
  if (x < f(-87.3)) return 0;
  const n = roundToEven(f(x * f(1.44269504088896341)));
  const r = madd(n, f(2.12194440e-4), madd(n, f(-0.693359375), x));
  let p = madd(f(1.9875691500e-4), r, f(1.3981999507e-3));
  for (const c of [8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1]) {
    p = madd(p, r, f(c));
  }
  p = f(madd(p, f(r * r), r) + 1);
  return f(p * 2 ** n);
}

export function softmaxTwin(x: Float32Array): Float32Array {
  const largest = x.reduce((a, b) => Math.max(a, b));
  const lanes = new Float32Array(4);
  const e = x.map((value, i) => {
    const power = expTwin(f(value - largest));
    lanes[i & 3] += power;
    return power;
  });
  const inverse = f(1 / sumOfLanes(lanes));
  return e.map((value) => value * inverse);
}

/** One query against `count` keys and values, each f32[count][headDim]. */
export function attentionTwin(
  q: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  scale: number,
): Float32Array {
  const headDim = q.length;
  const weights = softmaxTwin(Float32Array.from({ length: keys.length / headDim }, (_, t) => {
    const lanes = new Float32Array(4);
    for (let c = 0; c < headDim; c++) {
      lanes[c & 3] = madd(keys[t * headDim + c], q[c], lanes[c & 3]);
    }
    return f(sumOfLanes(lanes) * f(scale));
  }));
  return q.map((_, c) =>
    weights.reduce((sum, weight, t) => madd(values[t * headDim + c], weight, sum), 0)
  );
}

/** A row rounded to integers of at most `steps`, with one scale. */
function roundRow(x: Float32Array, steps: number): { numbers: Float32Array; scale: number } {
  const bound = x.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const inverse = f(steps / bound);
  const numbers = x.map((value) => {
    const rounded = roundToEven(f(value * inverse)) || 0; // NaN, too, becomes 0.
    return Math.max(-steps - 1, Math.min(steps, rounded));
  });
  return { numbers, scale: bound < 2 ** -60 ? 0 : f(bound / steps) };
}

/** One query over paged keys and values, f32[count][headDim] before they are stored as `kv` says. */
export function attentionPagesTwin(
  kv: KvQuantization,
  q: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  scale: number,
): Float32Array {
  if (kv === "f32") return attentionTwin(q, keys, values, scale);
  const headDim = q.length, count = keys.length / headDim;
  const rowsOf = (all: Float32Array) =>
    Array.from({ length: count }, (_, t) => all.subarray(t * headDim, (t + 1) * headDim));
  if (kv === "f16") return pagesTwinF16(q, rowsOf(keys), rowsOf(values), scale);
  return pagesTwinQ8(q, rowsOf(keys), rowsOf(values), scale);
}

function pagesTwinF16(
  q: Float32Array,
  keys: readonly Float32Array[],
  values: readonly Float32Array[],
  scale: number,
): Float32Array {
  const flush = (x: number) => Math.abs(x) < 2 ** -60 ? 0 : x * SCALE;
  const half = (x: number) => Math.f16round(x) * HALF;
  const query = q.map(flush);
  const scores = Float32Array.from(keys, (key) => {
    const lanes = new Float32Array(4);
    key.forEach((number, c) => {
      const lane = (c & 7) >> 1;
      lanes[lane] = madd(half(number), query[c], lanes[lane]);
    });
    return f(f(sumOfLanes(lanes) * SCALE) * f(scale));
  });
  const weights = softmaxTwin(scores).map(flush);
  return q.map((_, c) =>
    f(weights.reduce((sum, w, t) => madd(half(values[t][c]), w, sum), 0) * SCALE)
  );
}

/** Products of a page are integers: f64 holds their sums exactly. */
function pagesTwinQ8(
  q: Float32Array,
  keys: readonly Float32Array[],
  values: readonly Float32Array[],
  scale: number,
): Float32Array {
  const query = roundRow(q, 32767), queryScale = f(query.scale * f(scale));
  const scores = Float32Array.from(keys, (row) => {
    const key = roundRow(row, 127);
    const dot = key.numbers.reduce((sum, number, c) => sum + number * query.numbers[c], 0);
    return f(f(f(dot) * key.scale) * queryScale);
  });
  const weights = softmaxTwin(scores), rows = values.map((row) => roundRow(row, 127));
  const out = new Float32Array(q.length);
  for (let from = 0; from < rows.length; from += PAGE_POSITIONS) {
    const page = rows.slice(from, from + PAGE_POSITIONS);
    const steps = roundRow(
      Float32Array.from(page, (row, t) => weights[from + t] * row.scale),
      32767,
    );
    out.forEach((sum, c) => {
      const exact = page.reduce((total, row, t) => total + row.numbers[c] * steps.numbers[t], 0);
      out[c] = madd(f(exact), steps.scale, sum);
    });
  }
  return out;
}
