import assert from "node:assert/strict";
import { test } from "node:test";
import type { PolicyFactory } from "../../src/cache/policy.ts";
import { seededRandom } from "../../src/random.ts";
import { CacheRun } from "./cache_run.ts";

const SEEDS = [1, 2, 3, 4, 5, 6];

/** What every `CachePolicy` must do, whatever it prefers. `name` is the policy's. */
export function cachePolicyContract(name: string, makePolicy: PolicyFactory): void {
  test(`${name} names no slot before one is used`, () => {
    const policy = makePolicy(3);
    assert.equal(policy.first(), -1);
    assert.equal(policy.expired(100), -1);
  });

  test(`${name} names each slot in use once, and no other`, () => {
    for (const seed of SEEDS) {
      const random = seededRandom(seed), slotCount = 1 + seed * 3;
      const policy = makePolicy(slotCount);
      const held = new Set<number>();
      for (let step = 0; step < 60; step++) {
        for (let i = Math.floor(random() * 6); i > 0; i--) {
          const slot = Math.floor(random() * slotCount);
          if (random() < 0.6) {
            policy.use(slot, step);
            held.add(slot);
          } else if (held.delete(slot)) policy.remove(slot);
        }
        const named: number[] = [];
        for (let slot = policy.first(); slot >= 0; slot = policy.after(slot)) {
          named.push(slot);
          assert.ok(named.length <= slotCount, `seed ${seed}: the list of slots has no end`);
        }
        assert.deepEqual(named.toSorted((a, b) => a - b), [...held].toSorted((a, b) => a - b));
      }
    }
  });

  test(`${name}.expired() names slots in use only, and comes to an end`, () => {
    for (const seed of SEEDS) {
      const random = seededRandom(seed), slotCount = 8;
      const policy = makePolicy(slotCount);
      const held = new Set<number>();
      for (let step = 0; step < 60; step++) {
        for (let i = 0; i < 3; i++) {
          const slot = Math.floor(random() * slotCount);
          policy.use(slot, step);
          held.add(slot);
        }
        for (let slot; (slot = policy.expired(step)) >= 0;) {
          assert.ok(held.delete(slot), `seed ${seed}: slot ${slot} expired and is not in use`);
          policy.remove(slot);
        }
      }
    }
  });

  test(`NeuronCache with ${name} keeps what is in flight, in use or wanted`, () => {
    for (const seed of SEEDS) {
      const slotCount = [1, 2, 5, 16, 40, 64][seed % 6];
      const run = new CacheRun({ seed, neuronCount: 64, slotCount, makePolicy });
      for (let step = 0; step < 80; step++) run.step();
      if (slotCount === 64) assert.ok(run.admissions >= 64);
    }
  });
}
