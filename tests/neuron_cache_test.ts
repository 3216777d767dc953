import assert from "node:assert/strict";
import { test } from "node:test";
import { NeuronCache, NO_LIST } from "../src/cache/neuron_cache.ts";
import { SlidingWindow } from "../src/cache/sliding_window.ts";

/** A cache of 2 slots whose reads land when the test says so. */
function makeCache({ slotCount = 2, window = Infinity } = {}) {
  const words = new Int32Array(new SharedArrayBuffer(4 * slotCount));
  const policy = new SlidingWindow({ slotCount }, window);
  const cache = new NeuronCache(16, { count: slotCount, flagWord: 0 }, policy, words);
  const land = (neuron: number) => words[cache.find(neuron)] = 1;
  return { cache, land };
}

const IDLE = { passesDone: 0, list: NO_LIST, desperate: false };

test("NeuronCache.admit() evicts what was not used for longest, before an early look too", () => {
  const { cache, land } = makeCache();
  for (const neuron of [4, 5]) {
    assert.ok(cache.admit(neuron, 0, IDLE) >= 0);
    cache.use(cache.find(neuron), 0, 0);
    land(neuron);
  }
  const slot = cache.find(4);
  assert.equal(cache.admit(6, 1, IDLE), slot);
  assert.equal(cache.find(4), -1);
  assert.ok(cache.find(5) >= 0);
  assert.equal(cache.evictions, 1);
});

test("NeuronCache.admit() refuses while reads are in flight", () => {
  const { cache, land } = makeCache({ slotCount: 1 });
  cache.admit(1, 0, IDLE);
  const desperate = { ...IDLE, desperate: true };
  assert.equal(cache.admit(2, 0, desperate), -1);
  land(1);
  assert.equal(cache.admit(2, 0, desperate), 0);
  assert.equal(cache.hasLanded(0), false);
});

test("NeuronCache.admit() refuses while a pass uses the slots", () => {
  const { cache, land } = makeCache({ slotCount: 1 });
  cache.use(cache.admit(1, 0, IDLE), 0, 7);
  land(1);
  assert.equal(cache.admit(2, 0, { ...IDLE, passesDone: 6, desperate: true }), -1);
  assert.equal(cache.admit(2, 0, { ...IDLE, passesDone: 7 }), 0);
});

test("NeuronCache.admit() takes what the list wants only if it is desperate", () => {
  const { cache, land } = makeCache();
  for (const neuron of [1, 2]) {
    cache.admit(neuron, 0, IDLE);
    land(neuron);
    cache.want(cache.find(neuron), 0, 9);
  }
  assert.equal(cache.admit(3, 1, { ...IDLE, list: 9 }), -1);
  assert.equal(cache.find(1), 1 - cache.find(2));
  assert.ok(cache.admit(3, 1, { ...IDLE, list: 9, desperate: true }) >= 0);
  assert.equal(cache.find(1), -1);
  assert.ok(cache.admit(4, 1, { ...IDLE, list: 10 }) >= 0, "another list wants other neurons");
});

test("NeuronCache.endStep() frees what left the window, once it may go", () => {
  const { cache, land } = makeCache({ window: 2 });
  cache.use(cache.admit(1, 0, IDLE), 0, 0);
  land(1);
  cache.endStep(0, 0);
  cache.endStep(1, 0);
  assert.ok(cache.find(1) >= 0, "used in the last 2 steps");
  cache.endStep(2, -1);
  assert.ok(cache.find(1) >= 0, "pass 0 is not done");
  cache.endStep(3, 0);
  assert.equal(cache.find(1), -1);
  assert.equal(cache.evictions, 1);
});

test("NeuronCache.refresh() keeps a neuron in the window", () => {
  const { cache, land } = makeCache({ window: 1 });
  cache.use(cache.admit(1, 0, IDLE), 0, 0);
  land(1);
  cache.refresh(cache.find(1), 1);
  cache.endStep(1, 0);
  assert.ok(cache.find(1) >= 0);
  cache.endStep(2, 0);
  assert.equal(cache.find(1), -1);
});

test("NeuronCache.fillCompletely() puts every neuron into the slot of its number", () => {
  const { cache } = makeCache({ slotCount: 16 });
  cache.fillCompletely();
  for (let neuron = 0; neuron < 16; neuron++) assert.equal(cache.find(neuron), neuron);
});
