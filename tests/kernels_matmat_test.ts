import assert from "node:assert/strict";
import { test } from "node:test";
import { matmatScratchByteLength, preparedByteLength } from "../src/kernels.ts";
import {
  matrixByteLength,
  type Quantization,
  QUANTIZATIONS,
  vectorByteLength,
} from "../src/format/layout.ts";
import { storeRows, tileRows } from "../src/format/quantize.ts";
import { bitsOf, BUILDS, floatsAt, KernelArena, kernelsOf } from "./kernel_arena.ts";
import { Random } from "./kernel_twins.ts";

/** A random matrix as tiles; a few numbers are so small that they are denormals in f16. */
function tiles(quantization: Quantization, random: Random, rows: number, cols: number) {
  const weights = random.vector(rows * cols, 0.05);
  for (let i = 0; i < weights.length; i += 37) weights[i] *= 2 ** -16;
  const bytes = new Uint8Array(rows * vectorByteLength(quantization, cols));
  storeRows(quantization, weights, { rows, cols }, bytes);
  const target = new Uint8Array(matrixByteLength(quantization, rows, cols));
  tileRows(quantization, bytes, { rows, cols }, target);
  return target;
}

interface Shape {
  rows: number;
  cols: number;
  /** How many of the positions are computed at once. */
  counts: readonly number[];
}

for (const build of BUILDS) {
  const kernels = kernelsOf(build);

  for (const quantization of QUANTIZATIONS) {
    const prepare = kernels.prepare[quantization], matvec = kernels.matvec[quantization];
    const matmat = kernels.matmat[quantization];

    /** Compares each position's y with that of matvec, bit for bit. */
    const compare = ({ rows, cols, counts }: Shape, odd?: (x: Float32Array, t: number) => void) => {
      const random = new Random(rows * cols);
      const arena = new KernelArena();
      const most = Math.max(...counts);
      const xStride = Math.ceil(preparedByteLength(cols) / 16) * 16 + 48;
      const yStride = 4 * rows + 32;
      const xs = arena.reserve(xStride * most);
      const y = arena.reserve(yStride * most);
      const bias = arena.floats(random.vector(rows, 0.1));
      const expected = arena.reserve(4 * rows);
      const scratch = arena.reserve(matmatScratchByteLength(cols), { align: 16 });
      const w = arena.atTheEnd(tiles(quantization, random, rows, cols));
      const truth = Array.from({ length: most }, (_, t) => {
        const x = random.vector(cols);
        odd?.(x, t);
        prepare(arena.floats(x), xs + t * xStride, cols);
        return [0, bias].map((b) => {
          matvec(w, xs + t * xStride, b, expected, 0, rows, cols);
          return bitsOf(floatsAt(expected, rows));
        });
      });
      const assertRows = (count: number, withBias: number, what: string) => {
        for (let t = 0; t < count; t++) {
          const bits = bitsOf(floatsAt(y + t * yStride, rows));
          assert.deepEqual(bits, truth[t][withBias], `${what}, position ${t} of ${count}`);
        }
      };
      for (const count of counts) {
        for (const [i, b] of [0, bias].entries()) {
          floatsAt(y, yStride * most / 4).fill(7);
          matmat(w, xs, xStride, count, b, y, yStride, 0, rows, cols, scratch);
          assertRows(count, i, `${rows} x ${cols}`);
          // What lies between and after the rows is nobody's.
          for (let t = 0; t < most; t++) {
            const rest = floatsAt(y + t * yStride, rows + 8).subarray(t < count ? rows : 0);
            assert(rest.every((value) => value === 7));
          }
        }
        // Rows in several calls.
        floatsAt(y, yStride * most / 4).fill(7);
        const cut = rows >> 4 << 3;
        matmat(w, xs, xStride, count, bias, y, yStride, cut, rows, cols, scratch);
        if (cut > 0) assert.equal(floatsAt(y, rows)[0], 7);
        matmat(w, xs, xStride, count, bias, y, yStride, 0, cut, cols, scratch);
        assertRows(count, 1, `${rows} x ${cols} in two calls`);
      }
      arena.assertCanaries();
    };

    test(`matmat has the bits of matvec, for any count (${quantization}, ${build})`, () => {
      const counts = Array.from({ length: 70 }, (_, i) => i + 1);
      compare({ rows: 16, cols: 96, counts });
      compare({ rows: 16, cols: 32, counts: [1, 7, 129, 256, 300, 512] });
    });

    test(`matmat has the bits of matvec, for any shape (${quantization}, ${build})`, () => {
      // Panels have 512 columns, and rows that stay in L2 are 32 or 64.
      for (const [rows, cols] of [[8, 512], [24, 544], [72, 1024], [136, 256], [8, 4128]]) {
        compare({ rows, cols, counts: [1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 40] });
      }
    });

    test(`matmat carries odd numbers as matvec does (${quantization}, ${build})`, () => {
      const odd = [NaN, Infinity, -Infinity, 1e-42, 0, 1e18, -1e-30];
      compare({ rows: 8, cols: 64, counts: [2, 7, 11, 12] }, (x, t) => {
        if (t < odd.length) x.fill(odd[t], 5, t % 2 === 0 ? 6 : 64);
      });
    });

    test(`matmat keeps its bits once it is optimized (${quantization}, ${build})`, () => {
      for (let i = 0; i < 20; i++) {
        compare({ rows: 64, cols: 128, counts: [2, 3, 4, 5, 6, 7, 8, 16] });
      }
    });
  }
}
