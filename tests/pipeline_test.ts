/** The whole pipeline on small packed models: golden numbers, laws, statistics, traces. */
import assert from "node:assert/strict";
import { copyFileSync } from "node:fs";
import { after, test } from "node:test";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { argmax } from "../src/pipeline/sampler.ts";
import { goldenOf, idsOf, PackedModels, PROMPT } from "./packed_models.ts";
import { addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** Every difference in units of the largest logit. */
function assertClose(found: Float32Array, wanted: number[], what: string): void {
  assert.equal(found.length, wanted.length);
  const scale = Math.max(...wanted.map(Math.abs));
  const worst = Math.max(...wanted.map((value, i) => Math.abs(found[i] - value)));
  assert.ok(worst <= 1e-4 * scale, `${what}: off by ${worst} of ${scale}`);
}

const WAYS: [string, OpenOptions][] = [
  ["dense, resident", { ffn: "dense", ffnCache: "100%" }],
  ["dense, streamed", { ffn: "dense", ffnCache: "50%", lanes: 2 }],
  ["exact, resident", { ffn: "exact", ffnCache: 1, lanes: 2 }],
  ["exact, cache of a fifth", { ffn: "exact", ffnCache: "20%" }],
  ["exact, few slots a layer", { ffn: "exact", ffnCache: "6%", lanes: 2 }],
  ["exact, plain SIMD", { ffn: "exact", kernels: "plain" }],
];

for (const [name, options] of WAYS) {
  test(`Model.logits() and generate() agree with an independent implementation: ${name}`, async () => {
    await using model = await models.openOpt(options);
    const { input_ids, last_logits, logits_at_0, logits_at_12, greedy_ids } = goldenOf("opt");
    const logits = await model.logits(input_ids);
    const row = (position: number) => logits.subarray(320 * position, 320 * (position + 1));
    assert.equal(logits.length, 320 * input_ids.length);
    assertClose(row(0), logits_at_0, "position 0");
    assertClose(row(12), logits_at_12, "position 12");
    assertClose(row(input_ids.length - 1), last_logits, "the last position");
    const ids = await idsOf(model, input_ids, { maxTokens: greedy_ids.length });
    assert.deepEqual(ids, greedy_ids);
    assert.equal(model.endReason, "max-tokens");
  });
}

for (const options of [{ ffn: "exact", lanes: 2 }, { ffn: "dense", lanes: 1 }] as const) {
  test(`Model.generate() tells the golden tale from text: ${options.ffn}`, async () => {
    const [{ text, greedy_ids, greedy_text }] = goldenOf("tales").prompts;
    const path = await models.flashOf("tales");
    await using model = await open(path, { readers: 3, ffnCache: "20%", ...options });
    const ids: number[] = [];
    let tale = "";
    const maxTokens = greedy_ids.length;
    for await (const token of model.generate(text, { maxTokens, ignoreEos: true })) {
      ids.push(token.id);
      tale += token.text;
    }
    assert.deepEqual(ids, greedy_ids);
    assert.equal(tale, greedy_text);
    assert.equal(model.decode(ids), greedy_text);
    const { decode } = model.stats();
    assert.ok(
      decode.readsPerToken > 0 && decode.bytesPerToken > 0,
      "its neurons came from the file",
    );
  });
}

test("Model.generate() chooses what Model.logits() says", async () => {
  await using model = await models.openOpt({ lanes: 2, ffnCache: "30%" });
  const ids = await idsOf(model, PROMPT, { maxTokens: 6 });
  const logits = await model.logits([...PROMPT, ...ids]);
  ids.forEach((id, i) => {
    const position = PROMPT.length - 1 + i;
    assert.equal(argmax(logits.subarray(320 * position, 320 * (position + 1))), id);
  });
});

test("Model.generate() samples the same by the same seed", async () => {
  await using model = await models.openOpt();
  const sample = (seed: number) =>
    idsOf(model, PROMPT, { temperature: 5, topP: 0.9, seed, maxTokens: 20 });
  const first = await sample(7);
  assert.deepEqual(await sample(7), first);
  assert.notDeepEqual(await sample(8), first);
});

test("Short, slow and merged reads change no logit", async () => {
  const simulation = { seed: 3, shortRate: 0.6, delayMsMax: 0.5 };
  const rows: Float32Array[] = [];
  for (const options of [{}, { simulation }, { simulation, gapBytes: 16384, window: 1 }]) {
    await using model = await open(await models.flashOf("tales", "f16"), {
      ffn: "exact",
      ffnCache: "5%",
      readers: 4,
      lanes: 1,
      ...options,
    });
    rows.push(await model.logits([2, 2522, 673, 262, 526]));
  }
  assert.deepEqual(rows[1], rows[0]);
  assert.deepEqual(rows[2], rows[0]);
});

test("Early looks, small caches and lanes change no logit in predicted", async () => {
  const path = models.file("predicted.flash");
  copyFileSync(await models.flashOf("opt"), path);
  addPredictors(path);
  const rows: Float32Array[] = [];
  const ways: OpenOptions[] = [
    { ffnCache: "100%", lanes: 1 },
    { ffnCache: "10%", lanes: 2, readers: 3 },
    { ffnCache: 0, lanes: 1, readers: 1, window: 2 },
    { ffnCache: "30%", lanes: 2, prefetch: false, spins: 0 },
  ];
  for (const options of ways) {
    await using model = await open(path, { ffn: "predicted", readers: 2, ...options });
    rows.push(await model.logits(goldenOf("opt").input_ids.slice(0, 12)));
    const { neuronsPerToken, earlyRate } = model.stats().prompt;
    assert.ok(neuronsPerToken > 0 && neuronsPerToken <= 512, `${neuronsPerToken} neurons a token`);
    if (options.ffnCache === "10%") {
      assert.ok(earlyRate > 0, "a full cache makes room for early reads");
    }
  }
  for (const row of rows) assert.deepEqual(row, rows[0]);
});

test("Model.stats() counts what was done", async () => {
  await using model = await models.openOpt({ ffnCache: "10%" });
  assert.equal(model.stats().prompt.tokens, 0);
  const began = performance.now();
  await idsOf(model, PROMPT, { maxTokens: 11 });
  const elapsed = performance.now() - began;
  const { prompt, decode, ffn, lanes, readers, peakBytes } = model.stats();
  assert.deepEqual({ ffn, lanes, readers }, { ffn: "exact", lanes: 1, readers: 2 });
  assert.equal(prompt.tokens, PROMPT.length);
  assert.equal(decode.tokens, 10, "the first new token costs no step of its own");
  assert.ok(prompt.ms > 0 && decode.ms > 0 && prompt.ms + decode.ms <= elapsed + 1);
  for (const cost of [prompt, decode]) {
    const { total, compute, flash, predictor, other } = cost.msPerToken;
    assert.ok(Math.abs(total - compute - flash - predictor - other) < 1e-6);
    assert.ok(cost.neuronsPerToken > 0 && cost.neuronsPerToken <= 512);
    assert.ok(cost.readsPerToken > 0);
    assert.ok(cost.bytesPerToken >= cost.readsPerToken * model.disk.blockByteLength);
    for (const share of [cost.hitRate, cost.earlyRate, cost.hidden, cost.activeShare]) {
      assert.ok(share >= 0 && share <= 1, `${share}`);
    }
    assert.ok(Math.abs(cost.tokensPerSecond - 1000 * cost.tokens / cost.ms) < 1e-6);
  }
  assert.ok(peakBytes > model.plan.arenas[0].byteLength);
});

test("Model.stats() of a request that runs knows its time", async () => {
  await using model = await models.openOpt();
  const running = model.generate(PROMPT, { maxTokens: 50, ignoreEos: true });
  for (let i = 0; i < 10; i++) await running.next();
  const { prompt, decode } = model.stats();
  assert.equal(prompt.tokens, PROMPT.length);
  assert.ok(decode.tokens >= 9 && decode.ms > 0 && decode.tokensPerSecond > 0);
  await running.return();
});

test("Model.stats() of a resident model counts no read", async () => {
  await using model = await models.openOpt({ ffnCache: "100%" });
  assert.ok(model.plan.isResident);
  await idsOf(model, PROMPT);
  const { readsPerToken, hitRate } = model.stats().decode;
  assert.equal(readsPerToken, 0);
  assert.equal(hitRate, 1);
});

test("Model.traceJson() shows lanes, predictor and readers", async () => {
  await using model = await models.openOpt({ trace: true, lanes: 2, ffnCache: "10%" });
  await idsOf(model, PROMPT);
  const { traceEvents } = JSON.parse(model.traceJson());
  const names = traceEvents.filter((event: { name: string }) => event.name === "thread_name")
    .map((event: { args: { name: string } }) => event.args.name);
  assert.deepEqual(names, ["lane 0", "lane 1", "predictor", "reader 0", "reader 1"]);
  const spans = traceEvents.filter((event: { ph: string }) => event.ph === "X");
  for (const { name, dur, ts } of spans) assert.ok(name && dur >= 0 && ts >= 0, name);
  const seen = new Set(spans.map(({ name }: { name: string }) => name));
  for (const name of ["attention", "late look", "down", "plan late reads", "read"]) {
    assert.ok(seen.has(name), `there is a span "${name}"`);
  }
});

test("Model.traceJson() says why there is none", async () => {
  await using model = await models.openOpt();
  assert.throws(() => model.traceJson(), { name: "RangeError", message: /trace: true/ });
});
