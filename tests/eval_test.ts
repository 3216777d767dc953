import assert from "node:assert/strict";
import { copyFileSync, readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { chunksOf, documentsOf } from "../src/documents.ts";
import { evaluate } from "../src/eval.ts";
import type { EvaluateOptions, EvaluateProgress } from "../src/eval.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { open } from "../src/open.ts";
import { RecallMeter } from "../src/predict/recall_meter.ts";
import { PackedModels } from "./packed_models.ts";
import { addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

const CALIBRATION = new URL("../models/tales/calibration.txt", import.meta.url);
const TEXT = `${
  readFileSync(CALIBRATION, "utf8").slice(0, 150)
}<|endoftext|>\n \n<|endoftext|>The sea`;
const SMALL = { text: TEXT, context: 16, lanes: 1, readers: 2, ffnCache: "20%" };

/** The embedded model, without predictors and with some of random numbers. */
let plain: string, predicted: string;

before(async () => {
  plain = await models.flashOf("tales", "q8");
  predicted = models.file("predicted.flash");
  copyFileSync(plain, predicted);
  addPredictors(predicted);
});

/** Mean of -log p of the tokens, from whole matrices of logits. */
async function plainNats(path: string): Promise<{ nats: number; scored: number; tokens: number }> {
  await using model = await open(path, { ffn: "dense", lanes: 1, readers: 2, context: 16 });
  const { vocabSize } = model.header.config;
  let nats = 0, scored = 0, tokens = 0;
  for (const ids of chunksOf(documentsOf(TEXT), (text) => model.encode(text), 16)) {
    const logits = await model.logits(ids);
    tokens += ids.length;
    for (let position = 0; position + 1 < ids.length; position++, scored++) {
      const row = logits.subarray(position * vocabSize, (position + 1) * vocabSize);
      const sum = row.reduce((all, logit) => all + Math.exp(logit), 0);
      nats += Math.log(sum) - row[ids[position + 1]];
    }
  }
  return { nats: nats / scored, scored, tokens };
}

test("evaluate() finds the perplexity that all logits give", async () => {
  const expected = await plainNats(plain);
  const exact = await evaluate({ path: plain, ...SMALL });
  assert.equal(exact.ffn, "exact", "without predictors");
  assert.equal(exact.isComplete, true);
  assert.deepEqual(
    { tokens: exact.tokens, scored: exact.tokensScored },
    { tokens: expected.tokens, scored: expected.scored },
  );
  assert.ok(Math.abs(exact.nats - expected.nats) < 1e-6, `${exact.nats}, not ${expected.nats}`);
  assert.equal(exact.perplexity, Math.exp(exact.nats));
});

test("evaluate() finds no divergence of dense and exact from dense", async () => {
  for (const ffn of ["dense", "exact"] as const) {
    const { dense, nats, all, layers } = await evaluate({
      path: predicted,
      ...SMALL,
      ffn,
      reference: true,
    });
    assert.ok(dense);
    assert.equal(dense.nats, nats);
    assert.equal(dense.divergenceMean, 0);
    assert.equal(dense.divergenceP99, 0);
    assert.equal(dense.top1Agreement, 1);
    if (ffn === "dense") assert.deepEqual({ all, layers }, { all: undefined, layers: [] });
    else assert.deepEqual(Object.keys(layers[0]), ["activeShare", "listedShare", "hitRate"]);
  }
});

test("evaluate() measures what prediction costs, layer by layer", async () => {
  const progress: EvaluateProgress[] = [];
  const { dense, all, layers, ...figures } = await evaluate({
    path: predicted,
    ...SMALL,
    tokensMax: 40,
    onProgress: (at) => progress.push(at),
  });
  assert.equal(figures.ffn, "predicted");
  assert.equal(figures.tokens, 40);
  // Predictors of random numbers find few, so there is something to see.
  assert.ok(dense && dense.divergenceMean > 0 && dense.divergenceP99 >= dense.divergenceMean);
  assert.ok(dense.top1Agreement < 1);
  assert.ok(figures.nats > 0 && figures.nats !== dense.nats);
  assert.ok(figures.bytesPerToken > 0 && figures.bytesPerToken < 2 * figures.ffnBytes);
  assert.ok(Math.abs(figures.cachedShare - 0.2) < 0.01);
  assert.equal(layers.length, 6);
  for (const layer of [...layers, all!]) {
    const { recall, precision, lostMass, activeShare, listedShare, hitRate } = layer;
    for (const share of [recall!, precision!, lostMass!, activeShare, listedShare, hitRate]) {
      assert.ok(share >= 0 && share <= 1, JSON.stringify(layer));
    }
    assert.ok(Math.abs(recall! * activeShare - precision! * listedShare) < 1e-9);
  }
  const mean = layers.reduce((sum, { listedShare }) => sum + listedShare / 6, 0);
  assert.ok(Math.abs(all!.listedShare - mean) < 1e-9);
  const { phase, done, total, streamsReference } = progress.at(-1)!;
  assert.deepEqual({ phase, done, total }, { phase: "evaluating", done: 40, total: 40 });
  assert.equal(streamsReference, false);
});

test("evaluate() returns what was measured when it is interrupted", async () => {
  const controller = new AbortController();
  const options: EvaluateOptions = {
    path: predicted,
    ...SMALL,
    signal: controller.signal,
    onProgress: ({ phase, done }) => {
      if (phase === "evaluating" && done >= 16) controller.abort(new Error("enough"));
    },
  };
  const { isComplete, tokensScored, tokens, dense, perplexity } = await evaluate(options);
  assert.equal(isComplete, false);
  assert.equal(tokensScored, 15);
  assert.ok(tokens >= 16 && perplexity > 1 && dense!.divergenceMean > 0);
  await assert.rejects(evaluate(options), { message: "enough" });
});

test("evaluate() reports the failure of one pipeline and ends the other", async () => {
  const simulation = { seed: 1, failAtRead: 30 };
  await assert.rejects(
    evaluate({ path: predicted, ...SMALL, backend: "pread", simulation }),
    { name: "FlashReadError", message: /simulated fault/ },
  );
});

test("evaluate() tells the caller's mistakes", async () => {
  const refuse = (options: Partial<EvaluateOptions>, message: RegExp) =>
    assert.rejects(evaluate({ path: plain, ...SMALL, ...options }), {
      name: "RangeError",
      message,
    });
  await refuse({ text: "<|endoftext|> \n" }, /Cannot evaluate an empty text/);
  await refuse({ tokensMax: 1 }, /Cannot evaluate 1 tokens: a whole number, at least 2/);
  await refuse({ context: 1 }, /longest document has 1 token: at least 2/);
  await refuse({ ffn: "predicted" }, /no predictors: run `flashpipe calibrate`/);
});

test("Model.rows() waits for a slow consumer, and stats().layers add up to the totals", async () => {
  const path = predicted;
  await using model = await open(path, {
    context: 16,
    ffnCache: "10%",
    lanes: 1,
    promptChunk: 1,
    waitMsMax: 2000,
  });
  const ids = Array.from({ length: 12 }, (_, i) => 3 * i + 5), positions: number[] = [];
  for await (const { position, layers, logits } of model.rows(ids)) {
    if (position === 1) await sleep(2300);
    positions.push(position);
    assert.deepEqual(layers, []);
    assert.equal(logits.length, model.header.config.vocabSize);
  }
  assert.deepEqual(positions, ids.map((_, i) => i));
  const { prompt, layers } = model.stats();
  const sum = (name: keyof (typeof layers)[0]) =>
    layers.reduce((all, counts) => all + counts[name], 0);
  assert.equal(layers.length, 6);
  assert.equal(sum("listed"), Math.round(prompt.neuronsPerToken * ids.length));
  for (const { listed, hits, earlyStarted, lateMisses } of layers) {
    assert.equal(hits + earlyStarted + lateMisses, listed);
  }
  const early = sum("earlyStarted"), late = sum("lateMisses");
  assert.equal(prompt.earlyRate, early + late > 0 ? early / (early + late) : 0);
  // Leaving early stops the request; the next one is as before.
  for await (const { position } of model.rows(ids)) if (position === 2) break;
  assert.equal((await Array.fromAsync(model.rows(ids))).length, ids.length);
});

test("RecallMeter counts the same when up projections are read anew for each batch", async () => {
  using file = FlashFile.open(predicted);
  const held = new RecallMeter(file), streaming = new RecallMeter(file, { heldBytesMax: 0 });
  const { hiddenSize, numLayers } = file.header.config;
  for (let position = 0; position < 7; position++) {
    const inputs = Array.from(
      { length: numLayers },
      (_, layer) =>
        Float32Array.from({ length: hiddenSize }, (_, i) => Math.sin(i * (layer + 2) + position)),
    );
    await held.add(inputs);
    await streaming.add(inputs);
  }
  await held.measure();
  await streaming.measure();
  assert.deepEqual(streaming.layers, held.layers);
  assert.ok(held.layers.every(({ positions, active }) => positions === 7 && active > 0));
});
