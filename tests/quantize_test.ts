import assert from "node:assert/strict";
import { test } from "node:test";
import {
  bundleByteLength,
  isBlocked,
  matrixByteLength,
  type Quantization,
  QUANTIZATIONS,
  vectorByteLength,
} from "../src/format/layout.ts";
import {
  findUnstorable,
  loadRows,
  storeRows,
  tileRows,
  untileRows,
} from "../src/format/quantize.ts";
import { seededRandom } from "../src/random.ts";

const ROWS = 13; // No multiple of 8: the last tiles are padded.
const COLS = 96;

function randomValues(seed: number, count = ROWS * COLS): Float32Array<ArrayBuffer> {
  const random = seededRandom(seed);
  return Float32Array.from({ length: count }, () => (random() - 0.5) * 2 ** (20 * random() - 10));
}

/** q8 of one block as the documentation words it: slow, and with nothing shared with the code. */
function quantizeBlock(values: Float32Array): { scale: number; numbers: number[] } {
  const largest = Math.max(...Array.from(values, Math.abs));
  const view = new DataView(new ArrayBuffer(2));
  view.setFloat16(0, Math.fround(largest / 127));
  const scale = view.getFloat16(0);
  const numbers = Array.from(values, (value) => {
    if (scale === 0) return 0;
    const floor = Math.floor(value / scale);
    const rest = value / scale - floor;
    const up = rest > 0.5 || (rest === 0.5 && floor % 2 !== 0);
    return Math.max(-127, Math.min(127, up ? floor + 1 : floor));
  });
  return { scale, numbers };
}

test("storeRows() as f32 keeps bits, as f16 rounds to nearest", () => {
  const values = randomValues(1);
  const rows = { rows: ROWS, cols: COLS };
  const bytes = new Uint8Array(values.length * 4);
  storeRows("f32", values, rows, bytes);
  assert.deepEqual(new Float32Array(bytes.buffer), values);
  storeRows("f16", values, rows, bytes);
  const back = new Float32Array(values.length);
  loadRows("f16", bytes, rows, back);
  assert.deepEqual(back, values.map((value) => Math.f16round(value)));
});

test("storeRows() as q8 agrees with the definition, and loadRows() is its twin", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const values = randomValues(seed);
    const rowBytes = vectorByteLength("q8", COLS);
    const bytes = new Uint8Array(ROWS * rowBytes);
    storeRows("q8", values, { rows: ROWS, cols: COLS }, bytes);
    const back = new Float32Array(values.length);
    loadRows("q8", bytes, { rows: ROWS, cols: COLS }, back);
    const view = new DataView(bytes.buffer);
    for (let row = 0; row < ROWS; row++) {
      for (let block = 0; block < COLS / 32; block++) {
        const from = row * COLS + block * 32;
        const { scale, numbers } = quantizeBlock(values.subarray(from, from + 32));
        assert.equal(view.getFloat16(row * rowBytes + 2 * block, true), scale, `seed ${seed}`);
        numbers.forEach((number, index) => {
          const at = row * rowBytes + COLS / 16 + block * 32 + index;
          assert.equal(
            view.getInt8(at),
            number + 0,
            `seed ${seed}, row ${row}, ${block}, ${index}`,
          );
          assert.equal(back[from + index], Math.fround(scale * number) + 0);
        });
      }
    }
  }
});

test("storeRows() as q8 rounds ties to even, keeps zeros and clamps where a scale is subnormal", () => {
  const values = new Float32Array(128);
  values.set([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]); // Scale 1.
  values[32 + 5] = 1e-7 * 127; // The scale 1e-7 becomes the f16 1.19e-7: still fine.
  values[64] = 2 ** -24 * 127 * 1.49; // Scale 1.49 x 2^-24 rounds down to 2^-24: 189 is clamped.
  values[96] = 1e-30; // Scale 0.
  const bytes = new Uint8Array(vectorByteLength("q8", 128));
  storeRows("q8", values, { rows: 1, cols: 128 }, bytes);
  const numbers = new Int8Array(bytes.buffer, 8);
  assert.deepEqual([...numbers.subarray(0, 7)], [127, 0, 2, 2, 0, -2, -2]);
  assert.equal(numbers[32 + 5], 107); // 1.27e-5 / 2^-23 = 106.5...
  assert.equal(numbers[64], 127);
  assert.equal(numbers[96], 0);
});

