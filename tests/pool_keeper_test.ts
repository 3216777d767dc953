/** Slots and pages of the KV cache share a layer's pool: a longer context takes slots, and changes no number. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { NeuronCache, NO_LIST } from "../src/cache/neuron_cache.ts";
import { SlidingWindow } from "../src/cache/sliding_window.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { goldenOf, PackedModels } from "./packed_models.ts";
import { addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** A tale's tokens, over and over. */
function idsOf(count: number): number[] {
  const [{ input_ids, greedy_ids }] = goldenOf("tales").prompts;
  const tale = [...input_ids, ...greedy_ids];
  return Array.from({ length: count }, (_, i) => tale[i % tale.length]);
}

async function predictedTales(): Promise<string> {
  const path = await models.flashOf("tales");
  addPredictors(path);
  return path;
}

const SMALL: OpenOptions = { readers: 4, lanes: 1, kv: "f32", context: 96 };

test("A context that grows takes slots, which come back, and changes no logit", async (t) => {
  const path = await predictedTales(), ids = idsOf(80);
  await using roomy = await open(path, { ...SMALL, ffnCache: "100%" });
  const expected = await roomy.logits(ids);
  for (
    const [name, options] of [
      ["3 positions at a time", { promptChunk: 3 }],
      ["in chunks, 2 lanes", { promptChunk: 30, logitsRows: 60, lanes: 2 }],
      ["a slow disk", { simulation: { seed: 2, delayMsMax: 0.3 } }],
      ["exact", { ffn: "exact" }],
    ] as [string, OpenOptions][]
  ) {
    await t.test(name, async () => {
      const few = { ...SMALL, ffnCache: "15%", sharesPools: true };
      await using model = await open(path, { ...few, ...options });
      const { plan } = model;
      assert.ok(plan.isPoolShared && !plan.isResident);
      plan.slotCounts.forEach((slots, layer) => {
        assert.ok(slots > plan.slotCountsFull[layer], `${slots}, ${plan.slotCountsFull[layer]}`);
      });
      const wanted = options.ffn === "exact" ? await exactLogits(path, ids) : expected;
      assert.deepEqual(await model.logits(ids), wanted);
      // A short text, whose pages give slots back.
      assert.deepEqual(await model.logits(ids.slice(0, 20)), wanted.slice(0, 20 * 4096));
    });
  }
});

async function exactLogits(path: string, ids: number[]): Promise<Float32Array> {
  await using model = await open(path, { ...SMALL, ffn: "exact", ffnCache: "100%" });
  return await model.logits(ids);
}

test("NeuronCache.setLimit() gives slots up and takes them back", () => {
  const words = new Int32Array(8);
  const cache = new NeuronCache(
    16,
    { count: 4, flagWord: 0 },
    new SlidingWindow({ slotCount: 4 }, Infinity),
    words,
  );
  const idle = { passesDone: 0, list: NO_LIST, desperate: false };
  const slots = [7, 8, 9].map((neuron) => {
    const slot = cache.admit(neuron, 0, idle);
    cache.land(slot);
    return slot;
  });
  assert.deepEqual(slots, [0, 1, 2]);
  assert.equal(cache.haveLandedFrom(1), true);
  cache.setLimit(1);
  assert.deepEqual([7, 8, 9].map((neuron) => cache.find(neuron)), [0, -1, -1]);
  assert.equal(cache.residentCount, 1);
  assert.equal(cache.admit(10, 1, idle), 0, "the only slot is taken from another neuron");
  assert.equal(cache.haveLandedFrom(0), false);
  cache.land(0);
  cache.setLimit(3);
  assert.deepEqual([11, 12].map((neuron) => cache.admit(neuron, 2, idle)), [1, 2]);
  assert.equal(cache.limit, 3);
});
