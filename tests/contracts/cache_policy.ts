import assert from "node:assert/strict";
import { test } from "node:test";
import type { PolicyFactory, PolicyShape } from "../../src/cache/policy.ts";
import { seededRandom } from "../../src/random.ts";
import { CacheRun } from "./cache_run.ts";
import type { PolicyTwin } from "./policy_twins.ts";

const SEEDS = [1, 2, 3, 4, 5, 6];

/** What every `CachePolicy` must do, whatever it prefers, and what its twin does. `name` is the policy's. */
export function cachePolicyContract(
  name: string,
  makePolicy: PolicyFactory,
  makeTwin: (shape: PolicyShape) => PolicyTwin,
  { steps = 60 } = {},
): void {
  test(`${name} names no slot before one is used`, () => {
    const policy = makePolicy({ slotCount: 3, neuronCount: 8 });
    assert.equal(policy.first(), -1);
    assert.equal(policy.expired(100), -1);
  });

  test(`${name} names each slot in use once, and no other`, () => {
    for (const seed of SEEDS) {
      const random = seededRandom(seed), slotCount = 1 + seed * 3;
      const policy = makePolicy({ slotCount, neuronCount: 2 * slotCount });
      const held = new Set<number>();
      for (let step = 0; step < 60; step++) {
        for (let i = Math.floor(random() * 6); i > 0; i--) {
          const slot = Math.floor(random() * slotCount);
          const dice = random();
          if (!held.has(slot)) {
            policy.admit(slot, slot + slotCount * Math.floor(2 * random()), step);
            held.add(slot);
          } else if (dice < 0.4) policy.use(slot, step);
          else if (dice < 0.6) policy.expect(slot, step);
          else {
            policy.remove(slot);
            held.delete(slot);
          }
          if (random() < 0.1) policy.endPass();
        }
        const named: number[] = [];
        for (let slot = policy.first(); slot >= 0; slot = policy.after(slot)) {
          named.push(slot);
          assert.ok(named.length <= slotCount, `seed ${seed}: the list of slots has no end`);
        }
        assert.deepEqual(named.toSorted((a, b) => a - b), [...held].toSorted((a, b) => a - b));
        if (random() < 0.8) policy.endStep(step);
      }
    }
  });

  test(`${name}.expired() names slots in use only, and comes to an end`, () => {
    for (const seed of SEEDS) {
      const random = seededRandom(seed), slotCount = 8;
      const policy = makePolicy({ slotCount, neuronCount: slotCount });
      const held = new Set<number>();
      for (let step = 0; step < 60; step++) {
        for (let i = 0; i < 3; i++) {
          const slot = Math.floor(random() * slotCount);
          if (!held.has(slot)) policy.admit(slot, slot, step);
          policy.use(slot, step);
          held.add(slot);
        }
        policy.endStep(step);
        for (let slot; (slot = policy.expired(step)) >= 0;) {
          assert.ok(held.delete(slot), `seed ${seed}: slot ${slot} expired and is not in use`);
          policy.remove(slot);
        }
      }
    }
  });

  test(`NeuronCache with ${name} evicts as its twin in plain words says`, () => {
    const firstSeed = Math.floor(Math.random() * 2 ** 31);
    console.log(`seeds from ${firstSeed}`);
    let refusals = 0;
    for (let i = 0; i < 12; i++) {
      const seed = firstSeed + i, slotCount = [1, 3, 8, 20, 47, 48][i % 6];
      const twin = makeTwin({ slotCount, neuronCount: 48 });
      const run = new CacheRun({ seed, neuronCount: 48, slotCount, makePolicy, twin });
      for (let step = 0; step < steps; step++) run.step();
      refusals += run.refusals;
    }
    assert.ok(refusals > 0, "the runs were hard enough to find all slots taken");
  });
}
