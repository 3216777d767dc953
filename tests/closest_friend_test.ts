/** Bundles of closest friends: by hand, and against the engine's own replay. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { closestFriends, replayWithFriends } from "../src/simulate/closest_friend.ts";
import type { NeuronTrace } from "../src/simulate/neuron_trace.ts";
import { replay } from "../src/simulate/replay.ts";
import { makeTrace, parseTrace, traceOfLists } from "./random_trace.ts";

const readPlanOf = (trace: NeuronTrace, gapBytesMax = -1) => ({
  blockByteLength: trace.header.blockByteLength,
  gapBytesMax,
  mergedBytesMax: 65_536,
});

test("closestFriends() finds who was used with whom most often", () => {
  // Tokens: {0 1}, {0 1 2}, {2 3}, {2 3}, {4}.
  const masks = Uint32Array.of(0b11, 0b111, 0b1100, 0b1100, 0b10000);
  const friends = closestFriends({ masks, tokenCount: 5, neuronCount: 6 });
  assert.deepEqual([...friends], [1, 0, 3, 2, -1, -1]);
});

test("replayWithFriends() counts friends that were missed, in memory, or not asked for", () => {
  const trace = parseTrace(traceOfLists([[0, 1], [2], [3], [0]], { neurons: 32 }));
  const friends = [Int32Array.from({ length: 32 }, (_, neuron) => [1, 0, 0, 4][neuron] ?? -1)];
  const result = replayWithFriends(trace, {
    slotCounts: [8],
    friends,
    readPlan: readPlanOf(trace),
  });
  // 0 brings 1, which was missed too; 2 brings 0 again; 3 brings 4, which nobody asked for; then 0 is there.
  assert.deepEqual(result, {
    tokens: 4,
    misses: 4,
    reads: 3,
    // Records of two bundles of 256 bytes, a block of 512 each.
    bytes: 3 * 512,
    friendsMissed: 1,
    friendsLoadedAgain: 1,
    friendsUnasked: 1,
    friendsUsedLater: 0,
  });
});

test("replayWithFriends() lets the longest unused go, friends among them, and knows who was used later", () => {
  const friends = [Int32Array.from({ length: 32 }, (_, neuron) => neuron === 0 ? 5 : -1)];
  const run = (lists: number[][]) => {
    const trace = parseTrace(traceOfLists(lists, { neurons: 32 }));
    const options = { slotCounts: [2], friends, readPlan: readPlanOf(trace), warmupTokens: 1 };
    const { misses, friendsUsedLater } = replayWithFriends(trace, options);
    return [misses, friendsUsedLater];
  };
  assert.deepEqual(run([[0], [5]]), [0, 1]);
  // 7 takes the place of 5, which was not used since it came with 0.
  assert.deepEqual(run([[0], [7], [0], [5]]), [2, 0]);
});

test("replayWithFriends() without friends is the engine's LRU", () => {
  for (const seed of [1, 2, 3]) {
    const trace = parseTrace(makeTrace({ seed }));
    // More slots than any list has neurons: a list never comes in passes.
    const slotCounts = [92, 94], gapBytes = 1024, warmupTokens = 10;
    const policy = { name: "lru", window: Infinity } as const;
    const engine = replay(trace, { slotCounts, policy, gapBytes, warmupTokens });
    const readPlan = readPlanOf(trace, gapBytes);
    const result = replayWithFriends(trace, { slotCounts, readPlan, warmupTokens });
    assert.deepEqual(
      [result.misses, result.reads, result.bytes, result.friendsLoadedAgain],
      [engine.listed - engine.hits, engine.reads, engine.bytes, 0],
    );
    assert.ok(result.misses > 0, `seed ${seed}: nothing was missed`);
  }
});
