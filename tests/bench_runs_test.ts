/** The benches that run fresh processes, with small values: nothing is measured here. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { benchLadder, renderLadder } from "../bench/ladder.ts";
import type { LadderBench } from "../bench/ladder.ts";
import type { LadderResult } from "../bench/ladder/measure.ts";
import { ladderPlot } from "../bench/ladder/plot.ts";
import { ladderRows } from "../bench/ladder/rows.ts";
import { findRuntime, runFresh, THIS_RUNTIME } from "../bench/runs/fresh_process.ts";
import { runHere } from "../bench/runs/one_run.ts";
import { promptIds } from "../bench/runs/prompt_ids.ts";
import { benchModel, fileOf, renderModel } from "../bench/models.ts";
import { paperModel } from "../bench/models/paper.ts";
import { benchRuntimes, renderRuntimes, withTable } from "../bench/runtimes.ts";
import { renderPlot } from "../src/cli/plot.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { ffnByteLength } from "../src/plan.ts";
import { synthesize } from "../src/synth/synthesize.ts";
import { TokenChain } from "../src/synth/token_chain.ts";
import { PackedModels } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

const tiny = models.file("tiny.flash");
const made = synthesize({ shape: "tiny", quant: "q8", target: tiny });
const SMALL = { tokens: 4, denseTokens: 3, prompt: 12, rounds: 1, open: { lanes: 1, readers: 1 } };

test("ladderRows() begins with nothing and ends with all", async () => {
  await made;
  const rows = ladderRows({ files: [tiny, tiny], ordered: tiny, budget: { ffnCache: 0.3 } });
  assert.deepEqual(rows.map(({ name }) => name), [
    "naive",
    "hybrid",
    "+ predictor",
    "+ windowing",
    "+ bundling",
    "+ cache by frequency",
    "+ overlap",
    "+ neuron order",
    "+ q8",
  ]);
  assert.deepEqual(rows[6].open, { ffn: "predicted", ffnCache: 0.3 }, "the engine as it is");
  const { memory } = ladderRows({ files: [tiny] })[1].open;
  using file = FlashFile.open(tiny);
  assert.ok(Number(memory) > ffnByteLength(file.header) / 2);
});

test("ladderRows() refuses a file without predictors", async () => {
  const path = await models.flashOf("opt");
  assert.throws(() => ladderRows({ files: [path] }), {
    name: "RangeError",
    message: /has no predictors: calibrate it/,
  });
});

test("benchLadder() measures every rung, which reads less and less, and draws them", {
  timeout: 120_000,
}, async () => {
  await made;
  const names: string[] = [];
  const bench: LadderBench = { ...SMALL, files: [tiny], budget: { ffnCache: "30%" } };
  const results = await benchLadder(bench, ({ name }) => void names.push(name), runHere);
  assert.deepEqual(names, results.map(({ name }) => name));
  using file = FlashFile.open(tiny);
  const ffn = ffnByteLength(file.header);
  const [naive, hybrid, predictor, windowing, bundling] = results;
  assert.ok(naive.bytesPerToken > ffn, "all weights are read for each token");
  // A stream reads ahead, past the last token too.
  assert.ok(hybrid.bytesPerToken < 0.8 * naive.bytesPerToken && hybrid.slotShare > 0.1);
  assert.ok(predictor.bytesPerToken < ffn && predictor.slotShare < 0.3);
  assert.ok(windowing.bytesPerToken < predictor.bytesPerToken);
  assert.ok(bundling.readsPerToken < windowing.readsPerToken);
  assert.equal(naive.checksum, hybrid.checksum);
  assert.equal(new Set(results.slice(2).map(({ checksum }) => checksum)).size, 1);
  for (const { totalMs, split, ioMs, keptBytes, peakBytes } of results) {
    const { compute, flash, predictor, other } = split;
    assert.ok(Math.abs(totalMs - compute - flash - predictor - other) < 1e-6 * totalMs);
    assert.ok(ioMs >= 0 && keptBytes > 0 && peakBytes > keptBytes, `${ioMs}, ${keptBytes}`);
  }
  const lines = renderLadder(results, "tiny").split("\n");
  assert.equal(lines.length, 4 + results.length);
  assert.match(lines[4], /^\| naive .*\| +1\.00 \|$/);
  assert.match(await renderPlot(ladderPlot(results, "tiny")), /^<svg[^]*\+ windowing[^]*tiny/);
});

test("benchLadder() refuses a budget that a rung cannot keep to, before it runs any", async () => {
  await made;
  const bench: LadderBench = { ...SMALL, files: [tiny], budget: { memory: "1MiB" } };
  await assert.rejects(benchLadder(bench, () => assert.fail("ran")), { name: "MemoryBudgetError" });
});

test("benchModel() measures three rows, of models with a gate and with experts", {
  timeout: 120_000,
}, async () => {
  for (const [shape, groups] of [["tiny-llama", 2], ["tiny-mixtral", 1]] as const) {
    const modelPath = models.file(`${shape}.flash`);
    await synthesize({ shape, quant: "q8", target: modelPath });
    const bench = { ...SMALL, tokens: 8, denseTokens: 8, modelPath, budget: { ffnCache: 0.4 } };
    const result = await benchModel(bench, undefined, runHere);
    const { rows: [naive, half, all], modelBytes } = result;
    assert.match(result.title, /^tiny-\w+\.flash, q8, \d.* within 40\.0 % of the FFN$/);
    assert.equal(new Set(result.rows.map(({ checksum }) => checksum)).size, 1, "along the chain");
    assert.equal(new Set(result.rows.map(({ group }) => group)).size, groups);
    assert.ok(naive.bytesPerToken > (groups === 2 ? 0.9 : 0.15) * modelBytes);
    assert.ok(half.bytesPerToken < 0.8 * naive.bytesPerToken);
    assert.ok(all.bytesPerToken < 0.8 * naive.bytesPerToken);
    assert.ok(all.keptBytes > naive.keptBytes && all.managementMs > 0);
    const lines = renderModel(result).split("\n");
    assert.match(lines[4], /^\| naive .* 1\.00 \|.* - \| +- \|$/);
    assert.equal(lines.length, 7);
  }
});

test("renderModel() has the paper's figures beside", () => {
  const config = { hiddenSize: 4544, numLayers: 32 };
  const paper = paperModel({ architecture: "falcon", config });
  assert.equal(paperModel({ architecture: "mixtral", config }), null);
  const row = { name: "row", split: {}, tokensPerSecond: 1 } as LadderResult;
  const text = renderModel({
    modelPath: "",
    title: "",
    modelBytes: 1,
    rows: [row, row, row],
    paper,
  });
  const [naive, half, all] = text.split("\n").slice(4).map((line) => line.split("|").slice(-3, -1));
  const trimmed = [naive, half, all].map((cells) => cells.map((cell) => cell.trim()));
  assert.deepEqual(trimmed, [["3095", "1.00"], ["-", "-"], ["161 + 92 + 453 = 706", "4.38"]]);
});

test("fileOf() takes files and shapes", () => {
  assert.deepEqual(fileOf("phi-2", { folder: "x", quant: "q8" }).made, {
    shape: "phi-2",
    quant: "q8",
  });
  assert.throws(() => fileOf("phi-2", { quant: "q8" }), /say where to with --folder/);
  assert.throws(() => fileOf("phi-3", { quant: "q8" }), /no such file, and no such shape/);
});

test(
  "benchRuntimes() runs fresh processes and renders a row each",
  { timeout: 120_000 },
  async () => {
    await made;
    const results = await benchRuntimes({
      modelPath: tiny,
      open: { ...SMALL.open, ffnCache: "30%" },
      runtimes: [THIS_RUNTIME],
      tokens: 4,
      prompt: 12,
      rounds: 1,
    });
    const [{ runtime, startMs, openMs, firstTokenMs, msPerToken, peakBytes }] = results;
    assert.match(runtime, /^(Deno|Bun|Node) \d/);
    for (const ms of [startMs, openMs, firstTokenMs, msPerToken]) assert.ok(ms > 0 && ms < 60_000);
    assert.ok(peakBytes > 1 << 20);
    assert.match(renderRuntimes(results), new RegExp(`\\n\\| ${runtime} +\\| +(pread|io_uring) `));
  },
);

test("runFresh() throws what the process said", async () => {
  await made;
  const request = { modelPath: tiny, prompt: [1], tokens: 1, open: { memory: "1MiB" } };
  await assert.rejects(runFresh(request), /failed: MemoryBudgetError: Cannot run within 1\.00 MiB/);
});

test("findRuntime() finds the runtime that this is", async () => {
  assert.equal(await findRuntime(THIS_RUNTIME.name), THIS_RUNTIME);
});

test("promptIds() follows the chain of a synthetic model, and else a text", async () => {
  const { header } = await made;
  assert.deepEqual(promptIds(tiny, 5), TokenChain.of(header).stretch({ start: 0, count: 5 }));
  const tales = await models.flashOf("tales", "q8");
  const ids = promptIds(tales, 7, "Once upon a time there was a king who had a daughter.");
  assert.equal(ids.length, 7);
  assert.throws(() => promptIds(tales, 70, "Once upon a time"), /the text has \d+$/);
});

test("withTable() replaces what is between the markers of README.md, and nothing else", () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const changed = withTable(readme, "| a table |");
  assert.ok(changed.includes("begin -->\n\n| a table |\n\n<!--"));
  assert.equal(withTable(changed, "| another |"), withTable(readme, "| another |"));
  assert.throws(() => withTable("# A document", "| a table |"), RangeError);
});
