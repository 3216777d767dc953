import assert from "node:assert/strict";
import { test } from "node:test";
import { missCurve, stackDistances } from "../src/cache/miss_curve.ts";
import { seededRandom } from "../src/random.ts";

const NEURON_COUNT = 70;
const WORD_COUNT = 3;

/** Random tokens whose neurons repeat: each keeps some of the token before. */
function randomMasks(tokenCount: number, seed: number): Uint32Array {
  const random = seededRandom(seed);
  const masks = new Uint32Array(tokenCount * WORD_COUNT);
  for (let token = 0; token < tokenCount; token++) {
    for (let neuron = 0; neuron < NEURON_COUNT; neuron++) {
      const word = token * WORD_COUNT + (neuron >>> 5);
      const before = token > 0 && isSet(masks[word - WORD_COUNT], neuron);
      if (random() < (before ? 0.5 : 0.4 / (1 + neuron))) masks[word] |= 1 << (neuron & 31);
    }
  }
  return masks;
}

function isSet(word: number, neuron: number): boolean {
  return ((word >>> (neuron & 31)) & 1) === 1;
}

/** Misses of an LRU cache that looks up a token's neurons first and then moves each to the front, in order. */
function simulateMisses(masks: Uint32Array, slotCount: number, warmupTokens: number): number {
  let resident: number[] = [];
  let misses = 0;
  for (let token = 0; token * WORD_COUNT < masks.length; token++) {
    const used: number[] = [];
    for (let neuron = 0; neuron < NEURON_COUNT; neuron++) {
      if (isSet(masks[token * WORD_COUNT + (neuron >>> 5)], neuron)) used.push(neuron);
    }
    if (token >= warmupTokens) {
      misses += used.filter((neuron) => !resident.includes(neuron)).length;
    }
    resident = [...used.reverse(), ...resident.filter((neuron) => !used.includes(neuron))]
      .slice(0, slotCount);
  }
  return misses;
}

test("stackDistances() counts what an LRU cache of any size would miss", () => {
  for (const seed of [1, 2, 3]) {
    // Long enough for the time line to be renumbered.
    const tokenCount = 700;
    const masks = randomMasks(tokenCount, seed);
    const uses = { masks, tokenCount, neuronCount: NEURON_COUNT };
    const distances = stackDistances(uses, 50);
    for (const slotCount of [0, 1, 2, 5, 13, 40, 69]) {
      const far = distances.subarray(slotCount).reduce((sum, count) => sum + count, 0);
      assert.equal(far, simulateMisses(masks, slotCount, 50), `seed ${seed}, ${slotCount} slots`);
    }
  }
});

test("missCurve() begins with all uses, ends with none, and never rises", () => {
  const tokenCount = 400;
  const masks = randomMasks(tokenCount, 4);
  const uses = { masks, tokenCount, neuronCount: NEURON_COUNT };
  const { slots, missesPerToken } = missCurve(uses, { pointCount: 12, warmupTokens: 100 });
  assert.equal(slots[0], 0);
  assert.equal(slots.at(-1), NEURON_COUNT);
  assert.equal(missesPerToken[0], simulateMisses(masks, 0, 100) / 300);
  assert.equal(missesPerToken.at(-1), 0);
  for (let k = 1; k < slots.length; k++) {
    assert.ok(slots[k] > slots[k - 1]);
    assert.ok(missesPerToken[k] <= missesPerToken[k - 1]);
    if (k < slots.length - 1) {
      assert.equal(missesPerToken[k], simulateMisses(masks, slots[k], 100) / 300);
    }
  }
});
