import assert from "node:assert/strict";
import { test } from "node:test";
import { coActivationStrength } from "../src/simulate/co_activation_strength.ts";
import { seededRandom } from "../src/random.ts";
import { deviate, NoisePool, randomFor, shuffled } from "../src/synth/noise.ts";
import { exceededWith, normalDensity } from "../src/synth/normal.ts";
import { Blueprint } from "../src/synth/blueprint.ts";
import {
  activationEnergy,
  activeShare,
  PAPER,
  squaredActivationEnergy,
  thresholdsOf,
} from "../src/synth/planted.ts";
import { configOf } from "../src/synth/shape_config.ts";
import { shapeNamed } from "../src/synth/shapes.ts";
import { SpreadBasis } from "../src/synth/spread_basis.ts";

test("exceededWith() inverts the normal distribution", () => {
  // Tables of the normal distribution.
  const rows = [[0.5, 0], [0.158655, 1], [0.0227501, 2], [0.00134990, 3], [0.841345, -1]];
  for (const [probability, x] of rows) {
    assert.ok(Math.abs(exceededWith(probability) - x) < 1e-4, `${probability}`);
  }
});

test("activationEnergy() is the mean square above a threshold, squaredActivationEnergy() the mean fourth power", () => {
  for (const threshold of [-1, 0, 1.5, 3]) {
    let second = 0, fourth = 0;
    const step = 1e-3;
    for (let s = threshold + step / 2; s < 9; s += step) {
      second += (s - threshold) ** 2 * normalDensity(s) * step;
      fourth += (s - threshold) ** 4 * normalDensity(s) * step;
    }
    assert.ok(Math.abs(activationEnergy(threshold) - second) < 1e-5, `${threshold}`);
    assert.ok(Math.abs(squaredActivationEnergy(threshold) - fourth) < 1e-4, `${threshold}`);
  }
});

test("Blueprint.routerCoefficients() chooses all experts about as often, and some of them again", () => {
  const config = configOf(shapeNamed("tiny-mixtral")), { count } = config.experts!;
  const blueprint = new Blueprint({ config, seed: 1, activeMean: null });
  const { layout: { latentSize, identityAt, identitySize }, tokens } = blueprint;
  const coefficients = new Float32Array(count * latentSize);
  const word = new Float32Array(identityAt + identitySize);
  blueprint.routerCoefficients(1, coefficients);
  const uses = new Array(count).fill(0);
  let repeated = 0, last = -1;
  for (let place = 0; place < tokens.count; place++) {
    tokens.write(place, word, 0);
    const scores = uses.map((_, expert) =>
      word.subarray(0, identityAt)
        .reduce((sum, value, k) => sum + value * coefficients[expert * latentSize + k], 0)
    );
    const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a]);
    for (const expert of order.slice(0, 2)) uses[expert]++;
    if (order[0] === last) repeated++;
    last = order[0];
  }
  const mean = 2 * tokens.count / count;
  for (const use of uses) assert.ok(use > 0.6 * mean && use < 1.5 * mean, `${uses}`);
  // By chance it would be an eighth.
  const share = repeated / tokens.count;
  assert.ok(share > 0.2 && share < 0.4, `${share}`);
});

test("activeShare() rises from the paper's first to its last, with its mean", () => {
  const shares = Array.from({ length: 32 }, (_, layer) => activeShare(layer, 32));
  assert.equal(shares[0], PAPER.activeFirst);
  assert.ok(Math.abs(shares[31] - PAPER.activeLast) < 1e-12);
  const mean = shares.reduce((sum, share) => sum + share, 0) / 32;
  assert.ok(Math.abs(mean - PAPER.activeMean) < 1e-6, `${mean}`);
  assert.ok(Math.abs(activeShare(7, 32, 0.1) / shares[7] - 0.1 / PAPER.activeMean) < 1e-12);
});

test("thresholdsOf() makes some neurons hot, in random order, with the layer's mean", () => {
  const thresholds = thresholdsOf(3, { seed: 1, numLayers: 4, count: 4096 });
  let active = 0, inFirstHalf = 0;
  const random = randomFor(5);
  for (let round = 0; round < 50; round++) {
    thresholds.forEach((threshold, neuron) => {
      if (deviate(random) <= threshold) return;
      active++;
      if (neuron < 2048) inFirstHalf++;
    });
  }
  const share = active / (50 * 4096);
  assert.ok(Math.abs(share / PAPER.activeLast - 1) < 0.1, `${share}`);
  assert.ok(Math.abs(inFirstHalf / active - 0.5) < 0.1, `${inFirstHalf / active}`);
  assert.ok(Math.min(...thresholds) < 0, "no neuron is active most of the time");
});

test("SpreadBasis has directions of length 1, orthogonal to each other and to ones, without large numbers", () => {
  for (const d of [96, 256, 4544]) {
    const basis = new SpreadBasis(d, 9), count = 12;
    const rows = Array.from({ length: count }, (_, index) => {
      const row = new Float32Array(d);
      basis.write(index * 7, row, 0);
      return row;
    });
    const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, x, i) => sum + x * b[i], 0);
    const ones = new Float32Array(d).fill(1);
    rows.forEach((a, i) => {
      assert.ok(Math.abs(dot(a, ones)) < 1e-4);
      assert.ok(Math.max(...a) <= Math.sqrt(2 / d) + 1e-6);
      rows.forEach((b, j) => assert.ok(Math.abs(dot(a, b) - (i === j ? 1 : 0)) < 1e-5));
    });
  }
});

test("NoisePool.add() adds rows of the wished deviation that have nothing in common", () => {
  const noise = new NoisePool(1), length = 4096;
  const row = (key: number) => {
    const values = new Float32Array(length + 2).fill(3);
    noise.add(values, { from: 1, length, deviation: 0.5 }, randomFor(key));
    assert.deepEqual([values[0], values[length + 1]], [3, 3]);
    return values.subarray(1, length + 1).map((value) => value - 3);
  };
  const rows = [row(1), row(2), row(3)];
  rows.forEach((a, i) =>
    rows.forEach((b, j) => {
      const product = a.reduce((sum, x, k) => sum + x * b[k], 0) / length;
      assert.ok(Math.abs(product - (i === j ? 0.25 : 0)) < 0.02, `${i} ${j}: ${product}`);
    })
  );
});

test("coActivationStrength() finds friends, and none among neurons that know nothing of each other", () => {
  const tokenCount = 512, neuronCount = 320, wordCount = neuronCount / 32;
  const setsOf = (isTied: boolean) => {
    const random = seededRandom(4), masks = new Uint32Array(tokenCount * wordCount);
    const set = (token: number, neuron: number) =>
      masks[token * wordCount + (neuron >>> 5)] |= 1 << (neuron & 31);
    const order = shuffled(neuronCount, random);
    for (let token = 0; token < tokenCount; token++) {
      for (let neuron = 0; neuron < neuronCount; neuron += 2) {
        const isUsed = random() < 0.1;
        if (isUsed) set(token, order[neuron]);
        // In pairs: one is used when the other is, or on its own account.
        if (isTied ? isUsed : random() < 0.1) set(token, order[neuron + 1]);
      }
    }
    return masks;
  };
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const tied = coActivationStrength({ masks: setsOf(true), tokenCount, neuronCount });
  const free = coActivationStrength({ masks: setsOf(false), tokenCount, neuronCount });
  assert.ok(tied.length > 200 && free.length > 200);
  assert.ok(Math.abs(mean(tied) - 0.9) < 0.02, `${mean(tied)}`);
  assert.ok(Math.abs(mean(free)) < 0.02, `${mean(free)}`);
});
