import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { argmax, Sampler } from "../src/pipeline/sampler.ts";
import type { Sampling } from "../src/pipeline/sampler.ts";

const GREEDY: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0,
};
const NO_TEXT = new Int32Array(0);

function draws(logits: number[], sampling: Partial<Sampling>, count: number): number[] {
  const sampler = new Sampler(logits.length, { ...GREEDY, temperature: 1, ...sampling });
  return Array.from({ length: count }, () => sampler.next(Float32Array.from(logits), NO_TEXT));
}

/** Logits whose softmax is `probabilities`. */
const logitsOf = (probabilities: number[]) => probabilities.map(Math.log);

function shares(ids: number[], vocabSize: number): number[] {
  return Array.from(
    { length: vocabSize },
    (_, id) => ids.filter((x) => x === id).length / ids.length,
  );
}

test("argmax() takes the first of equals and refuses NaN wherever it stands", () => {
  assert.equal(argmax(Float32Array.of(1, 3, 3, 2)), 1);
  assert.equal(argmax(Float32Array.of(-5, -Infinity, -4)), 2);
  assert.equal(argmax(Float32Array.of(-0, 0)), 0);
  for (const at of [0, 1, 2]) {
    const logits = Float32Array.of(1, 2, 3);
    logits[at] = NaN;
    assert.throws(() => argmax(logits), {
      name: "RangeError",
      message: `Cannot choose a token as logit ${at} is not a number`,
    });
  }
});

test("Sampler at temperature 0 always takes the largest logit", () => {
  const sampler = new Sampler(4, GREEDY);
  for (let i = 0; i < 5; i++) {
    assert.equal(sampler.next(Float32Array.of(0, 9, 8.99, 9), NO_TEXT), 1);
  }
});

test("Sampler draws each token as often as its probability says", () => {
  const wanted = [0.5, 0.3, 0.15, 0.05];
  const found = shares(draws(logitsOf(wanted), { seed: 3 }, 20_000), 4);
  // Four standard deviations of 20 000 draws at p = 0.5 are 0.014.
  wanted.forEach((share, id) => assert.ok(Math.abs(found[id] - share) < 0.015, `${found}`));
});

test("Sampler flattens by temperature", () => {
  const wanted = [0.8, 0.2].map(Math.sqrt);
  const sum = wanted[0] + wanted[1];
  const found = shares(draws(logitsOf([0.8, 0.2]), { temperature: 2, seed: 4 }, 20_000), 2);
  assert.ok(Math.abs(found[0] - wanted[0] / sum) < 0.015, `${found}`);
});

test("Sampler draws from the smallest set whose probability reaches top-p", () => {
  const logits = logitsOf([0.1, 0.4, 0.2, 0.3]);
  const nucleus = (topP: number) => [...new Set(draws(logits, { topP, seed: 5 }, 3000))].sort();
  assert.deepEqual(nucleus(0.35), [1]);
  assert.deepEqual(nucleus(0.65), [1, 3]);
  assert.deepEqual(nucleus(0.85), [1, 2, 3]);
  assert.deepEqual(nucleus(1), [0, 1, 2, 3]);
  const found = shares(draws(logits, { topP: 0.65, seed: 6 }, 20_000), 4);
  assert.ok(Math.abs(found[1] - 4 / 7) < 0.015, `${found}`);
});

test("Sampler draws from the likeliest top-k, and from those that min-p leaves", () => {
  const logits = logitsOf([0.1, 0.4, 0.2, 0.3]);
  const seen = (sampling: Partial<Sampling>) =>
    [...new Set(draws(logits, { seed: 5, ...sampling }, 3000))].sort();
  assert.deepEqual(seen({ topK: 1 }), [1]);
  assert.deepEqual(seen({ topK: 3 }), [1, 2, 3]);
  assert.deepEqual(seen({ topK: 9 }), [0, 1, 2, 3]);
  // 0.5 of the likeliest, 0.4, is 0.2; temperature comes first.
  assert.deepEqual(seen({ minP: 0.49 }), [1, 2, 3]);
  assert.deepEqual(seen({ minP: 0.6 }), [1, 3]);
  assert.deepEqual(seen({ minP: 1 }), [1]);
  assert.deepEqual(seen({ minP: 0.6, temperature: 4 }), [0, 1, 2, 3]);
  // Of three, the nucleus of 0.7 is 0.4 + 0.3 of 0.9.
  assert.deepEqual(seen({ topK: 3, topP: 0.7 }), [1, 3]);
  const found = shares(draws(logits, { topK: 2, seed: 6 }, 20_000), 4);
  assert.ok(Math.abs(found[1] - 4 / 7) < 0.015, `${found}`);
});

