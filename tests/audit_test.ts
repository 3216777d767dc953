import assert from "node:assert/strict";
import { after, test } from "node:test";
import { AUDIT, AUDIT_FIELDS, AuditBoard } from "../src/audit/board.ts";
import { reportAudit, sumInterval } from "../src/audit/estimate.ts";
import { planSample, SampleDraw, windowWeight } from "../src/audit/sample.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { RecallMeter } from "../src/predict/recall_meter.ts";
import { seededRandom } from "../src/random.ts";
import { idsOf, PackedModels, PROMPT } from "./packed_models.ts";
import { addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

async function predictedPath(): Promise<string> {
  const path = await models.flashOf("opt");
  addPredictors(path);
  return path;
}

/** Runs 120 ids with the audit and measures every neuron of every position beside it. */
async function auditAndMeasure(options: OpenOptions) {
  const path = await predictedPath();
  const random = seededRandom(4);
  const ids = Array.from({ length: 120 }, () => Math.floor(random() * 320));
  await using model = await open(path, {
    ffn: "predicted",
    lanes: 1,
    readers: 2,
    audit: true,
    observations: true,
    ...options,
  });
  using file = FlashFile.open(path);
  const meter = new RecallMeter(file, { build: model.build });
  await model.eachObservation(ids, (layers) => meter.add(layers.map(({ ffnInput }) => ffnInput)));
  await meter.measure();
  const { readsPerToken } = model.stats().prompt;
  return { report: model.stats().audit!, layers: meter.layers, readsPerToken };
}

test("stats().audit counts what was predicted and holds what was missed in its interval", async (t) => {
  const ways: [string, OpenOptions][] = [
    ["everything in memory: slots are sampled", { ffnCache: "100%" }],
    ["a small cache: windows are read", { ffnCache: "10%", prefetch: false }],
    ["a cache of single slots, several passes", { ffnCache: 0.02, prefetch: false, lanes: 2 }],
  ];
  for (const [name, options] of ways) {
    await t.test(name, async () => {
      const { report, layers } = await auditAndMeasure(options);
      const sum = (pick: (layer: typeof layers[number]) => number) =>
        layers.reduce((total, layer) => total + pick(layer), 0);
      const found = sum((layer) => layer.found), active = sum((layer) => layer.active);
      assert.ok(found > 0 && found < active, "predictors of seeded numbers miss something");
      // The last token's row may come a moment after the request's end.
      assert.ok(report.tokens >= 119 && report.tokens <= 120, `${report.tokens} tokens`);
      assert.ok(Math.abs(report.precision - found / sum((layer) => layer.predicted)) < 2e-3);
      const { value, low, high } = report.recall;
      const recall = found / active;
      assert.ok(low < recall && recall < high, `${recall} in ${low} to ${high}`);
      assert.ok(low < value && value < high && high - low < 0.3, `${value} in ${low} to ${high}`);
      const lost = sum((layer) => layer.lostMass) / sum((layer) => layer.mass);
      assert.ok(
        report.lostMass.low < lost && lost < report.lostMass.high,
        `${lost} in ${report.lostMass.low} to ${report.lostMass.high}`,
      );
      assert.equal(report.layers.length, layers.length);
    });
  }
});

test("stats().audit is of the last request alone", async () => {
  await using model = await open(await predictedPath(), { ffn: "predicted", audit: true });
  await idsOf(model, PROMPT, { maxTokens: 20 });
  // Another text, of which nothing is known.
  await idsOf(model, PROMPT.toReversed(), { maxTokens: 3 });
  const { tokens } = model.stats().audit!;
  // Five of the prompt and two of the three new tokens go through the model.
  assert.ok(tokens >= 6 && tokens <= 7, `${tokens} tokens`);
});

test("stats().audit is null unless asked for", async () => {
  await using model = await open(await predictedPath(), { ffn: "predicted" });
  assert.equal(model.stats().audit, null);
});

test("open() refuses an audit where nothing is predicted", async () => {
  const path = await predictedPath();
  for (const ffn of ["exact", "dense"] as const) {
    await assert.rejects(open(path, { ffn, audit: true }), {
      name: "RangeError",
      message: /misses nothing/,
    });
  }
});

test("planSample() cuts a layer into windows that cover it", () => {
  for (const [neurons, stride] of [[1024, 1024], [16384, 8704], [96, 300], [1, 5], [7, 1e6]]) {
    const { windowNeurons, windowCount } = planSample(neurons, stride);
    assert.ok(windowNeurons * windowCount >= neurons);
    assert.ok(windowNeurons * (windowCount - 1) < neurons, "no window is empty");
  }
});

test("SampleDraw draws each window as often as its weight says", () => {
  const sample = planSample(256, 1024), weight = windowWeight(sample);
  const draw = new SampleDraw(sample, 5);
  const counts = new Array(sample.windowCount).fill(0), draws = 100 * weight;
  for (let i = 0; i < draws; i++) {
    const window = draw.window();
    if (window >= 0) counts[window]++;
  }
  // 100 of each are expected, with a deviation of 10.
  for (const count of counts) assert.ok(Math.abs(count - 100) < 45, `${counts}`);
});

test("AuditBoard keeps the rows of the last steps", () => {
  const board = new AuditBoard(AuditBoard.create(4, 2));
  for (let step = 0; step < 6; step++) {
    board.begin(step);
    board.add(step, 1, AUDIT.found, step);
    board.complete(step);
  }
  assert.equal(board.completeCount, 6);
  const rows = board.rows(2, 4);
  const found = [0, 1, 2, 3].map((i) => rows[(2 * i + 1) * AUDIT_FIELDS + AUDIT.found]);
  assert.deepEqual(found, [2, 3, 4, 5]);
});

test("reportAudit() of no token says that nothing was missed, and promises nothing", () => {
  const report = reportAudit(new Float32Array(0), { numLayers: 2, largestWeight: 10 });
  assert.equal(report.tokens, 0);
  assert.equal(report.recall.value, 1);
  assert.equal(report.lostMass.value, 0);
  assert.equal(report.layers.length, 2);
});

test("reportAudit() adds up layers and tokens", () => {
  const rows = Float32Array.from([
    ...[10, 6, 2, 3, 1],
    ...[20, 10, 0, 5, 0],
    ...[10, 4, 2, 3, 1],
    ...[20, 12, 4, 7, 2],
  ]);
  const report = reportAudit(rows, { numLayers: 2, largestWeight: 2 });
  assert.equal(report.tokens, 2);
  assert.equal(report.recall.value, 32 / 40);
  assert.equal(report.precision, 32 / 60);
  assert.equal(report.lostMass.value, 4 / 22);
  assert.deepEqual(report.layers[0], {
    recall: 10 / 14,
    precision: 10 / 20,
    lostMass: 2 / 8,
    predicted: 10,
    active: 7,
  });
});

/** Counts of rare events, each seen with a chance of 1 / weight and then counted `weight` times. */
function sampledEvents(random: () => number, weight: number, rate: number) {
  const found: number[] = [], missed: number[] = [];
  let truth = 0;
  for (let token = 0; token < 128; token++) {
    let seen = 0;
    for (let neuron = 0; neuron < 200; neuron++) {
      if (random() >= rate) continue;
      truth++;
      if (random() * weight < 1) seen += weight;
    }
    found.push(40);
    missed.push(seen);
  }
  return { found, missed, truth };
}

test("sumInterval() holds the true sum nineteen times of twenty, for many events and for few", () => {
  for (const [weight, rate] of [[4, 0.02], [32, 0.02], [128, 0.005]]) {
    const random = seededRandom(weight);
    let held = 0;
    const runs = 200;
    for (let run = 0; run < runs; run++) {
      const { found, missed, truth } = sampledEvents(random, weight, rate);
      const { low, high } = sumInterval({ found, missed }, weight);
      if (low <= truth && truth <= high) held++;
    }
    assert.ok(held >= 0.93 * runs, `${held} of ${runs} with weight ${weight}`);
    assert.ok(weight > 100 || held < runs, "an interval that always holds says too little");
  }
});

test("sumInterval() of a sample that saw nothing is open above", () => {
  const { value, low, high } = sumInterval({ found: [3, 3, 3], missed: [0, 0, 0] }, 10);
  assert.equal(value, 0);
  assert.equal(low, 0);
  // Three expected events would have been seen 19 times of 20; the gamma interval says 3.7.
  assert.ok(high > 30 && high < 40, `${high}`);
});
