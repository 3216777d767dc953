import assert from "node:assert/strict";
import { test } from "node:test";
import { cholesky, solveLowerRows, solveRowsLower } from "../src/fit/cholesky.ts";
import { chooseRanks, predictorByteLength } from "../src/fit/choose_ranks.ts";
import { finishLayer, fitClosedForm, prepareLayer } from "../src/fit/closed_form.ts";
import { columnsOf, multiplyTransposed, rowsOf } from "../src/fit/matrix_product.ts";
import { heldOutActive, type LayerObservations } from "../src/fit/observations.ts";
import { topEigenvectors } from "../src/fit/symmetric_eigen.ts";
import { seededRandom } from "../src/random.ts";

const D = 64, N = 96, FIT = 600, HELD_OUT = 300;

/** About normal, deviation 1. */
function normal(random: () => number): number {
  let sum = -6;
  for (let k = 0; k < 12; k++) sum += random();
  return sum;
}

/** Inputs of which the first `factorCount` directions explain most; a layer in which about a tenth is active. */
function randomLayer(seed: number, factorCount = D): LayerObservations {
  const random = seededRandom(seed);
  const fill = (length: number, scale: number) =>
    Float32Array.from({ length }, () => scale * normal(random));
  const mixing = fill(D * factorCount, 1 / Math.sqrt(factorCount));
  const positionCount = FIT + HELD_OUT;
  const inputs = fill(positionCount * D, factorCount === D ? 0 : 0.05);
  multiplyInto(inputs, fill(positionCount * factorCount, 1), mixing, factorCount);
  const noise = fill(inputs.length, 0.2);
  return {
    hiddenSize: D,
    neuronCount: N,
    up: fill(N * D, 1 / Math.sqrt(D)),
    upBias: fill(N, 0.3).map((bias) => bias - 1.3),
    inputs,
    // Another mean and some noise: what a look from further away sees.
    earlyInputs: inputs.map((value, k) => value + noise[k] + 0.1 * (k % D)),
    fitCount: FIT,
  };
}

function multiplyInto(
  target: Float32Array,
  factors: Float32Array,
  mixing: Float32Array,
  depth: number,
) {
  const count = factors.length / depth;
  multiplyTransposed(rowsOf(factors, count, depth), rowsOf(mixing, D, depth), target, {
    depth,
    accumulate: true,
  });
}

test("multiplyTransposed() equals plain loops, for shapes that fill no tile", () => {
  const random = seededRandom(2);
  for (const [m, n, depth] of [[1, 1, 1], [5, 7, 3], [9, 261, 300], [4, 8, 257]]) {
    const a = Float32Array.from({ length: m * depth }, random);
    const b = Float64Array.from({ length: n * depth }, random);
    const product = new Float64Array(m * n).fill(1);
    multiplyTransposed(rowsOf(a, m, depth), columnsOf(b, n), product, { depth, accumulate: true });
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 1;
        for (let k = 0; k < depth; k++) sum += a[i * depth + k] * b[k * n + j];
        assert.ok(Math.abs(product[i * n + j] - sum) < 1e-9);
      }
    }
  }
});

test("cholesky() factors, and its solvers undo the factor", () => {
  const random = seededRandom(3);
  const size = 20;
  const rows = Float64Array.from({ length: size * size }, random);
  const matrix = new Float64Array(size * size);
  const operand = rowsOf(rows, size, size);
  multiplyTransposed(operand, operand, matrix, { depth: size });
  const lower = cholesky(matrix, size);
  const solved = rows.slice();
  solveLowerRows(lower, solved, { size, width: size });
  const gram = new Float64Array(size * size);
  multiplyTransposed(rowsOf(solved, size, size), rowsOf(solved, size, size), gram, { depth: size });
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      assert.ok(Math.abs(gram[i * size + j] - (i === j ? 1 : 0)) < 1e-6);
    }
  }
  const left = rows.slice();
  solveRowsLower(lower, left, { count: size, size });
  const back = new Float64Array(size * size);
  multiplyTransposed(rowsOf(left, size, size), columnsOf(lower, size), back, { depth: size });
  back.forEach((value, k) => assert.ok(Math.abs(value - rows[k]) < 1e-6));
  assert.throws(() => cholesky(new Float64Array([1, 2, 2, 1]), 2), RangeError);
});

