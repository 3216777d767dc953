import assert from "node:assert/strict";
import { test } from "node:test";
import { DecayedFrequency } from "../src/cache/decayed_frequency.ts";
import { cachePolicyContract } from "./contracts/cache_policy.ts";
import { FrequencyTwin } from "./contracts/policy_twins.ts";

for (const halfLife of [3, 64]) {
  cachePolicyContract(
    `DecayedFrequency of ${halfLife}`,
    (shape) => new DecayedFrequency(shape, halfLife),
    () => new FrequencyTwin(halfLife),
  );
}

function orderOf(policy: DecayedFrequency): number[] {
  const order: number[] = [];
  for (let slot = policy.first(); slot >= 0; slot = policy.after(slot)) order.push(slot);
  return order;
}

/** Slot i holds neuron i, which was used in the steps of `uses[i]`. */
function makePolicy(uses: number[][], { steps, halfLife }: { steps: number; halfLife: number }) {
  const shape = { slotCount: uses.length, neuronCount: uses.length };
  const policy = new DecayedFrequency(shape, halfLife);
  for (let step = 0; step < steps; step++) {
    for (const [slot, ofSlot] of uses.entries()) {
      if (step === 0) policy.admit(slot, slot, step);
      if (ofSlot.includes(step)) policy.use(slot, step);
    }
    policy.endStep(step);
  }
  return policy;
}

test("DecayedFrequency gives up first what was used least often of late", () => {
  const uses = [[99], [90, 91, 92, 93], [], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [98, 99]];
  assert.deepEqual(orderOf(makePolicy(uses, { steps: 100, halfLife: 16 })), [2, 3, 0, 4, 1]);
});

test("DecayedFrequency remembers how often an evicted neuron was used", () => {
  const policy = makePolicy([[0, 1, 2, 3], [3]], { steps: 4, halfLife: 16 });
  policy.remove(0);
  policy.admit(0, 0, 4);
  policy.endStep(4);
  assert.deepEqual(orderOf(policy), [1, 0]);
});

test("DecayedFrequency names last what is used or expected in the step at hand", () => {
  const policy = makePolicy([[9], [8, 9], [7, 8, 9]], { steps: 10, halfLife: 16 });
  policy.expect(0, 10);
  policy.use(1, 10);
  assert.deepEqual(orderOf(policy), [2, 1, 0]);
  policy.endPass();
  assert.deepEqual(orderOf(policy), [2, 1, 0], "used thrice lately, twice and now, expected");
  policy.endStep(10);
  assert.deepEqual(orderOf(policy), [0, 2, 1]);
});

test("DecayedFrequency goes on when the number of steps wraps", () => {
  const policy = new DecayedFrequency({ slotCount: 2, neuronCount: 2 }, 4);
  policy.admit(0, 0, 2 ** 31 - 2);
  policy.admit(1, 1, 2 ** 31 - 2);
  policy.use(0, 2 ** 31 - 1);
  policy.endStep(2 ** 31 - 1);
  policy.use(1, -(2 ** 31));
  policy.endStep(-(2 ** 31));
  policy.use(1, -(2 ** 31) + 1);
  policy.endStep(-(2 ** 31) + 1);
  assert.deepEqual(orderOf(policy), [0, 1]);
});

test("DecayedFrequency keeps its order over very many steps", () => {
  const policy = new DecayedFrequency({ slotCount: 3, neuronCount: 3 }, 1);
  for (let slot = 0; slot < 3; slot++) policy.admit(slot, slot, 0);
  for (let step = 0; step < 3000; step++) {
    policy.use(step % 3, step);
    policy.endStep(step);
  }
  assert.deepEqual(orderOf(policy), [0, 1, 2]);
});

test("DecayedFrequency refuses a half-life that is none", () => {
  for (const halfLife of [0, -1, 1.5, NaN, 1e9]) {
    assert.throws(() => new DecayedFrequency({ slotCount: 1, neuronCount: 1 }, halfLife), {
      name: "RangeError",
      message: new RegExp(`every ${halfLife} steps`),
    });
  }
});
