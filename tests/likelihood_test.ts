import assert from "node:assert/strict";
import { test } from "node:test";
import { divergence, indexOfLargest, logSumExp } from "../src/likelihood.ts";

/** Probabilities as the book has them. */
function softmax(logits: Float32Array): number[] {
  const powers = Array.from(logits, Math.exp);
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

const P = Float32Array.of(0.5, -1, 2, 0.25), Q = Float32Array.of(-0.5, 0, 2.5, 2.25);

function near(actual: number, expected: number): void {
  assert.ok(Math.abs(actual - expected) < 1e-12, `${actual} is not ${expected}`);
}

test("logSumExp() turns logits into log probabilities, however large they are", () => {
  softmax(P).forEach((p, i) => near(P[i] - logSumExp(P), Math.log(p)));
  near(logSumExp(Float32Array.of(1000, 1000)), 1000 + Math.log(2));
  assert.equal(logSumExp(Float32Array.of(-1000, 0)), 0);
});

test("indexOfLargest() takes the first of equals", () => {
  assert.equal(indexOfLargest(Float32Array.of(1, 3, 2, 3)), 1);
});

test("divergence() is that of Kullback and Leibler, and 0 for the same bits", () => {
  const p = softmax(P), q = softmax(Q);
  const expected = p.reduce((sum, pi, i) => sum + pi * Math.log(pi / q[i]), 0);
  near(divergence(P, Q, { reference: logSumExp(P), logits: logSumExp(Q) }), expected);
  const same = { reference: logSumExp(P), logits: logSumExp(P) };
  assert.equal(divergence(P, P.slice(), same), 0);
});
