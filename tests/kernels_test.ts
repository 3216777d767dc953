import assert from "node:assert/strict";
import { test } from "node:test";
import {
  accumulatorByteLength,
  ACTIVATION,
  downScratchByteLength,
  instantiateKernels,
  type KernelBuild,
  type Kernels,
  loadKernelModule,
  MEMORY_PAGES_MAX,
  preparedByteLength,
  STATICS_BYTE_LENGTH,
} from "../src/kernels.ts";
import {
  matrixByteLength,
  type Quantization,
  QUANTIZATIONS,
  vectorByteLength,
} from "../src/format/layout.ts";
import { storePlanes } from "../src/format/bit_planes.ts";
import { loadRows, storeRows, tileRows } from "../src/format/quantize.ts";
import {
  attentionTwin,
  dotTwin,
  downTwin,
  expTwin,
  layerNormTwin,
  levelsTwin,
  planeScoreTwin,
  Random,
  softmaxTwin,
} from "./kernel_twins.ts";

/** The arena begins here, so that addresses do not fit into a signed i32. Pages that nobody touches cost nothing. */
const BASE = 2 ** 31 + STATICS_BYTE_LENGTH;
const memory = new WebAssembly.Memory({
  initial: BASE / 65536 + 512,
  maximum: MEMORY_PAGES_MAX,
  shared: true,
});

const BUILDS = ["plain", "relaxed"] as const;
const kernelsOf = Object.fromEntries(
  BUILDS.map((build) => [build, instantiateKernels(loadKernelModule(build), memory)]),
) as Record<KernelBuild, Kernels>;

/** Scratch for `down` of `cols` columns, which may hold anything; followed by a canary. */
function dirtyScratch(scratch: Scratch, cols: number): number {
  return scratch.bytes(new Uint8Array(downScratchByteLength(cols) + 32).fill(0xa5));
}

/** Nobody has written behind it. */
function assertCanary(downScratch: number, cols: number): void {
  const canary = new Uint8Array(memory.buffer, downScratch + downScratchByteLength(cols), 32);
  assert(canary.every((byte) => byte === 0xa5));
}

function assertZero(address: number, byteLength: number): void {
  assert(new Uint8Array(memory.buffer, address, byteLength).every((byte) => byte === 0));
}

/** Hands out addresses in the memory, anew in each test. */
class Scratch {
  #next = BASE;