test("q8 is never further away than half a step, and half a rounding of the scale", () => {
  const values = randomValues(99, 32 * 1000);
  const bytes = new Uint8Array(vectorByteLength("q8", values.length));
  const shape = { rows: 1, cols: values.length };
  storeRows("q8", values, shape, bytes);
  const back = new Float32Array(values.length);
  loadRows("q8", bytes, shape, back);
  const scales = new Float16Array(bytes.buffer, 0, 1000);
  for (let index = 0; index < values.length; index++) {
    const step = scales[index >> 5];
    assert.ok(Math.abs(values[index] - back[index]) <= step * (0.5 + 127 / 2048), String(index));
  }
});

/** q4 of one block as the documentation words it: slow, and with nothing shared with the code. */
function quantizeBlockQ4(values: Float32Array): { scale: number; numbers: number[] } {
  const most = Math.max(...Array.from(values, Math.abs));
  const extreme = values.find((value) => Math.abs(value) === most)!;
  const tries = [-8, -8.5, -7.5, -7].map((divisor) => {
    const view = new DataView(new ArrayBuffer(2));
    view.setFloat16(0, Math.fround(extreme / divisor));
    const scale = view.getFloat16(0);
    const numbers = Array.from(values, (value) => {
      if (scale === 0) return 0;
      const candidates = Array.from({ length: 16 }, (_, i) => i - 8);
      const distance = (n: number) => Math.abs(value / scale - n);
      const least = Math.min(...candidates.map(distance));
      const nearest = candidates.filter((n) => distance(n) === least);
      return nearest.find((n) => n % 2 === 0) ?? nearest[0];
    });
    const error = numbers.reduce((sum, n, i) => sum + (values[i] - scale * n) ** 2, 0);
    return { scale, numbers, error };
  });
  return tries.reduce((best, one) => one.error < best.error ? one : best);
}

test("storeRows() as q4 agrees with the definition, and loadRows() is its twin", () => {
  for (let seed = 1; seed <= 10; seed++) {
    const values = randomValues(seed);
    values.fill(0, 32, 64);
    values.fill(1e-9, 64, 96); // Its scale is 0, too.
    const rowBytes = vectorByteLength("q4", COLS);
    const bytes = new Uint8Array(ROWS * rowBytes);
    storeRows("q4", values, { rows: ROWS, cols: COLS }, bytes);
    const back = new Float32Array(values.length);
    loadRows("q4", bytes, { rows: ROWS, cols: COLS }, back);
    for (let row = 0; row < ROWS; row++) {
      for (let block = 0; block < COLS / 32; block++) {
        const from = row * COLS + block * 32;
        const { scale, numbers } = quantizeBlockQ4(values.subarray(from, from + 32));
        const scaleAt = row * rowBytes + 2 * block, at = row * rowBytes + COLS / 16 + 16 * block;
        const stored = new DataView(bytes.buffer).getFloat16(scaleAt, true);
        assert.ok(stored === scale, "zeros of either sign are one");
        numbers.forEach((n, i) => {
          const byte = bytes[at + (i & 15)], nibble = i < 16 ? byte & 15 : byte >> 4;
          assert.equal(nibble - 8, n);
          assert.ok(back[from + i] === n * scale);
        });
      }
    }
  }
});

test("storeRows() as q4 keeps numbers that are q4 already", () => {
  const random = seededRandom(4);
  for (const extreme of [-8, -7, 7]) {
    for (const scale of [0.25, -3, 2 ** -20]) {
      const numbers = Array.from({ length: 32 }, () => Math.floor(14 * random()) - 6);
      numbers[5] = extreme;
      const limited = numbers.map((n) =>
        Math.max(-Math.abs(extreme), Math.min(Math.abs(extreme), n))
      );
      const values = Float32Array.from(limited, (n) => Math.min(n, 7) * scale);
      const bytes = new Uint8Array(18), back = new Float32Array(32);
      storeRows("q4", values, { rows: 1, cols: 32 }, bytes);
      loadRows("q4", bytes, { rows: 1, cols: 32 }, back);
      assert.ok(back.every((value, i) => value === values[i]), `${extreme} x ${scale}`);
    }
  }
});

