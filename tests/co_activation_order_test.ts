import assert from "node:assert/strict";
import { test } from "node:test";
import { orderByCoActivation } from "../src/cache/co_activation_order.ts";
import { seededRandom } from "../src/random.ts";

const NEURONS = 96;

/** Tokens that each read a few whole groups of neurons, whose members are scattered over the layer. */
function groupedReads(groupSize: number, tokenCount: number) {
  const random = seededRandom(8);
  const neurons = Array.from({ length: NEURONS }, (_, neuron) => neuron);
  for (let i = NEURONS - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [neurons[i], neurons[j]] = [neurons[j], neurons[i]];
  }
  const groupOf = new Int32Array(NEURONS);
  neurons.forEach((neuron, i) => groupOf[neuron] = Math.floor(i / groupSize));
  const groupCount = NEURONS / groupSize;
  const masks = new Uint32Array(tokenCount * NEURONS / 32);
  for (let token = 0; token < tokenCount; token++) {
    const wanted = new Set([0, 1, 2].map(() => Math.floor(random() * groupCount)));
    for (let neuron = 0; neuron < NEURONS; neuron++) {
      if (!wanted.has(groupOf[neuron])) continue;
      masks[token * NEURONS / 32 + (neuron >> 5)] |= 1 << (neuron & 31);
    }
  }
  return { reads: { masks, tokenCount, neuronCount: NEURONS }, groupOf };
}

test("orderByCoActivation() puts side by side what is read together", () => {
  const { reads, groupOf } = groupedReads(6, 400);
  const { neuronAt } = orderByCoActivation(reads);
  let borders = 0;
  for (let i = 1; i < NEURONS; i++) {
    if (groupOf[neuronAt[i]] !== groupOf[neuronAt[i - 1]]) borders++;
  }
  assert.equal(borders, NEURONS / 6 - 1, "each group lies in one piece");
});

test("orderByCoActivation() keeps the order where nothing was read together", () => {
  const masks = new Uint32Array(3 * NEURONS);
  const { neuronAt } = orderByCoActivation({ masks, tokenCount: NEURONS, neuronCount: NEURONS });
  assert.deepEqual([...neuronAt], Array.from({ length: NEURONS }, (_, neuron) => neuron));
});

test("orderByCoActivation() puts what is read most in front, and loses nobody", () => {
  const masks = new Uint32Array(10 * NEURONS / 32);
  for (let token = 0; token < 10; token++) masks[token * NEURONS / 32 + 2] = 0b1010;
  const { neuronAt } = orderByCoActivation({ masks, tokenCount: 10, neuronCount: NEURONS });
  assert.deepEqual([...neuronAt.subarray(0, 2)].sort(), [65, 67]);
  assert.equal(new Set(neuronAt).size, NEURONS);
});