  reserve(byteLength: number, { align = 64, offset = 0 } = {}): number {
    const address = Math.ceil(this.#next / align) * align + offset;
    this.#next = address + byteLength;
    assert(this.#next <= memory.buffer.byteLength);
    return address;
  }

  floats(values: ArrayLike<number>): number {
    const address = this.reserve(values.length * 4 + 16);
    floatsAt(address, values.length).set(values);
    return address;
  }

  words(values: ArrayLike<number>): number {
    const address = this.reserve(values.length * 4);
    new Uint32Array(memory.buffer, address, values.length).set(values);
    return address;
  }

  bytes(values: Uint8Array, place?: { align: number; offset: number }): number {
    const address = this.reserve(values.length, place);
    new Uint8Array(memory.buffer, address, values.length).set(values);
    return address;
  }
}

function floatsAt(address: number, length: number): Float32Array {
  return new Float32Array(memory.buffer, address, length);
}

/** The row bytes of each row of f32[rows][cols]. */
function rowBytes(
  quantization: Quantization,
  values: Float32Array<ArrayBuffer>,
  cols: number,
): Uint8Array<ArrayBuffer>[] {
  const length = vectorByteLength(quantization, cols);
  const rows = values.length / cols;
  const bytes = new Uint8Array(rows * length);
  storeRows(quantization, values, { rows, cols }, bytes);
  return Array.from({ length: rows }, (_, row) => bytes.slice(row * length, (row + 1) * length));
}

function tiled(quantization: Quantization, rows: Uint8Array[], cols: number): Uint8Array {
  const target = new Uint8Array(matrixByteLength(quantization, rows.length, cols));
  const source = Uint8Array.from(rows.flatMap((row) => [...row]));
  tileRows(quantization, source, { rows: rows.length, cols }, target);
  return target;
}

/** The plain build equals its twin bit for bit (any NaN equals any NaN); the relaxed one within a tolerance. */
function assertAgrees(
  build: KernelBuild,
  actual: Float32Array,
  expected: Float32Array,
  tolerance: number,
  what: string,
): void {
  assert.equal(actual.length, expected.length);
  for (let i = 0; i < actual.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    const agrees = Object.is(actual[i], expected[i]) ||
      (build === "relaxed" && (difference <= tolerance || actual[i] === expected[i]));
    assert(agrees, `${what}[${i}]: ${actual[i]} instead of ${expected[i]}`);
  }
}

function bits(values: Float32Array): number[] {
  return [...new Uint32Array(Float32Array.from(values).buffer)];
}

/** A weight matrix as tiles and as bundles of its own rows, with x prepared. */
function setUp(
  kernels: Kernels,
  quantization: Quantization,
  { rows, cols, x, weights }: {
    rows: number;
    cols: number;
    x: Float32Array;
    weights: Float32Array<ArrayBuffer>;
  },
) {
  const scratch = new Scratch();
  const bytes = rowBytes(quantization, weights, cols);
  const w = scratch.bytes(tiled(quantization, bytes, cols));
  const xp = scratch.reserve(preparedByteLength(cols));
  kernels.prepare[quantization](scratch.floats(x), xp, cols);
  // Bundles begin at every even address, not only at aligned ones.
  const addresses = bytes.map((row, i) => scratch.bytes(row, { align: 2, offset: 2 * (i % 3) }));
  const bias = new Random(7).vector(rows, 0.1);
  return { scratch, bytes, w, xp, addresses, bias, biasAt: scratch.floats(bias) };
}

for (const build of BUILDS) {
  const kernels = kernelsOf[build];

  for (const quantization of QUANTIZATIONS) {
    const name = `${quantization}, ${build}`;

    test(`matvec and up agree with dotTwin (${name})`, () => {
      for (const cols of [32, 64, 96, 256, 768, 2080, 4096, 4128]) {
        const random = new Random(cols);
        const rows = 24;
        const x = random.vector(cols);
        const weights = random.vector(rows * cols, 0.05);
        const t = setUp(kernels, quantization, { rows, cols, x, weights });
        const expected = Float32Array.from(
          t.bytes,
          (row, i) => dotTwin(quantization, row, x, t.bias[i]),
        );
        const y = t.scratch.reserve(rows * 4);
        kernels.matvec[quantization](t.w, t.xp, t.biasAt, y, 0, rows, cols);
        const whole = Float32Array.from(floatsAt(y, rows));
        assertAgrees(build, whole, expected, 2e-5, `y of ${cols} columns`);

        // The same rows in two calls: no bit changes.
        kernels.matvec[quantization](t.w, t.xp, t.biasAt, y, 8, rows, cols);
        kernels.matvec[quantization](t.w, t.xp, t.biasAt, y, 0, 8, cols);
        assert.deepEqual(bits(floatsAt(y, rows)), bits(whole));

        // Each row as a bundle: the same bits, in lists of any length, with and without an order.
        const relu = bits(whole.map((value) => Math.max(value, 0)));
        const order = Array.from({ length: rows }, (_, j) => (j * 5) % rows);
        for (const count of [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, rows]) {
          for (const orderAt of [0, t.scratch.words(order)]) {
            const activations = t.scratch.floats(new Float32Array(rows).fill(-1));
            const active = kernels.up[quantization](
              t.scratch.words(t.addresses.map((address) => address - 6)),
              t.scratch.words(Array.from({ length: rows }, (_, i) => i)),
              orderAt,
              rows - count,
              rows,
              6,
              t.xp,
              t.biasAt,
              activations,
              cols,
              ACTIVATION.relu,
              0,
            );
            const result = bits(floatsAt(activations, rows));
            const minusOne = bits(Float32Array.of(-1))[0];
            const entries = Array.from({ length: count }, (_, i) => rows - count + i)
              .map((j) => orderAt === 0 ? j : order[j]);
            for (let k = 0; k < rows; k++) {
              assert.equal(result[k], entries.includes(k) ? relu[k] : minusOne);
            }
            assert.equal(active, entries.filter((k) => relu[k] !== 0).length);
          }
        }
      }
    });

    test(`down and finishDown agree with downTwin (${name})`, () => {
      for (const cols of [32, 96, 256, 2080, 4096]) {
        for (const count of [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 33]) {
          const random = new Random(cols + count);
          const t = setUp(kernels, quantization, {
            rows: Math.max(count, 1),
            cols,
            x: new Float32Array(cols),
            weights: random.vector(Math.max(count, 1) * cols, 0.05),
          });
          const activations = random.vector(count, 2)
            .map((a) => random.below(4) === 0 ? 0 : Math.abs(a));
          const bias = random.vector(cols);
          const residual = random.vector(cols);
          const addresses = t.addresses.map((address) => address - 34);
          const accumulator = t.scratch.reserve(accumulatorByteLength(quantization, cols));
          kernels.zero(accumulator, accumulatorByteLength(quantization, cols));
          const downScratch = dirtyScratch(t.scratch, cols);
          const residualAt = t.scratch.floats(residual);
          /** The list in passes of `length`, the columns in parts of `width`. */
          const run = (length: number, width: number): Float32Array => {
            floatsAt(residualAt, cols).set(residual);
            for (let from = 0; from < count; from += length) {
              const part = { from, to: Math.min(from + length, count) };
              const addressesAt = t.scratch.words(addresses.slice(part.from, part.to));
              const activationsAt = t.scratch.floats(activations.slice(part.from, part.to));
              for (let col = 0; col < cols; col += width) {
                const colTo = Math.min(col + width, cols);
                kernels.down[quantization](
                  addressesAt,
                  34,
                  activationsAt,
                  part.to - part.from,
                  accumulator,
                  col,
                  colTo,
                  cols,
                  downScratch,
                );
              }
            }
            const biasAt = t.scratch.floats(bias);
            for (let col = 0; col < cols; col += width) {
              const colTo = Math.min(col + width, cols);
              kernels.finishDown[quantization](accumulator, biasAt, residualAt, col, colTo, cols);
            }
            assertZero(accumulator, accumulatorByteLength(quantization, cols));
            return Float32Array.from(floatsAt(residualAt, cols));
          };
          const whole = run(count + 1, cols);
          const expected = downTwin(
            quantization,
            t.bytes.slice(0, count),
            activations,
            bias,
            residual,
          );
          assertAgrees(build, whole, expected, 1e-5, `${count} neurons, residual`);
          assert.deepEqual(bits(run(3, 32)), bits(whole));
          assert.deepEqual(bits(run(7, 1024)), bits(whole));
          assertCanary(downScratch, cols);
        }
      }
    });

    test(`kernels carry odd numbers to the result (${name})`, () => {
      const cols = 64;
      const rows = 8;
      const random = new Random(3);
      const weights = random.vector(rows * cols, 2); // q8: each block reaches 127 or -127.
      const y = (x: Float32Array): Float32Array => {
        const t = setUp(kernels, quantization, { rows, cols, x, weights });
        const address = t.scratch.reserve(rows * 4);
        kernels.matvec[quantization](t.w, t.xp, 0, address, 0, rows, cols);
        const result = Float32Array.from(floatsAt(address, rows));
        const expected = Float32Array.from(t.bytes, (row) => dotTwin(quantization, row, x));
        const size = expected.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
        assertAgrees(build, result, expected, size * 1e-5, "y");
        return result;
      };
      assert.deepEqual(y(new Float32Array(cols)), new Float32Array(rows));
      assert.deepEqual(y(new Float32Array(cols).fill(1e-42)), new Float32Array(rows));
      for (const odd of [NaN, Infinity]) {
        const result = y(random.vector(cols).fill(odd, 5, 6));
        assert(result.every((value) => !Number.isFinite(value)));
      }
      y(random.vector(cols, 1e18));
      weights.fill(1); // q8: every byte is 127, and every i16 below is 32767.
      y(new Float32Array(cols).fill(3));
      y(new Float32Array(cols).fill(-3));
      y(random.vector(cols).map((value, i) => i % 2 === 0 ? value : value * 1e-30));
      y(new Float32Array(cols).fill(1e-10));
    });

    test(`up and down keep NaN (${name})`, () => {
      const cols = 32;
      const x = new Float32Array(cols).fill(NaN);
      const weights = new Random(5).vector(cols);
      const t = setUp(kernels, quantization, { rows: 1, cols, x, weights });
      const addresses = t.scratch.words(t.addresses);
      const neurons = t.scratch.words([0]);
      const activations = t.scratch.floats([0]);
      assert.equal(
        kernels.up[quantization](addresses, neurons, 0, 0, 1, 0, t.xp, 0, activations, cols, 0, 0),
        1,
      );
      assert(Number.isNaN(floatsAt(activations, 1)[0]));
      const accumulator = t.scratch.reserve(accumulatorByteLength(quantization, cols));
      kernels.zero(accumulator, accumulatorByteLength(quantization, cols));
      const residual = t.scratch.floats(new Float32Array(cols));
      const downScratch = dirtyScratch(t.scratch, cols), down = kernels.down[quantization];
      down(addresses, 0, activations, 1, accumulator, 0, cols, cols, downScratch);
      kernels.finishDown[quantization](accumulator, 0, residual, 0, cols, cols);
      assert(floatsAt(residual, cols).every(Number.isNaN));
    });

    test(`embedRow gives a row's numbers (${name})`, () => {
      const [rows, cols] = [16, 96];
      const weights = new Random(9).vector(rows * cols);
      const t = setUp(kernels, quantization, { rows, cols, x: new Float32Array(cols), weights });
      const y = t.scratch.reserve(cols * 4);
      for (const row of [0, 7, 8, 13]) {
        kernels.embedRow[quantization](t.w, row, y, cols);
        const unit = (c: number) => new Float32Array(cols).fill(1, c, c + 1);
        for (let c = 0; c < cols; c++) {
          const expected = dotTwin(quantization, t.bytes[row], unit(c));
          const actual = floatsAt(y, cols)[c];
          // For q8 the twin multiplies by x = 32767 * (1 / 32767), which is not quite 1.
          assert(Math.abs(actual - expected) <= Math.abs(expected) * 2e-7, `${row} ${c}`);
        }
      }
    });
  }

  for (const quantization of ["q8", "q4"] as const) {
    test(`${quantization} down sums are exact: order, passes and lanes never matter, nor does their number (${build})`, () => {
      const random = new Random(17);
      const [rows, cols, count] = [24, 96, 3000];
      const weights = random.vector(rows * cols, 0.05);
      weights.fill(0.05, 0, 8 * cols); // Sums of these grow fastest: 127 or -8 in each column.
      const t = setUp(kernels, quantization, { rows, cols, x: new Float32Array(cols), weights });
      // Most neurons share two grids, whose i32 must be carried several times; the others lie on all grids there are.
      const entries = Array.from({ length: count }, (_, k) => {
        const size = random.below(8) > 0 ? 2 ** random.below(2) : 2 ** (random.below(80) - 50);
        return { row: k % rows, activation: Math.fround((1 + random.below(1000) / 1000) * size) };
      });
      const accumulator = t.scratch.reserve(accumulatorByteLength(quantization, cols));
      kernels.zero(accumulator, accumulatorByteLength(quantization, cols));
      const downScratch = dirtyScratch(t.scratch, cols);
      const residualAt = t.scratch.reserve(cols * 4);
      const listAt = t.scratch.reserve(8 * count);
      const run = (list: typeof entries, width: number, passLength: () => number) => {
        floatsAt(residualAt, cols).fill(0);
        for (let from = 0; from < count;) {
          const pass = list.slice(from, from += passLength());
          new Uint32Array(memory.buffer, listAt, pass.length)
            .set(pass.map(({ row }) => t.addresses[row]));
          const activationsAt = listAt + 4 * pass.length;
          floatsAt(activationsAt, pass.length).set(pass.map(({ activation }) => activation));
          for (let col = 0; col < cols; col += width) {
            const n = pass.length;
            kernels.down[quantization](
              listAt,
              0,
              activationsAt,
              n,
              accumulator,
              col,
              col + width,
              cols,
              downScratch,
            );
          }
        }
        for (let col = 0; col < cols; col += width) {
          kernels.finishDown[quantization](accumulator, 0, residualAt, col, col + width, cols);
        }
        return Float32Array.from(floatsAt(residualAt, cols));
      };
      const whole = run(entries, cols, () => count);
      const shuffled = entries.map((entry) => ({ entry, key: random.below(1 << 30) }))
        .sort((a, b) => a.key - b.key).map(({ entry }) => entry);
      assert.deepEqual(bits(run(shuffled, cols, () => count)), bits(whole));
      assert.deepEqual(
        bits(run(entries.toReversed(), 32, () => 1 + random.below(40))),
        bits(whole),
      );
      assert.deepEqual(bits(run(shuffled, 32, () => 1 + random.below(900))), bits(whole));
      assertZero(accumulator, accumulatorByteLength(quantization, cols));
      assertCanary(downScratch, cols);

      const expected = downTwin(
        quantization,
        entries.map(({ row }) => t.bytes[row]),
        Float32Array.from(entries, ({ activation }) => activation),
        undefined,
        new Float32Array(cols),
      );
      // Integers have no runtime's rounding: here the relaxed build, too, has the twin's bits.
      assert.deepEqual(bits(whole), bits(expected));
    });

    test(`${quantization} down leaves the books of a column alone to whom no column belongs (${build})`, () => {
      const random = new Random(29), rows = 40, cols = 64;
      const weights = random.vector(rows * cols, 0.05);
      const t = setUp(kernels, quantization, { rows, cols, x: new Float32Array(cols), weights });
      const byteLength = accumulatorByteLength(quantization, cols);
      const accumulator = t.scratch.reserve(byteLength), residualAt = t.scratch.reserve(4 * cols);
      kernels.zero(accumulator, byteLength);
      const addressesAt = t.scratch.words(t.addresses);
      const activationsAt = t.scratch.floats(new Float32Array(rows).fill(1));
      const downScratch = dirtyScratch(t.scratch, cols);
      const down = (from: number, to: number) =>
        kernels.down[quantization](
          ...[
            addressesAt,
            0,
            activationsAt,
            rows,
            accumulator,
            from,
            to,
            cols,
            downScratch,
          ] as const,
        );
      const sums = () => new Uint8Array(memory.buffer, accumulator, byteLength).slice();
      for (const column of [0, 32, 64]) down(column, column);
      assertZero(accumulator, byteLength);
      down(0, cols);
      const before = sums();
      for (const column of [0, 32, 64]) {
        down(column, column);
        kernels.finishDown[quantization](accumulator, 0, residualAt, column, column, cols);
      }
      assert.deepEqual(sums(), before);
    });

    test(`${quantization} down sums are near those of f64 (${build})`, () => {
      const random = new Random(23);
      const [rows, cols] = [400, 96];
      const weights = random.vector(rows * cols, 0.05);
      const t = setUp(kernels, quantization, { rows, cols, x: new Float32Array(cols), weights });
      const columns = new Float32Array(rows * cols);
      const source = Uint8Array.from(t.bytes.flatMap((bytes) => [...bytes]));
      loadRows(quantization, source, { rows, cols }, columns);
      const activations = random.vector(rows, 2).map(Math.abs);
      const accumulator = t.scratch.reserve(accumulatorByteLength(quantization, cols));
      kernels.zero(accumulator, accumulatorByteLength(quantization, cols));
      const residualAt = t.scratch.floats(new Float32Array(cols));
      const [addressesAt, activationsAt] = [
        t.scratch.words(t.addresses),
        t.scratch.floats(activations),
      ];
      const downScratch = dirtyScratch(t.scratch, cols), down = kernels.down[quantization];
      down(addressesAt, 0, activationsAt, rows, accumulator, 0, cols, cols, downScratch);
      kernels.finishDown[quantization](accumulator, 0, residualAt, 0, cols, cols);
      for (let c = 0; c < cols; c++) {
        let [sum, squares, error] = [0, 0, floatsAt(residualAt, cols)[c]];
        activations.forEach((activation, k) => {
          const product = activation * columns[k * cols + c];
          sum += product;
          squares += product * product;
        });
        error = Math.abs(error - sum) / Math.sqrt(squares);
        // Rounding weights makes an error of 2^-8 (q8) or 2^-4 (q4) on average. The largest one here, of 96 columns, is
        // 2^-11 or 2^-6.
        const bound = quantization === "q8" ? 2 ** -10 : 2 ** -5;
        assert(error < bound, `column ${c}: ${error} of the sum's usual size`);
      }
    });
  }

  test(`layerNorm agrees with its twin (${build})`, () => {
    for (const n of [32, 256, 4096]) {
      const random = new Random(n);
      const scratch = new Scratch();
      const [x, weight, bias] = [random.vector(n, 3), random.vector(n), random.vector(n)];
      const y = scratch.floats(x);
      kernels.layerNorm(y, scratch.floats(weight), scratch.floats(bias), y, n, 1e-5);
      const expected = layerNormTwin(x, weight, bias, 1e-5);
      assertAgrees(build, floatsAt(y, n), expected, 1e-4, `layerNorm of ${n}`);
    }
  });

  test(`softmax agrees with its twin, and exp with Math.exp (${build})`, () => {
    for (const n of [1, 2, 3, 4, 5, 31, 1000]) {
      const scratch = new Scratch();
      const x = new Random(n).vector(n, 20);
      const address = scratch.floats(x);
      kernels.softmax(address, n);
      assertAgrees(build, floatsAt(address, n), softmaxTwin(x), 1e-6, `softmax of ${n}`);
    }
    const scratch = new Scratch();
    for (let x = 0; x > -87; x -= 0.0371) {
      const number = Math.fround(x);
      // Beside a zero, softmax divides e^x by 1 + e^x. For small e^x that says e^x itself.
      const address = scratch.floats([0, number, 0, 0]);
      kernels.softmax(address, 2);
      const expected = Math.exp(number) / (1 + Math.exp(number));
      assert(Math.abs(floatsAt(address, 2)[1] / expected - 1) < 3e-7, `exp of ${number}`);
      assert(Math.abs(expTwin(number) / Math.exp(number) - 1) < 2e-7, `expTwin of ${number}`);
    }
  });

  test(`attentionHead agrees with its twin (${build})`, () => {
    for (const headDim of [4, 16, 20, 64, 80, 128]) {
      for (const count of [1, 2, 3, 4, 5, 50]) {
        const random = new Random(headDim + count);
        const scratch = new Scratch();
        const q = random.vector(headDim);
        const [keys, values] = [random.vector(count * headDim), random.vector(count * headDim)];
        const out = scratch.reserve(headDim * 4);
        kernels.attentionHead(
          scratch.floats(q),
          scratch.floats(keys),
          scratch.floats(values),
          out,
          scratch.reserve(count * 4 + 16),
          headDim,
          count,
          0.125,
        );
        const expected = attentionTwin(q, keys, values, 0.125);
        assertAgrees(build, floatsAt(out, headDim), expected, 1e-5, `head of ${headDim}`);
      }
    }
  });

  test(`thresholdMask and activeMask set the bits of positive and NaN rows (${build})`, () => {
    const scratch = new Scratch();
    const rows = 128;
    const random = new Random(11);
    const scores = random.vector(rows).fill(NaN, 70, 71).fill(0, 3, 5);
    const bias = random.vector(rows, 0.1).fill(0, 3, 5);
    const mask = scratch.words([9, 9, 9, 9]);
    const readMask = () => [...new Uint32Array(memory.buffer, mask, 4)];
    const maskOf = (values: Float32Array) => {
      const words = [0, 0, 0, 0];
      values.forEach((value, row) => value <= 0 || (words[row >> 5] |= 1 << (row & 31)));
      return words.map((word) => word >>> 0);
    };
    const sums = scores.map((score, row) => score + bias[row]);
    const [scoresAt, biasAt] = [scratch.floats(scores), scratch.floats(bias)];
    const countIn = (from: number, to: number) =>
      sums.slice(from, to).filter((value) => !(value <= 0)).length;
    assert.equal(kernels.thresholdMask(scoresAt, biasAt, mask, 32, rows), countIn(32, rows));
    assert.equal(readMask()[0], 9);
    assert.equal(kernels.thresholdMask(scoresAt, biasAt, mask, 0, 32), countIn(0, 32));
    assert.deepEqual(readMask(), maskOf(sums));
    const values = scratch.floats(sums);
    assert.equal(
      kernels.activeMask(values, mask, 0, rows, ACTIVATION.relu, 0, 0),
      countIn(0, rows),
    );
    assert.deepEqual(readMask(), maskOf(sums));
    assertAgrees("plain", floatsAt(values, rows), sums.map((v) => Math.max(v, 0)), 0, "relu");
  });

  test(`preparePlanes and planeScores equal their twin, bit for bit (${build})`, () => {
    const random = new Random(12);
    const rows = 48;
    for (const bits of [1, 2, 3, 4]) {
      for (const cols of [32, 96, 2048, 4128]) {
        const scratch = new Scratch();
        const [x, mean] = [random.vector(cols, 3), random.vector(cols, 0.5)];
        const weights = Int8Array.from(
          { length: rows * cols },
          () => 2 * random.below(2 ** bits) + 1 - 2 ** bits,
        );
        const rowScales = random.vector(rows);
        const inputs = [
          x,
          x.map((value) => Math.sign(value) * 9), // Most levels are 15 or near: the largest sums.
          mean, // Nothing but the mean: no scale.
          x.map((value, c) => c === 7 ? NaN : value),
          x.map((value, c) => c === 7 ? Infinity : value),
        ];
        // Where all signs agree, sums are as large as they can be.
        weights.forEach((_, i) =>
          i < cols && (weights[i] = Math.sign(x[i] || 1) * (2 ** bits - 1))
        );
        const planes = scratch.bytes(storePlanes(weights, { rows, cols, bits }));
        const [meanAt, scalesAt] = [scratch.floats(mean), scratch.floats(rowScales)];
        const tables = scratch.reserve(preparedByteLength(cols));
        for (const input of inputs) {
          kernels.preparePlanes(scratch.floats(input), meanAt, tables, cols);
          const y = scratch.floats(new Float32Array(rows).fill(77));
          kernels.planeScores(planes, tables, scalesAt, y, 16, rows, bits, cols);
          assert.equal(floatsAt(y, 16)[3], 77);
          kernels.planeScores(planes, tables, scalesAt, y, 0, 16, bits, cols);
          const seen = levelsTwin(input, mean);
          const expected = rowScales.map((scale, row) =>
            planeScoreTwin(weights.subarray(row * cols, (row + 1) * cols), seen, scale)
          );
          assertAgrees("plain", floatsAt(y, rows), expected, 0, `${bits} bits, ${cols} columns`);
        }
      }
    }
  });

  test(`add, copy, zero, gather and argmax (${build})`, () => {
    const scratch = new Scratch();
    const values = scratch.floats([1, 5, 2, 5, NaN, -1, 0, 3]);
    assert.equal(kernels.argmax(values, 8), 1);
    const out = scratch.floats(new Float32Array(8));
    kernels.gather(values, scratch.words([7, 1, 0, 2]), out, 1, 4);
    assert.deepEqual([...floatsAt(out, 4)], [0, 5, 1, 2]);
    kernels.add(out, out, 0, 4);
    assert.deepEqual([...floatsAt(out, 5)], [0, 10, 2, 4, 0]);
    kernels.copy(out, values, 8);
    kernels.zero(out + 4, 8);
    assert.deepEqual([...floatsAt(out, 4)], [1, 0, 0, 4]);
  });
}
