import assert from "node:assert/strict";
import { test } from "node:test";
import { SegmentedLru } from "../src/cache/segmented_lru.ts";
import { cachePolicyContract } from "./contracts/cache_policy.ts";
import { SegmentedTwin } from "./contracts/policy_twins.ts";

cachePolicyContract(
  "SegmentedLru",
  (shape) => new SegmentedLru(shape),
  ({ slotCount }) => new SegmentedTwin(slotCount),
);

test("SegmentedLru gives up first what was used in one step only", () => {
  const policy = new SegmentedLru({ slotCount: 4 });
  for (const [step, slots] of [[0, 1, 2], [0, 3], [1]].entries()) {
    for (const slot of slots) {
      if (step === 0 || slot === 3) policy.admit(slot, slot, step);
      policy.use(slot, step);
    }
    policy.endStep();
  }
  assert.deepEqual([policy.first(), policy.after(2), policy.after(3)], [2, 3, 0]);
});
