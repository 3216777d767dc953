/**
 * The benches with small values, so that they do not rot. Nothing is measured here. Some have tests of their own: kernels
 * (kernels_bench_test.ts), versus (versus_bench_test.ts), bounds (bounds_bench_test.ts) and fuzz (fuzz_test.ts).
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { benchLowBits } from "../bench/low_bits.ts";
import { benchPack } from "../bench/pack.ts";
import { LLAMAS, makeCheckpoint } from "../bench/pack/checkpoint_maker.ts";
import { benchPlan } from "../bench/plan.ts";
import { benchPredictors } from "../bench/predictors.ts";
import { benchReaders } from "../bench/readers.ts";
import { promptIds } from "../bench/runs/prompt_ids.ts";
import { benchTokens } from "../bench/tokens.ts";
import { READER_BACKENDS } from "../src/flash/reader_options.ts";
import { canUseUring } from "../src/flash/uring_reader.ts";
import { keepProbe } from "../src/probe/kept_probe.ts";
import { handMadeProbe } from "./hand_made_probe.ts";
import { PackedModels } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

for (const backend of READER_BACKENDS) {
  const isMissing = backend === "io_uring" && !canUseUring();
  const skip = isMissing && "io_uring needs Linux, FFI and permission";
  test(`benchReaders() reads with ${backend} and leaves no file behind`, { skip }, async () => {
    const before = readdirSync(models.path);
    const { rows } = await benchReaders({
      fileBytes: 4 << 20,
      seconds: 0.1,
      repeat: 1,
      depth: 2,
      sizes: [16384],
      backends: [backend],
      folder: models.path,
    });
    assert.deepEqual(rows.map(({ readBytes, depth }) => ({ readBytes, depth })), [
      { readBytes: 16384, depth: 2 },
    ]);
    for (const { readers, fio } of rows) {
      assert.deepEqual(readers.map((rate) => rate.backend), [backend]);
      assert.ok(readers[0].bytesPerSecond > 0 && readers[0].cpuUsPerRead > 0);
      assert.ok(fio === null || fio > 0, `fio read ${fio} bytes a second`);
    }
    assert.deepEqual(readdirSync(models.path), before);
  });
}

for (const name of readdirSync(new URL("../bench/", import.meta.url))) {
  if (!name.endsWith(".ts") || ["bench_args.ts", "median.ts"].includes(name)) continue;
  test(`bench/${name} tells about itself with --help, and refuses options that it does not have`, async () => {
    const { main } = await import(new URL(`../bench/${name}`, import.meta.url).href);
    const lines: string[] = [], log = console.log;
    console.log = (line: string) => void lines.push(line);
    try {
      await main(["--help"]);
    } finally {
      console.log = log;
    }
    assert.match(lines.join("\n"), /\?[^]*\n {2}--/);
    await assert.rejects(async () => await main(["--no-such-option"]), RangeError);
  });
}

test("benchPlan() puts what is foreseen beside what is measured", async () => {
  const modelPath = await models.flashOf("tales", "q8");
  keepProbe(handMadeProbe(modelPath), modelPath);
  const rows = await benchPlan({
    modelPath,
    budgets: [{ ffnCache: 0.2 }, { ffnCache: 1 }],
    options: { lanes: 1, backend: "pread" },
    prompt: promptIds(modelPath, 12),
    tokens: 6,
    repeat: 1,
    probes: false,
    temperature: 0,
  });
  assert.deepEqual(rows.map(({ measured }) => measured.cost.tokens), [5, 5]);
  const [some, all] = rows;
  assert.ok(some.measured.readsPerToken > 0 && some.foreseen.readsPerToken > 0);
  assert.deepEqual([all.measured.readsPerToken, all.foreseen.readsPerToken], [0, 0]);
  assert.ok(rows.every(({ foreseen, measured }) => foreseen.ms > 0 && measured.ms > 0));
});

test("benchTokens() runs options in turn, which change no token", async () => {
  const modelPath = await models.flashOf("tales", "q8");
  const results = await benchTokens({
    ways: [
      { modelPath, options: { ffn: "exact", ffnCache: "20%", lanes: 1 } },
      { modelPath, options: { ffn: "dense", ffnCache: "100%", lanes: 1 } },
    ],
    tokens: 6,
    repeat: 1,
    prompt: "Once upon a time",
    temperature: 0.7,
    topP: 0.9,
  });
  assert.deepEqual(results.map(({ runs }) => runs.map(({ tokens }) => tokens)), [[5], [5]]);
  assert.ok(results[0].runs.every((cost) => cost.readsPerToken > 0 && cost.tokensPerSecond > 0));
  assert.notEqual(results[0].checksum, 0);
  assert.equal(results[1].checksum, results[0].checksum);
});

test("benchPredictors() calibrates copies and scores them, and leaves none", async () => {
  const calibration = new URL("../models/tales/calibration.txt", import.meta.url);
  const text = readFileSync(calibration, "utf8");
  const before = readdirSync(models.path);
  const { dense, results } = await benchPredictors({
    modelPath: await models.flashOf("tales", "q8"),
    calibrationText: text.slice(0, 20_000),
    heldOutText: text.slice(-2000),
    byteShares: [0.06],
    bits: [3],
    methods: ["trained", "closed-form", "sign-sketch", "low-bit"],
    minutes: 0.005,
    tokensMax: 30,
    recall: 0.95,
    ffnCache: "20%",
    folder: models.path,
  });
  assert.equal(dense.ffn, "dense");
  assert.deepEqual(
    results.map(({ name }) => name),
    ["trained, 6 %", "closed-form, 6 %", "sign-sketch", "low-bit, 3 bits", "exact"],
  );
  // 6 layers, d = 256, n = 1024: scales and thresholds are 3 numbers a neuron, means 2 a column.
  const planesBytes = (bits: number) => 6 * (1024 * 256 / 8 * bits + 4 * (3 * 1024 + 2 * 256));
  assert.equal(results[2].byteLength, planesBytes(1));
  assert.equal(results[3].byteLength, planesBytes(3));
  assert.equal(results[4].byteLength, 6 * 1024 * 256 / 32 * 34);
  assert.deepEqual(results[3].sizes, new Array(6).fill(3));
  assert.equal(results[4].evaluation.nats, dense.nats);
  for (const { sizes, byteLength, evaluation } of results.slice(0, 2)) {
    assert.ok(sizes.every((rank) => rank >= 32) && byteLength < 0.06 * 6 * 4 * 1024 * 256);
    assert.equal(evaluation.tokensScored, 29);
  }
  assert.deepEqual(
    readdirSync(models.path).filter((name) => !name.startsWith("tales-")),
    before
      .filter((name) => !name.startsWith("tales-")),
  );
});

test("benchPack() packs what it made, beside plain writes, and leaves no file behind", async () => {
  const source = join(models.path, "llama");
  makeCheckpoint(source, LLAMAS.tiny, { zeros: 0.75, layersPerFile: 1 });
  const before = readdirSync(models.path);
  const folder = models.path, rounds = 1, writeBytes = 1 << 20;
  const result = await benchPack({ source, quant: "q8", rounds, folder, writeBytes });
  assert.ok(result.byteLength > 2 * 2 * 192 * 64, "two layers of gates, up rows and down columns");
  assert.deepEqual(readdirSync(models.path), before);
});

test("benchLowBits(): fewer bits cost more", async () => {
  const folder = fileURLToPath(new URL("../models/tales", import.meta.url));
  const text = readFileSync(join(folder, "calibration.txt"), "utf8");
  const rows = await benchLowBits({ folder, text, tokensMax: 64, bits: [1], kinds: ["f16"] });
  assert.deepEqual(rows.map(({ name }) => name), ["f16", "1 bits"]);
  const [f16, one] = rows.map(({ perplexity }) => perplexity);
  assert.ok(f16 < one, `${f16}, ${one}`);
});
