/**
 * What `bench ladder` compares with is the engine itself, with less of what makes it fast. Here: that these ways read what they
 * claim to read. That they change no logit is for promise_test.ts.
 */
import assert from "node:assert/strict";
import { copyFileSync } from "node:fs";
import { after, test } from "node:test";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { ffnByteLength } from "../src/plan.ts";
import { updateFlash } from "../src/format/flash_update.ts";
import { idsOf, PackedModels, PROMPT } from "./packed_models.ts";
import { addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** A stream reads ahead, here by all of a few tokens: among so many that counts little. */
const MANY = 100;

/** What tokens cost, after a prompt; and what the plan was. */
async function run(path: string, options: OpenOptions, maxTokens = 12) {
  await using model = await open(path, { lanes: 1, readers: 2, drafts: 0, ...options });
  const ids = await idsOf(model, PROMPT, { maxTokens });
  return { ids, plan: model.plan, header: model.header, ...model.stats() };
}

/** The small fixture, with predictors. */
async function predicted(): Promise<string> {
  const path = models.file("predicted.flash");
  copyFileSync(await models.flashOf("opt", "f16"), path);
  addPredictors(path);
  return path;
}
const calibrated = predicted();

test("dense reads the layers that are not in memory, whole, and no others", async () => {
  const path = await calibrated;
  const [none, half] = [
    await run(path, { ffn: "dense", ffnCache: 0 }, MANY),
    await run(path, { ffn: "dense", ffnCache: "50%" }, MANY),
  ];
  const ffn = ffnByteLength(none.header);
  const read = none.decode.bytesPerToken;
  assert.ok(read > 0.9 * ffn && read < 1.1 * ffn, `${read} of ${ffn}`);
  assert.deepEqual(half.plan.residentLayers, [false, true]);
  const ratio = half.decode.bytesPerToken / none.decode.bytesPerToken;
  assert.ok(ratio > 0.45 && ratio < 0.55, `${ratio}`);
  assert.deepEqual(half.layers.map(({ listed, hits }) => hits === listed), [false, true]);
  assert.deepEqual(half.ids, none.ids);
  assert.equal(none.plan.bytes.predictors, 0, "dense predicts nothing");
});

test("naive reads what is resident for every token, too", async () => {
  const path = await calibrated;
  const [plain, naive] = [
    await run(path, { ffn: "dense", ffnCache: 0 }, MANY),
    await run(path, { ffn: "dense", naive: true }, MANY),
  ];
  const all = ffnByteLength(naive.header) + naive.plan.bytes.weights;
  const { bytesPerToken } = naive.decode;
  assert.ok(bytesPerToken > 0.9 * all && bytesPerToken < 1.2 * all, `${bytesPerToken} of ${all}`);
  assert.deepEqual(naive.ids, plain.ids);
});

test("a window of no step finds nothing in a slot, whatever the readers", async () => {
  const path = await calibrated;
  for (const readers of [1, 2]) {
    const options = { ffnCache: "45%", prefetch: false, readers, promptChunk: 1 };
    const none = await run(path, { ...options, window: 0 });
    assert.deepEqual(none.layers.map(({ hits }) => hits), [0, 0]);
    assert.ok(none.decode.missesPerToken > 0);
    const cached = await run(path, options);
    assert.ok(cached.layers.every(({ hits }) => hits > 0));
    assert.deepEqual(none.ids, cached.ids);
  }
});

test("unbundled reads each neuron twice, and as many neurons", async () => {
  const path = await calibrated;
  const options = { ffnCache: "45%", prefetch: false, window: 0, promptChunk: 1 };
  const whole = await run(path, options), apart = await run(path, { ...options, unbundled: true });
  assert.equal(apart.decode.missesPerToken, whole.decode.missesPerToken);
  assert.ok(whole.decode.readsPerToken <= whole.decode.missesPerToken);
  assert.equal(apart.decode.readsPerToken, 2 * apart.decode.missesPerToken);
  assert.deepEqual(apart.ids, whole.ids);
});

test("unbundled reads each vector behind a gate by itself", async () => {
  const path = await models.flashOf("bamboo_drelu", "f16");
  const options = { ffn: "exact", ffnCache: "45%", window: 0, promptChunk: 1 } as const;
  const whole = await run(path, options), apart = await run(path, { ...options, unbundled: true });
  // The gates are in memory: up row and down column are left.
  assert.equal(apart.decode.readsPerToken, 2 * whole.decode.missesPerToken);
  assert.deepEqual(apart.ids, whole.ids);
  const experts = await models.flashOf("mixtral_relu", "q8");
  const routed = { ffnCache: "30%", prefetch: false, window: 0, promptChunk: 1 };
  const three = await run(experts, { ...routed, unbundled: true });
  assert.equal(three.decode.readsPerToken, 3 * three.decode.missesPerToken);
  assert.deepEqual(three.ids, (await run(experts, routed)).ids);
});

test("a layer with a slot for each neuron is loaded at once, and not read by prompts either", async () => {
  const path = models.file("steep.flash");
  copyFileSync(await calibrated, path);
  const curve = (misses: number) => ({ slots: [0, 256], missesPerToken: [misses, 0] });
  updateFlash(path, ({ header }) => ({
    ...header,
    predictors: { ...header.predictors!, missCurves: [curve(1), curve(100)] },
  }));
  await using model = await open(path, { lanes: 1, readers: 2, ffnCache: "70%", promptChunk: 64 });
  assert.deepEqual(model.plan.residentLayers, [false, true]);
  const prompt = Array.from({ length: 40 }, (_, index) => index);
  await idsOf(model, prompt);
  const { layers, prompt: cost } = model.stats();
  assert.equal(layers[1].hits, layers[1].listed);
  const ffn = ffnByteLength(model.header), read = cost.bytesPerToken * cost.tokens;
  assert.ok(read > 0.4 * ffn && read < 0.75 * ffn, `${read} of ${ffn}`);
});