test("topEigenvectors() finds a planted space, directly and by iteration", () => {
  for (const size of [96, 640]) {
    const random = seededRandom(size);
    const count = 8;
    // H diag H with a Householder reflection H, whose columns are then the eigenvectors.
    const mirror = Float64Array.from({ length: size }, () => random() - 0.5);
    const norm = Math.hypot(...mirror);
    const reflection = (i: number, j: number) =>
      (i === j ? 1 : 0) - 2 * (mirror[i] / norm) * (mirror[j] / norm);
    const columns = Float64Array.from({ length: size * size }, (_, k) => {
      const value = k % size < count ? 100 - 10 * (k % size) : 0.01 * (k % size) / size;
      return Math.sqrt(value) * reflection(Math.floor(k / size), k % size);
    });
    const matrix = new Float64Array(size * size);
    const operand = rowsOf(columns, size, size);
    multiplyTransposed(operand, operand, matrix, { depth: size });
    const vectors = topEigenvectors(matrix, { size, count });
    for (let v = 0; v < count; v++) {
      for (let k = 0; k < size; k++) {
        const expected = Math.abs(reflection(k, v));
        assert.ok(Math.abs(Math.abs(vectors[v * size + k]) - expected) < 1e-5, `${size}: ${v}`);
      }
    }
  }
});

test("fitClosedForm() with full rank finds what is active, and nearly nothing else", () => {
  const layer = randomLayer(5);
  const basis = prepareLayer(layer, { rankMax: D, recallWanted: 0.999 });
  const { measured } = finishLayer(layer, basis, D, { recallWanted: 0.999 });
  assert.ok(measured.recall >= 0.999, `recall ${measured.recall}`);
  // The rest is what rounding to q8 costs.
  assert.ok(measured.precision > 0.95, `precision ${measured.precision}`);
  assert.ok(measured.activeShare > 0.03 && measured.activeShare < 0.3);
});

test("fitClosedForm() reaches the recall asked for, and predicts fewer with more ranks", () => {
  const layer = randomLayer(6);
  for (const recallWanted of [0.9, 0.98]) {
    const basis = prepareLayer(layer, { rankMax: D, recallWanted });
    const small = finishLayer(layer, basis, 32, { recallWanted });
    const large = finishLayer(layer, basis, 64, { recallWanted });
    assert.ok(small.measured.recall >= recallWanted);
    assert.ok(large.measured.recall >= recallWanted);
    assert.ok(large.measured.predictedShare < small.measured.predictedShare);
    // Thresholds aim higher: other text has more misses.
    const allowed = 1 - recallWanted, misses = 1 - small.measured.recall;
    assert.ok(misses > 0.5 * allowed, "not many more than was asked for");
  }
});

test("fitClosedForm() needs no more rank than the inputs have", () => {
  const layer = randomLayer(7, 16);
  const basis = prepareLayer(layer, { rankMax: D });
  const [at32, at64] = basis.predictedShares;
  assert.ok(at32 < 1.2 * at64, `${at32} at rank 32, ${at64} at rank 64`);
});

