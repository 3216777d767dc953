/** The kernels of fitting against scalar twins, and the trainer's gradient against finite differences. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FitMemory } from "../src/fit/fit_memory.ts";
import { LogisticTrainer } from "../src/fit/logistic_trainer.ts";
import { Matmul } from "../src/fit/matmul.ts";
import { loadKernelModule } from "../src/kernels.ts";
import type { KernelBuild } from "../src/kernels.ts";
import { seededRandom } from "../src/random.ts";

const BUILDS: KernelBuild[] = ["relaxed", "plain"];

for (const build of BUILDS) {
  test(`Matmul.multiply() equals plain loops, ${build}`, () => {
    const random = seededRandom(1);
    const shapes = [[1, 8, 1], [5, 24, 7], [33, 8, 300], [261, 16, 20], [4, 520, 33], [
      12,
      40,
      513,
    ]];
    for (const [rows, cols, depth] of shapes) {
      for (const way of [0, 1, 2, 3]) {
        const leftTurned = (way & 1) === 1, rightTurned = (way & 2) === 2;
        const length = rows * depth + depth * cols + (rows + 4) * cols + 64;
        const memory = new FitMemory(loadKernelModule(build), 4 * (length + Matmul.length) + 4096);
        const matmul = new Matmul(memory);
        const left = memory.floats(rows * depth), right = memory.floats(depth * cols);
        const target = memory.floats((rows + 4) * cols);
        for (const { values } of [left, right, target]) {
          for (let k = 0; k < values.length; k++) values[k] = random() - 0.5;
        }
        const before = target.values.slice();
        matmul.multiply({
          rows,
          cols,
          depth,
          left: {
            address: left.address,
            stride: leftTurned ? rows : depth,
            transposed: leftTurned,
          },
          right: {
            address: right.address,
            stride: rightTurned ? depth : cols,
            transposed: rightTurned,
          },
          target: { address: target.address, stride: cols },
          accumulate: true,
        });
        for (let i = 0; i < rows; i++) {
          for (let j = 0; j < cols; j++) {
            let sum = before[i * cols + j];
            for (let k = 0; k < depth; k++) {
              sum += left.values[leftTurned ? k * rows + i : i * depth + k] *
                right.values[rightTurned ? j * depth + k : k * cols + j];
            }
            const found = target.values[i * cols + j];
            assert.ok(Math.abs(found - sum) < 1e-4, `${rows} x ${cols} x ${depth}, way ${way}`);
          }
        }
        // No more than the rows that fill the last panel are written.
        const end = Math.ceil(rows / 4) * 4 * cols;
        assert.deepEqual(target.values.slice(end), before.slice(end));
      }
    }
  });

  test(`logisticGradient() equals its twin from -100 to 100, ${build}`, () => {
    const rows = 3, n = 64, random = seededRandom(2);
    const memory = new FitMemory(loadKernelModule(build), 1 << 16);
    const scores = memory.floats(rows * n), bias = memory.floats(n), sums = memory.floats(n);
    const active = memory.words(rows * n / 32);
    scores.values.forEach((_, k) => scores.values[k] = 200 * (k / (rows * n)) - 100);
    scores.values[7] = 0;
    bias.values.forEach((_, i) => bias.values[i] = random() - 0.5);
    sums.values.fill(0.25);
    active.values.forEach((_, word) => active.values[word] = random() * 2 ** 32);
    const before = scores.values.slice();
    const positive = 30, negative = 0.5;
    memory.kernels.logisticGradient(
      scores.address,
      bias.address,
      active.address,
      sums.address,
      rows,
      n,
      positive,
      negative,
    );
    const expectedSums = new Float64Array(n).fill(0.25);
    for (let k = 0; k < rows * n; k++) {
      const x = Math.fround(before[k] + bias.values[k % n]);
      const isActive = (active.values[k >> 5] >>> (k & 31)) & 1;
      const expected = isActive ? -positive / (1 + Math.exp(x)) : negative / (1 + Math.exp(-x));
      expectedSums[k % n] += expected;
      // e^-87 is as small as it gets.
      const tolerance = 1e-6 * Math.abs(expected) + 1e-36;
      assert.ok(Math.abs(scores.values[k] - expected) <= tolerance, `x = ${x}`);
    }
    expectedSums.forEach((sum, i) => assert.ok(Math.abs(sums.values[i] - sum) < 1e-4));
  });
}

test("adamStep() equals its twin, and zeroes the gradient", () => {
  const count = 12, random = seededRandom(3);
  const memory = new FitMemory(loadKernelModule(), 1 << 16);
  const [weights, gradient, mean, square] = Array.from({ length: 4 }, () => {
    const block = memory.floats(count);
    block.values.forEach((_, k) => block.values[k] = random());
    return block;
  });
  const expected = Array.from({ length: count }, (_, k) => {
    const m = 0.9 * mean.values[k] + 0.1 * gradient.values[k];
    const v = 0.99 * square.values[k] + 0.01 * gradient.values[k] ** 2;
    return weights.values[k] - 0.1 * m / (Math.sqrt(v) + 1e-8);
  });
  memory.kernels.adamStep(
    weights.address,
    gradient.address,
    mean.address,
    square.address,
    count,
    0.1,
    0.9,
    0.99,
    1e-8,
  );
  expected.forEach((value, k) => assert.ok(Math.abs(weights.values[k] - value) < 1e-6));
  assert.deepEqual(gradient.values, new Float32Array(count));
});

const SIZES = { hiddenSize: 32, neuronCount: 32, rank: 32, batchSize: 8 };
const WEIGHTS = { positive: 3, negative: 0.5 };

/** A trainer with random numbers in its predictor and batch. */
function randomTrainer(seed: number): LogisticTrainer {
  const random = seededRandom(seed);
  const fill = (length: number, scale: number) =>
    Float32Array.from({ length }, () => scale * (random() - 0.5));
  const trainer = new LogisticTrainer(loadKernelModule(), SIZES);
  const { hiddenSize: d, neuronCount: n, rank } = SIZES;
  trainer.begin({ a: fill(rank * d, 1), b: fill(n * rank, 1), bias: fill(n, 1) });
  trainer.inputs.set(fill(trainer.inputs.length, 2));
  trainer.active.forEach((_, word) => trainer.active[word] = random() * 2 ** 32);
  return trainer;
}

