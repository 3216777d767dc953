import assert from "node:assert/strict";
import { test } from "node:test";
import { SlidingWindow } from "../src/cache/sliding_window.ts";
import { cachePolicyContract } from "./contracts/cache_policy.ts";
import { WindowTwin } from "./contracts/policy_twins.ts";

for (const window of [0, 1, 3, Infinity]) {
  cachePolicyContract(
    `SlidingWindow of ${window}`,
    (shape) => new SlidingWindow(shape, window),
    () => new WindowTwin(window),
  );
}

test("SlidingWindow gives up first what was not used for longest", () => {
  const policy = new SlidingWindow({ slotCount: 4 }, Infinity);
  [2, 0, 3, 1].forEach((slot, step) => policy.use(slot, step));
  policy.use(0, 4);
  const order: number[] = [];
  for (let slot = policy.first(); slot >= 0; slot = policy.after(slot)) order.push(slot);
  assert.deepEqual(order, [2, 3, 1, 0]);
});

test("SlidingWindow.expired() names what was not used in the last `window` steps", () => {
  const policy = new SlidingWindow({ slotCount: 2 }, 3);
  policy.use(0, 10);
  policy.use(1, 11);
  assert.equal(policy.expired(12), -1, "steps 10, 11 and 12 are the window");
  assert.equal(policy.expired(13), 0);
  policy.remove(0);
  assert.equal(policy.expired(13), -1);
  assert.equal(policy.expired(14), 1);
});

test("SlidingWindow of Infinity never says that a slot expired", () => {
  const policy = new SlidingWindow({ slotCount: 1 }, Infinity);
  policy.use(0, 0);
  assert.equal(policy.expired(2 ** 31 - 1), -1);
});

test("SlidingWindow refuses a window of less than no step", () => {
  for (const window of [-1, -0.5, NaN]) {
    assert.throws(() => new SlidingWindow({ slotCount: 4 }, window), {
      name: "RangeError",
      message: new RegExp(`received ${window}$`),
    });
  }
});
