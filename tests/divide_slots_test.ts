import assert from "node:assert/strict";
import { test } from "node:test";
import { divideSlots, missesAt } from "../src/cache/divide_slots.ts";
import type { MissCurve } from "../src/cache/miss_curve.ts";
import { seededRandom } from "../src/random.ts";

/** A convex curve with a point at each number of slots. */
function convexCurve(random: () => number, count: number): MissCurve {
  const falls = Array.from({ length: count }, () => random() ** 3).sort((a, b) => a - b);
  const missesPerToken = [0];
  for (const fall of falls) missesPerToken.unshift(missesPerToken[0] + fall);
  return { slots: missesPerToken.map((_, slots) => slots), missesPerToken };
}

function misses(curves: MissCurve[], slots: number[]): number {
  return curves.reduce((sum, curve, layer) => sum + missesAt(curve, slots[layer]), 0);
}

test("divideSlots() finds the best division of convex curves", () => {
  const random = seededRandom(7);
  const count = 8, minSlots = 1;
  for (let round = 0; round < 20; round++) {
    const curves = [0, 1, 2].map(() => convexCurve(random, count));
    for (const totalSlots of [3, 7, 12, 20, 24]) {
      const slots = divideSlots({ curves, totalSlots, minSlots, count });
      let best = Infinity;
      for (let a = 1; a <= count; a++) {
        for (let b = 1; b <= count; b++) {
          const c = totalSlots - a - b;
          if (c >= 1 && c <= count) best = Math.min(best, misses(curves, [a, b, c]));
        }
      }
      assert.equal(slots.reduce((sum, n) => sum + n, 0), totalSlots);
      assert.ok(misses(curves, slots) <= best + 1e-9, `${misses(curves, slots)} of ${best}`);
    }
  }
});

test("divideSlots() looks past a plateau to the fall behind it", () => {
  const plateau = { slots: [0, 50, 100], missesPerToken: [100, 99, 0] };
  const slope = { slots: [0, 50, 100], missesPerToken: [30, 15, 0] };
  const options = { curves: [plateau, slope], minSlots: 0, count: 100 };
  assert.deepEqual(divideSlots({ ...options, totalSlots: 120 }), [100, 20]);
});

test("divideSlots() gives each layer its minimum and no layer more than its neurons", () => {
  const flat = { slots: [0, 10], missesPerToken: [1, 1] };
  const steep = { slots: [0, 10], missesPerToken: [10, 0] };
  const options = { curves: [flat, steep], minSlots: 3, count: 10 };
  assert.deepEqual(divideSlots({ ...options, totalSlots: 9 }), [3, 6]);
  assert.deepEqual(divideSlots({ ...options, totalSlots: 15 }), [5, 10]);
  assert.deepEqual(divideSlots({ ...options, totalSlots: 99 }), [10, 10]);
  assert.throws(() => divideSlots({ ...options, totalSlots: 5 }), RangeError);
});

test("missesAt() draws straight lines between points", () => {
  const curve = { slots: [0, 10, 20], missesPerToken: [8, 4, 2] };
  assert.deepEqual([0, 5, 10, 15, 20, 30].map((n) => missesAt(curve, n)), [8, 6, 4, 3, 2, 2]);
});
