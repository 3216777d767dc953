import assert from "node:assert/strict";
import { test } from "node:test";
import { PinnedHot } from "../src/cache/pinned_hot.ts";
import { cachePolicyContract } from "./contracts/cache_policy.ts";
import { PinnedTwin } from "./contracts/policy_twins.ts";

for (const window of [5, Infinity]) {
  cachePolicyContract(
    `PinnedHot with a window of ${window}`,
    (shape) => new PinnedHot(shape, window),
    ({ slotCount }) => new PinnedTwin(slotCount, window),
    { steps: 300 },
  );
}

test("PinnedHot keeps the hottest neurons when the window has long left them", () => {
  const policy = new PinnedHot({ slotCount: 4, neuronCount: 4 }, 2);
  for (let slot = 0; slot < 4; slot++) policy.admit(slot, slot, 0);
  for (let step = 0; step < 128; step++) {
    policy.use(0, step);
    if (step % 2 === 1) policy.use(1, step);
    if (step % 3 === 0) policy.use(2, step);
    if (step === 127) policy.use(3, step);
    policy.endStep();
  }
  const expired: number[] = [];
  for (let slot; (slot = policy.expired(140)) >= 0; policy.remove(slot)) expired.push(slot);
  assert.deepEqual(expired.sort(), [2, 3]);
  assert.deepEqual([policy.first(), policy.after(0)], [0, 1]);
});
