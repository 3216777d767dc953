/** The benches that run fresh processes, with small values: nothing is measured here. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { benchLadder, renderLadder } from "../bench/ladder.ts";
import type { LadderBench } from "../bench/ladder.ts";
import { ladderPlot } from "../bench/ladder/plot.ts";
import { ladderRows } from "../bench/ladder/rows.ts";
import { findRuntime, runFresh, THIS_RUNTIME } from "../bench/runs/fresh_process.ts";
import { runHere } from "../bench/runs/one_run.ts";
import { promptIds } from "../bench/runs/prompt_ids.ts";
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