for (const quantization of QUANTIZATIONS) {
  test(`tileRows() puts each ${quantization} number where layout.ts draws it, untileRows() takes it back`, () => {
    const rows = { rows: ROWS, cols: COLS };
    const rowBytes = vectorByteLength(quantization, COLS);
    const source = new Uint8Array(ROWS * rowBytes);
    storeRows(quantization, randomValues(5), rows, source);
    const tiles = new Uint8Array(matrixByteLength(quantization, ROWS, COLS)).fill(0xaa);
    tileRows(quantization, source, rows, tiles);
    const back = new Uint8Array(source.byteLength);
    untileRows(quantization, tiles, rows, back);
    assert.deepEqual(back, source);
    const tileBytes = { f32: 1024, f16: 512, q8: 272, q4: 144 }[quantization];
    const size = { f32: 4, f16: 2, q8: 1, q4: 0.5 }[quantization];
    const scales = isBlocked(quantization) ? 16 : 0;
    const expected = new Uint8Array(tiles.byteLength);
    for (let row = 0; row < ROWS; row++) {
      for (let col = 0; col < COLS; col++) {
        const block = col >> 5;
        const tile = ((row >> 3) * (COLS / 32) + block) * tileBytes;
        const from = row * rowBytes + (scales === 0 ? 0 : COLS / 16);
        if (quantization === "q4") {
          const byte = source[from + 16 * block + (col & 15)];
          const nibble = (col & 16) === 0 ? byte & 15 : byte >> 4;
          const to = tile + 16 + 16 * ((col & 31) >> 2) + 4 * ((row & 7) >> 1) + (col & 3);
          expected[to] |= nibble << 4 * (row & 1);
        } else {
          const to = tile + scales + ((row & 7) * 32 + (col & 31)) * size;
          expected.set(source.subarray(from + col * size, from + (col + 1) * size), to);
        }
        if (scales === 0) continue;
        const scale = row * rowBytes + 2 * block;
        expected.set(source.subarray(scale, scale + 2), tile + 2 * (row & 7));
      }
    }
    assert.deepEqual(tiles, expected);

    // Rows that come in another order, in two runs, as those of bundles do.
    const order = Int32Array.from({ length: ROWS }, (_, i) => (i * 5) % ROWS);
    const scattered = new Uint8Array(tiles.byteLength);
    for (const [from, to] of [[0, 6], [6, ROWS]]) {
      const own = order.subarray(from, to), bytes = new Uint8Array(own.length * rowBytes);
      own.forEach((row, i) => {
        bytes.set(source.subarray(row * rowBytes, (row + 1) * rowBytes), i * rowBytes);
      });
      tileRows(quantization, bytes, { rows: own.length, cols: COLS }, scattered, own);
    }
    assert.deepEqual(scattered, expected);
  });

  test(`storeRows() writes ${quantization} halves of bundles and nothing beside them`, () => {
    const shape = { rows: 5, cols: 64 };
    const up = randomValues(1, 5 * 64);
    const down = randomValues(2, 5 * 64);
    const byteStride = bundleByteLength(quantization, 64);
    const half = vectorByteLength(quantization, 64);
    const bundles = new Uint8Array(5 * byteStride + 64).fill(0x55);
    storeRows(quantization, up, shape, bundles, { byteOffset: 0, byteStride });
    storeRows(quantization, down, shape, bundles, { byteOffset: half, byteStride });
    const expected = new Uint8Array(bundles.byteLength).fill(0x55);
    for (let row = 0; row < 5; row++) {
      for (const [values, offset] of [[up, 0], [down, half]] as const) {
        const one = new Uint8Array(half);
        const own = values.slice(row * 64, row * 64 + 64);
        storeRows(quantization, own, { rows: 1, cols: 64 }, one);
        expected.set(one, row * byteStride + offset);
      }
    }
    assert.deepEqual(bundles, expected);
  });
}

test("findUnstorable() finds what is not finite or too large", () => {
  const find = (quantization: Quantization, ...values: number[]) =>
    findUnstorable(quantization, Float32Array.from(values), values.length);
  assert.equal(find("f32", 1, 3.4e38, -3.4e38), -1);
  assert.equal(find("f32", 1, Infinity), 1);
  assert.equal(find("f32", NaN), 0);
  assert.equal(find("f16", 65504, 65519), -1); // 65519 rounds to 65504, 65520 would not.
  assert.equal(find("f16", 65504, -65520), 1);
  assert.equal(find("q8", 65504 * 127), -1);
  assert.equal(find("q8", 0, 0, 65520 * 127), 2);
  assert.equal(find("q4", 65504 * 7), -1);
  assert.equal(find("q4", 0, -65520 * 7), 1);
});