test("finishLayer() measures what its own matrices and biases predict", () => {
  const layer = randomLayer(8);
  const [{ a, b, bias, earlyBias, rank, measured, missCurve }] = fitClosedForm([layer], {
    rankMax: 32,
    byteLimit: 1e6,
  }).layers;
  const active = heldOutActive(layer);
  const count = (inputs: Float32Array, limits: Float32Array) => {
    let predicted = 0, found = 0;
    for (let t = 0; t < HELD_OUT; t++) {
      const x = inputs.subarray((FIT + t) * D, (FIT + t + 1) * D);
      const hidden = Array.from({ length: rank }, (_, r) => dot(a, r * D, x));
      for (let i = 0; i < N; i++) {
        if (dot(b, i * rank, hidden) + limits[i] <= 0) continue;
        predicted++;
        found += (active[t * 3 + (i >>> 5)] >>> (i & 31)) & 1;
      }
    }
    return { predicted, found };
  };
  const pairCount = HELD_OUT * N;
  const activeCount = measured.activeShare * pairCount;
  const late = count(layer.inputs, bias);
  assert.ok(Math.abs(late.predicted - measured.predictedShare * pairCount) <= 2);
  assert.ok(Math.abs(late.found - measured.recall * activeCount) <= 2);
  const early = count(layer.earlyInputs!, earlyBias);
  assert.ok(Math.abs(early.predicted - measured.earlyPredictedShare * pairCount) <= 2);
  assert.ok(Math.abs(early.found - measured.earlyRecall * activeCount) <= 2);
  assert.ok(measured.earlyFound > 0.5, "an early look at nearly the same finds most");
  assert.equal(missCurve.missesPerToken.at(-1), 0);
});

function dot(rows: Float32Array, from: number, x: ArrayLike<number>): number {
  let sum = 0;
  for (let k = 0; k < x.length; k++) sum += rows[from + k] * x[k];
  return sum;
}

test("fitClosedForm() takes the active neurons it is given, and finds the same itself", () => {
  const layer = randomLayer(9);
  const options = { rankMax: 32, byteLimit: 1e6 };
  const own = fitClosedForm([layer], options);
  const given = fitClosedForm([{ ...layer, heldOutActive: heldOutActive(layer) }], options);
  assert.deepEqual(own, given);
});

test("fitClosedForm() keeps to the byte limit and names what does not fit", () => {
  const layers = [randomLayer(10), randomLayer(11, 16)];
  const least = 2 * predictorByteLength({ hiddenSize: D, neuronCount: N }, 32);
  const step = predictorByteLength({ hiddenSize: D, neuronCount: N }, 64) - least / 2;
  const ranksWith = (byteLimit: number) =>
    fitClosedForm(layers, { rankMax: D, byteLimit }).layers.map((layer) => layer.rank);
  assert.deepEqual(ranksWith(least), [32, 32]);
  // The second layer's inputs have rank 16, so the first needs the bytes.
  assert.deepEqual(ranksWith(least + step), [64, 32]);
  assert.throws(() => ranksWith(least - 1), /more are needed/);
  assert.throws(() => fitClosedForm([{ ...layers[0], fitCount: 900 }]), /held out/);
  assert.throws(() => fitClosedForm([{ ...layers[0], upBias: new Float32Array(3) }]), /upBias/);
  assert.throws(() => prepareLayer(layers[0], { rankMax: 40 }), /rankMax/);
  const broken = layers[0].inputs.slice();
  broken[5] = NaN;
  assert.throws(() => fitClosedForm([{ ...layers[0], inputs: broken }]), /not finite/);
});

test("chooseRanks() weighs reads: a layer that the cache holds anyway needs no good predictor", () => {
  const curve = (scale: number) => ({
    slots: [0, 10, 100],
    missesPerToken: [scale, scale / 50, 0],
  });
  const spread = (scale: number) => ({ slots: [0, 100], missesPerToken: [scale, 0] });
  const shape = { hiddenSize: 32, neuronCount: 100, predictedShares: [0.5, 0.2] };
  const local = { ...shape, missCurves: [curve(50), curve(20)] };
  const scattered = {
    ...shape,
    predictedShares: [0.4, 0.2],
    missCurves: [spread(40), spread(20)],
  };
  const byteLimit = predictorByteLength(shape, 32) + predictorByteLength(shape, 64);
  const options = { byteLimit, cacheShares: [0.3] };
  assert.deepEqual(chooseRanks([local, scattered], options), [32, 64]);
});