test("Sampler penalizes each token of the text once, whatever its sign and count", () => {
  const text = Int32Array.of(1, 1, 3);
  const next = (logits: number[], repetitionPenalty: number) =>
    new Sampler(4, { ...GREEDY, repetitionPenalty }).next(Float32Array.from(logits), text);
  assert.equal(next([1, 1.9, 0, 0], 1), 1);
  assert.equal(next([1, 1.9, 0, 0], 2), 0);
  // Once: halved, not quartered.
  assert.equal(next([1, 2.1, 0, 0], 2), 1);
  assert.equal(next([-9, -1, -1.9, -9], 2), 2);
  assert.equal(next([-9, -9, -9, -1], 0.5), 3);
});

test("Sampler adds biases, and forbids by -Infinity", () => {
  const biased = (values: number[], sampling: Partial<Sampling> = {}) => {
    const bias = { ids: [1, 3], values };
    const sampler = new Sampler(4, { ...GREEDY, ...sampling }, bias);
    return Array.from({ length: 50 }, () => sampler.next(Float32Array.of(1, 2, 0, 0), NO_TEXT));
  };
  assert.deepEqual([...new Set(biased([-2, 0]))], [0]);
  assert.deepEqual([...new Set(biased([0, 5]))], [3]);
  const some = biased([-Infinity, -Infinity], { temperature: 3, seed: 2 });
  assert.deepEqual([...new Set(some)].sort(), [0, 2]);
  const none = new Sampler(4, GREEDY, { ids: [0, 1, 2, 3], values: Array(4).fill(-Infinity) });
  assert.equal(none.next(Float32Array.of(1, 2, 0, 0), NO_TEXT), -1);
  const masked = new Sampler(4, { ...GREEDY, temperature: 2 }, undefined, Int32Array.of(0b100));
  assert.equal(masked.next(Float32Array.of(1, 2, 0, 0), NO_TEXT), 2);
  const logits = Float32Array.of(1, 2, 0, 0);
  new Sampler(4, GREEDY, { ids: [1], values: [-2] }).next(logits, NO_TEXT);
  assert.deepEqual(logits, Float32Array.of(1, 2, 0, 0), "the row itself stays as it was");
});

test("Sampler draws the same by the same seed, and other tokens by another", () => {
  const logits = logitsOf([0.3, 0.3, 0.2, 0.2]);
  const first = draws(logits, { seed: 42 }, 50);
  assert.deepEqual(draws(logits, { seed: 42 }, 50), first);
  assert.notDeepEqual(draws(logits, { seed: 43 }, 50), first);
});

test("Sampler takes the likeliest token if top-p is next to nothing", () => {
  // What is left of a small top-p as f32 on the way to lane 0.
  for (const topP of [1e-30, 0]) {
    assert.deepEqual([...new Set(draws([1, 3, 2], { topP, seed: 1 }, 50))], [1]);
  }
});

test("Sampler refuses logits that are not finite where they matter", () => {
  for (const temperature of [0, 1]) {
    const sampler = new Sampler(3, { ...GREEDY, temperature });
    for (
      const bad of [[NaN, 1, 2], [1, 2, NaN], [Infinity, 1, 2], [-Infinity, -Infinity, -Infinity]]
    ) {
      assert.throws(() => sampler.next(Float32Array.from(bad), NO_TEXT), RangeError, `${bad}`);
    }
    assert.equal(sampler.next(Float32Array.of(-Infinity, 4, -Infinity), NO_TEXT), 1);
  }
});

test("Sampler always answers a token of the vocabulary, within the nucleus", () => {
  const inputs = fc.record({
    logits: fc.array(fc.float({ noNaN: true, min: -100, max: 100 }), {
      minLength: 1,
      maxLength: 40,
    }),
    temperature: fc.double({ noNaN: true, min: 1e-6, max: 1e6 }),
    topP: fc.double({ noNaN: true, min: 1e-6, max: 1 }),
    seed: fc.integer(),
  });
  fc.assert(fc.property(inputs, ({ logits, ...sampling }) => {
    for (const id of draws(logits, sampling, 4)) {
      assert.ok(Number.isInteger(id) && id >= 0 && id < logits.length, `${id}`);
      const top = Math.max(...logits.map(Math.fround));
      const weights = logits.map((x) => Math.exp((Math.fround(x) - top) / sampling.temperature));
      const total = weights.reduce((sum, weight) => sum + weight);
      const likelier = weights.filter((weight) => weight > weights[id]);
      const before = likelier.reduce((sum, weight) => sum + weight, 0) / total;
      assert.ok(before < sampling.topP + 1e-9, `the nucleus was full before token ${id}`);
    }
  }));
});
