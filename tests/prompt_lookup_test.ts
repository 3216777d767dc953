import assert from "node:assert/strict";
import { after, test } from "node:test";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import type { GenerateOptions } from "../src/model.ts";
import { DraftBalance } from "../src/pipeline/draft_balance.ts";
import { PromptLookup } from "../src/pipeline/prompt_lookup.ts";
import { goldenOf, PackedModels } from "./packed_models.ts";
import { addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** What a lookup proposes after a text. */
function proposed(lookup: PromptLookup, text: number[], room = 10): number[] {
  const ids = new Int32Array(text.length + 20);
  ids.set(text);
  const count = lookup.propose(ids, text.length, room);
  assert.deepEqual([...ids.subarray(0, text.length)], text, "the text itself stays");
  return [...ids.subarray(text.length, text.length + count)];
}

test("PromptLookup.propose() goes on as the text went on before", () => {
  assert.deepEqual(proposed(new PromptLookup(7), [1, 2, 3, 4, 5, 1, 2]), [3]);
  assert.deepEqual(proposed(new PromptLookup(7), [1, 2, 3, 9, 8, 2]), [], "one token is no match");
  assert.deepEqual(proposed(new PromptLookup(7), [1, 2, 3]), []);
  assert.deepEqual(proposed(new PromptLookup(7), [5, 5, 5]), [5], "a match may touch the end");
  assert.deepEqual(proposed(new PromptLookup(7), []), []);
});

test("PromptLookup.propose() prefers the longest match, and of equals the last", () => {
  assert.deepEqual(proposed(new PromptLookup(7), [7, 1, 2, 3, 4, 0, 1, 2, 9, 9, 7, 1, 2]), [3]);
  assert.deepEqual(proposed(new PromptLookup(7), [1, 2, 3, 3, 0, 1, 2, 9, 9, 0, 0, 1, 2]), [9]);
});

test("PromptLookup.propose() keeps to its room, and to what it may draft at most", () => {
  const text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2];
  assert.deepEqual(proposed(new PromptLookup(7), text, 1), [3]);
  assert.deepEqual(proposed(new PromptLookup(7), text, 0), []);
  assert.deepEqual(proposed(new PromptLookup(0), text), []);
  assert.deepEqual(proposed(new PromptLookup(1), text), [3]);
});

test("PromptLookup.judge() lengthens drafts that are right, and shortens others", () => {
  const text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2];
  const lookup = new PromptLookup(7);
  lookup.judge(2, 2);
  assert.equal(proposed(lookup, text).length, 4);
  lookup.judge(4, 4);
  assert.equal(proposed(lookup, text).length, 7);
  lookup.judge(7, 3);
  assert.equal(proposed(lookup, text).length, 3);
});

test("PromptLookup pauses after a draft that is all wrong, longer each time, and asks for more", () => {
  const lookup = new PromptLookup(7), text = [1, 2, 3, 4, 9, 1, 2, 3];
  const pauseOf = () => {
    for (let pause = 0;; pause++) {
      assert.ok(pause < 1000);
      if (proposed(lookup, text).length > 0) return pause;
    }
  };
  lookup.judge(2, 0);
  assert.equal(pauseOf(), 1);
  lookup.judge(2, 0);
  assert.deepEqual(proposed(lookup, [1, 2, 3, 4, 9, 0, 2, 3]), []);
  assert.deepEqual(proposed(lookup, [1, 2, 3, 4, 9, 0, 2, 3]), []);
  assert.deepEqual(
    proposed(lookup, [1, 2, 3, 4, 9, 0, 2, 3]),
    [],
    "a match of two is too short now",
  );
  lookup.judge(2, 1);
  assert.equal(pauseOf(), 0);
});

test("DraftBalance waits for a step without drafts, and stops what loses more than it may", () => {
  const balance = new DraftBalance(0.02);
  assert.equal(balance.allowsDrafts, false, "nobody knows what a token costs");
  for (let step = 0; step < 10; step++) balance.plainStep(100);
  balance.draftedStep(150, 2);
  balance.draftedStep(150, 1);
  assert.equal(balance.allowsDrafts, true, "what was gained was lost again");
  balance.draftedStep(181, 1);
  assert.equal(balance.allowsDrafts, false, "81 ms lost, 50 and 2 % of 1481 allowed");
  balance.plainStep(100);
  assert.equal(balance.allowsDrafts, true, "time goes by, and they may lose a little more");
});

test("DraftBalance follows what a step costs now", () => {
  const balance = new DraftBalance(0);
  balance.plainStep(300);
  for (let step = 0; step < 20; step++) balance.plainStep(100);
  balance.draftedStep(140, 1);
  assert.equal(balance.allowsDrafts, true, "40 ms lost, 50 allowed");
  balance.draftedStep(120, 1);
  assert.equal(balance.allowsDrafts, false);
});

test("DraftBalance lets everything pass with a loss of 1", () => {
  const balance = new DraftBalance(1);
  balance.plainStep(100);
  for (let step = 0; step < 100; step++) balance.draftedStep(900, 1);
  assert.equal(balance.allowsDrafts, true);
});

async function idsOf(path: string, options: OpenOptions, generate: GenerateOptions) {
  await using model = await open(path, { ffnCache: "20%", readers: 1, ...options });
  const [{ input_ids, greedy_ids }] = goldenOf("tales").prompts;
  const tale = [...input_ids, ...greedy_ids.slice(0, 24)];
  const ids: number[] = [];
  // A tale, and the beginning of the same one.
  const prompt = [...tale, ...tale.slice(0, 12)];
  for await (const { id } of model.generate(prompt, { maxTokens: 40, ...generate })) ids.push(id);
  return { ids, stats: model.stats().decode, end: model.endReason };
}

test("Model.generate() with drafts gives the tokens that it gives without", async (t) => {
  const path = await models.flashOf("tales");
  addPredictors(path);
  const ways: [string, OpenOptions, GenerateOptions][] = [
    ["greedy", {}, {}],
    ["exact, everything in memory, 2 lanes", { ffn: "exact", ffnCache: "100%", lanes: 2 }, {}],
    ["to the end of the context", { context: 70 }, {}],
    ["few tokens, drafts that time may stop", { draftLoss: 0 }, { maxTokens: 3 }],
    ["sampled, a prompt token by token, drafts of 3", { promptChunk: 1, drafts: 3 }, {
      temperature: 0.7,
      seed: 5,
    }],
  ];
  for (const [name, options, generate] of ways) {
    await t.test(name, async () => {
      const without = await idsOf(path, { ...options, drafts: 0 }, generate);
      // Time must not decide what this test sees.
      const drafted = await idsOf(path, { draftLoss: 1, ...options }, generate);
      assert.deepEqual(drafted.ids, without.ids);
      assert.equal(drafted.end, without.end);
      assert.equal(drafted.stats.tokens, without.stats.tokens);
      assert.equal(without.stats.drafted, 0);
      assert.ok(drafted.stats.accepted <= drafted.stats.drafted);
      if (name === "greedy") assert.ok(drafted.stats.accepted > 5, `${drafted.stats.accepted}`);
    });
  }
});