/** The balanced cross-entropy of the batch in f64. */
function lossOf(
  { inputs, active }: LogisticTrainer,
  { a, b, bias }: Record<"a" | "b" | "bias", ArrayLike<number>>,
): number {
  const { hiddenSize: d, neuronCount: n, rank, batchSize } = SIZES;
  let loss = 0;
  for (let t = 0; t < batchSize; t++) {
    const hidden = Array.from({ length: rank }, (_, r) => {
      let sum = 0;
      for (let k = 0; k < d; k++) sum += a[r * d + k] * inputs[t * d + k];
      return sum;
    });
    for (let i = 0; i < n; i++) {
      let score = bias[i];
      for (let r = 0; r < rank; r++) score += b[i * rank + r] * hidden[r];
      const isActive = (active[(t * n + i) >> 5] >>> (i & 31)) & 1;
      loss += isActive
        ? WEIGHTS.positive * Math.log1p(Math.exp(-score))
        : WEIGHTS.negative * Math.log1p(Math.exp(score));
    }
  }
  return loss;
}

test("LogisticTrainer.computeGradient() agrees with finite differences of the loss", () => {
  const trainer = randomTrainer(4);
  trainer.computeGradient(WEIGHTS);
  const { predictor, gradient } = trainer, step = 1e-5;
  for (const name of ["a", "b", "bias"] as const) {
    for (let k = 0; k < predictor[name].length; k += 37) {
      const lossAt = (change: number) => {
        const moved = Float64Array.from(predictor[name]);
        moved[k] += change;
        return lossOf(trainer, { ...predictor, [name]: moved });
      };
      const expected = (lossAt(step) - lossAt(-step)) / (2 * step);
      const difference = Math.abs(gradient[name][k] - expected);
      assert.ok(difference < 1e-4 * (1 + Math.abs(expected)), `${name} ${k}: ${expected}`);
    }
  }
});

test("LogisticTrainer.train() lessens the loss, and goes on from a state with the same bits", () => {
  const trainer = randomTrainer(5), other = randomTrainer(5);
  const before = lossOf(trainer, trainer.predictor);
  const train = (one: LogisticTrainer) => one.train({ rate: 0.02, ...WEIGHTS });
  for (let step = 0; step < 10; step++) train(trainer);
  other.state = trainer.state;
  for (let step = 0; step < 10; step++) train(trainer), train(other);
  assert.ok(lossOf(trainer, trainer.predictor) < 0.8 * before);
  assert.equal(other.step, 20);
  assert.deepEqual(other.state, trainer.state);
});
