/** The ten questions with small values: what they find makes sense, whatever the machine. */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { main } from "../bench/questions.ts";
import { attentionRow, RESHAPED, reshaped } from "../bench/questions/attention.ts";
import { compareLayouts, popularity } from "../bench/questions/bundling.ts";
import { sectorOverhead, whatIf, withSectors } from "../bench/questions/hardware.ts";
import { compareReading, copyUncached, pageMisses, readsOf } from "../bench/questions/os_cache.ts";
import { diskCostOf, machineOf } from "../bench/questions/probe.ts";
import { compareRanks } from "../bench/questions/rank.ts";
import { limitsOf, measureEngine, withLayerSeconds } from "../bench/questions/roofline.ts";
import { scaleRow } from "../bench/questions/scale.ts";
import { sensitivityOf } from "../bench/questions/sensitivity.ts";
import { compareSequences, sideBySide } from "../bench/questions/sequences.ts";
import { figure, renderTable } from "../bench/questions/table.ts";
import type { Table } from "../bench/questions/table.ts";
import { windowsWithin, windowsWithRoom } from "../bench/questions/window.ts";
import { Workbench } from "../bench/questions/workbench.ts";
import { halfMemory, replayedWorkload } from "../bench/questions/workloads.ts";
import { documentsOf } from "../src/documents.ts";
import { tokenTime } from "../src/simulate/cost_model.ts";
import { PAPER_SHARES } from "../src/simulate/model_work.ts";
import { MACHINES } from "../src/simulate/machines.ts";
import { bytesOf, SHAPES } from "../src/simulate/model_shape.ts";
import { replay } from "../src/simulate/replay.ts";
import { handMadeProbe } from "./hand_made_probe.ts";
import { PackedModels } from "./packed_models.ts";
import { makeTrace, parseTrace, traceOfLists } from "./random_trace.ts";
import { addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

const resident = { layerBytes: 1e6, logitsBytes: 1e5 };
const machine = MACHINES.cloud;
const trace = parseTrace(makeTrace({ seed: 7, tokens: 120 }));
const falls = (values: number[]) => values.every((value, i) => i === 0 || value <= values[i - 1]);

test("windowsWithRoom() reads less and holds more the longer the window", () => {
  const rows = windowsWithRoom({ trace, machine, resident }, [1, 2, 4, 8]);
  assert.ok(falls(rows.map(({ missShare }) => missShare)));
  assert.ok(falls(rows.map(({ residentShare }) => -residentShare)));
  assert.ok(rows[0].missShare > rows[3].missShare && rows[3].residentShare <= 1);
});

test("windowsWithin() ends with LRU, which is a window without end", () => {
  const rows = windowsWithin({ trace, machine, resident }, 0.5, [1, 1e6]);
  assert.deepEqual(rows.map(({ name }) => name), [
    "window 1",
    "window 1000000",
    "lru",
    "frequency",
  ]);
  assert.equal(rows[1].readsPerToken, rows[2].readsPerToken);
  assert.ok(rows.every(({ residentShare }) => residentShare <= 0.5));
});

test("compareLayouts() reads each miss once where nothing is merged, and friends twice as long", () => {
  // A bundle is a block, so that no two share one.
  const rows = compareLayouts(trace.withHeader({ strideBytes: 512, hiddenSize: 128 }), 0.5);
  const plain = rows.find(({ layout, isMerged }) => layout === "order of the model" && !isMerged)!;
  assert.equal(plain.reads, plain.misses);
  for (const row of rows) {
    assert.ok(row.reads <= row.misses && row.reads > 0, row.layout);
    if (!row.friends) continue;
    const { missed, loadedAgain, unasked } = row.friends;
    assert.ok(Math.abs(missed + loadedAgain + unasked - 1) < 1e-9, row.layout);
  }
  const orders = rows.filter(({ isMerged, friends }) => isMerged && !friends);
  assert.deepEqual(orders.map(({ misses }) => misses), orders.map(() => plain.misses));
});

test("popularity() is the share of those who chose the most popular", () => {
  const friends = Int32Array.of(3, 3, 3, 0, -1, 0, 1);
  assert.equal(popularity(friends, 1), 3 / 6);
  assert.equal(popularity(friends, 2), 5 / 6);
  assert.equal(popularity(friends, 99), 1);
});

test(
  "compareRanks() calibrates copies, and says what they read",
  { timeout: 120_000 },
  async () => {
    const workbench = new Workbench({ ...await benchOptions(), tokens: 60 });
    const options = { byteShares: [0.06], cacheShareOf: () => 0.2, tokensMax: 30 };
    const [row] = await compareRanks(workbench, options);
    assert.ok(row.ranks.every((rank) => rank >= 32) && row.ranks.length === 6);
    assert.ok(row.recall > 0.5 && row.recall <= 1 && row.precision > 0 && row.precision <= 1);
    assert.ok(row.readsPerToken > 0 && row.tokenSeconds > 0 && row.cacheShare === 0.2);
  },
);

test("scaleRow() needs memory for the resident third, and gains more where models are larger", () => {
  const small = scaleRow(SHAPES.opt6_7b, machine, PAPER_SHARES);
  const large = scaleRow(SHAPES.opt175b, machine, PAPER_SHARES);
  for (const { residentBytes, memoryBytes, totalBytes } of [small, large]) {
    assert.ok(residentBytes > totalBytes / 3 && residentBytes < memoryBytes);
    assert.ok(memoryBytes < totalBytes);
  }
  assert.ok(large.diskShare > small.diskShare && large.speedup > small.speedup);
});

test("sideBySide() has the union of what sequences list", () => {
  const one = sideBySide(trace, 1);
  assert.equal(one.tokenCount, trace.tokenCount);
  assert.equal(one.count("predicted"), trace.count("predicted"));
  const two = sideBySide(trace, 2), [first, second] = trace.documents;
  assert.equal(first, 0);
  const mask = (token: number) => trace.mask("predicted", token, 1)[2];
  assert.equal(two.mask("predicted", 0, 1)[2], mask(0) | mask(second));
});

test("compareSequences() shares neurons, so reads a token fall while a step's union grows", () => {
  const rows = compareSequences({ trace, machine, resident, cacheShare: 0.5 }, [1, 2, 4, 1000]);
  assert.deepEqual(rows.map(({ sequences }) => sequences), [1, 2, 4]);
  assert.ok(falls(rows.map(({ unionShare }) => -unionShare)));
  assert.ok(falls(rows.map(({ sharedBy }) => -sharedBy)) && rows[0].sharedBy > 0.99);
  assert.ok(rows[2].readsPerToken < rows[0].readsPerToken);
});

test("pageMisses() counts pages that are not among the last used", () => {
  const at = (page: number, byteLength = 1) => ({ byteOffset: 4096 * page + 10, byteLength });
  assert.equal(pageMisses([at(0), at(1), at(0), at(2), at(1)], 2), 4);
  assert.equal(pageMisses([at(0), at(1), at(0), at(2), at(1)], 3), 3);
  assert.equal(pageMisses([at(0, 4096)], 3), 2);
});

test("readsOf() lists what the replay counts", () => {
  const { reads, tokens } = readsOf(trace, 0.5);
  assert.equal(tokens, trace.tokenCount - 30);
  const slotCounts = [48, 48], policy = { name: "frequency", window: Infinity } as const;
  const counted = replay(trace, { slotCounts, policy, warmupTokens: 30 });
  assert.equal(reads.length, counted.reads);
  assert.equal(reads.reduce((sum, { byteLength }) => sum + byteLength, 0), counted.bytes);
});

test("compareReading() reads the same bytes in each way", async () => {
  const source = await models.flashOf("tales", "q8"), copy = models.file("copy.bin");
  copyUncached(source, copy);
  const size = readFileSync(source).length;
  assert.deepEqual(readFileSync(copy).subarray(0, size), readFileSync(source));
  const reads = Array.from({ length: 20 }, (_, i) => ({ byteOffset: 8192 * i, byteLength: 4096 }));
  const rows = compareReading(copy, reads);
  assert.equal(rows.length, 3);
  assert.ok(rows.every(({ checksum }) => checksum === rows[0].checksum && checksum !== 0));
});

test("sensitivityOf() of a faster machine is less time, and the other way round", () => {
  const rows = sensitivityOf(halfMemory(SHAPES.opt6_7b, machine));
  assert.ok(
    rows.some(({ doubled }) => doubled < -0.05) && rows.some(({ doubled }) => doubled > 0.05),
  );
  for (const { parameter, halved, doubled } of rows) {
    assert.ok(halved * doubled <= 1e-12, `${parameter}: ${halved}, ${doubled}`);
  }
});

test("reshaped() keeps the number of weights, within a layer", () => {
  const { total } = bytesOf(SHAPES.opt6_7b);
  for (const shape of RESHAPED) {
    const bytes = bytesOf(shape), perLayer = (bytes.attention + bytes.ffn) / shape.numLayers;
    assert.ok(Math.abs(bytes.total - total) <= perLayer, shape.name);
  }
  assert.deepEqual(reshaped("OPT-6.7B", {}), SHAPES.opt6_7b);
});

test("attentionRow() gains more the more of the weights are FFN", () => {
  const rows = [2, 4, 8].map((ratio) =>
    attentionRow(reshaped(`${ratio}`, { intermediateSize: ratio * 4096 }), machine)
  );
  assert.ok(falls(rows.map(({ speedup }) => -speedup)));
  assert.deepEqual(rows.map(({ fits }) => fits), [false, true, true]);
});

test("limitsOf() puts Belady and perfect prediction below the engine", () => {
  const rows = limitsOf(trace, { resident, cacheShare: 0.5 });
  const of = (name: string) => rows.find((row) => row.name === name)!.work;
  assert.ok(of("belady").hitShare >= of("frequency").hitShare);
  assert.equal(rows.length, 6);
  const perfect = replay(trace.perfectlyPredicted(), {
    slotCounts: [96, 96],
    policy: { name: "lru", window: Infinity },
  });
  assert.equal(perfect.listed, trace.count("active"));
});

test("withLayerSeconds() explains the time of a token", () => {
  const { work } = replayedWorkload(trace, { machine, resident });
  const inMemory = { ...work, reads: 0, readBytes: 0 };
  const { total } = tokenTime(inMemory, withLayerSeconds(machine, inMemory, 0.5));
  assert.ok(Math.abs(total - 0.5) < 1e-12);
});

test("whatIf() begins with what is, and withSectors() reads whole ones", () => {
  const workload = replayedWorkload(trace, { machine, resident });
  const [asItIs, ...others] = whatIf(workload);
  assert.equal(asItIs.tokenSeconds, tokenTime(workload.work, machine).total);
  assert.ok(others.some(({ tokenSeconds }) => tokenSeconds < asItIs.tokenSeconds));
  const bytes = [512, 4096].map((block) => withSectors(trace, block).bytesPerToken);
  assert.ok(bytes[1] > bytes[0]);
  assert.equal(sectorOverhead(SHAPES.opt6_7b, { ...machine.disk, blockBytes: 65_536 }), 4);
});

test("diskCostOf() solves for the cost of a read and of its bytes", () => {
  const secondsOf = (bytes: number) => 10e-6 + bytes / 2e9;
  const cost = diskCostOf({
    full: [secondsOf(4096), secondsOf(65_536)],
    lone: [secondsOf(4096) + 50e-6, 1],
  });
  assert.ok(Math.abs(cost.bytesPerSecond / 2e9 - 1) < 1e-9);
  assert.ok(Math.abs(cost.secondsPerRead - 10e-6) < 1e-12);
  assert.ok(Math.abs(cost.firstReadSeconds - 50e-6) < 1e-12);
});

test("machineOf() has the probe's figures", () => {
  const { disk, memory } = machineOf(handMadeProbe("."));
  // A full queue: 20 us up to 16 KiB, and between 16 and 256 KiB half the way to 200 us; lone reads 100 us.
  const secondsPerByte = (110e-6 - 20e-6) / (65_536 - 4096);
  assert.ok(Math.abs(disk.bytesPerSecond * secondsPerByte - 1) < 1e-9);
  assert.ok(Math.abs(disk.firstReadSeconds - 80e-6) < 1e-12);
  assert.equal(memory.bytesPerSecond, 1e9);
  assert.ok(Math.abs(memory.sparseBytesPerSecond / 1e9 - 1) < 1e-9);
});

test("renderTable() aligns, and figure() keeps three digits", () => {
  const table = { title: "T", head: ["a", "b"], rows: [["x", "1.5"], ["long", "20"]] };
  assert.equal(
    renderTable(table),
    "T\n\n| a    |   b |\n| ---- | --: |\n| x    | 1.5 |\n| long |  20 |",
  );
  assert.deepEqual([0, 0.01234, 1.2345, 123.45, 12345.6, NaN].map(figure), [
    "0",
    "0.0123",
    "1.23",
    "123",
    "12346",
    "-",
  ]);
});

test("main() answers questions as tables whose rows are whole", { timeout: 120_000 }, async () => {
  const { modelPath } = await benchOptions();
  const args = ["--model", modelPath, "--tokens", "80", "--json"];
  const lines: string[] = [], log = console.log;
  console.log = (line: string) => void lines.push(line);
  try {
    await main(["1", "2", "4", "5", "7", "8", "10", ...args, "--text", models.file("text.txt")]);
  } finally {
    console.log = log;
  }
  const answers = lines.map((line) => JSON.parse(line) as { number: number; tables: Table[] });
  assert.deepEqual(answers.map(({ number }) => number), [1, 2, 4, 5, 7, 8, 10]);
  for (const { number, tables } of answers) {
    assert.ok(tables.length > 0);
    for (const { title, head, rows } of tables) {
      assert.ok(rows.length > 0, `${number}, ${title}`);
      for (const row of rows) {
        assert.equal(row.length, head.length, `${number}, ${title}`);
        assert.ok(!row.some((cell) => /NaN|undefined|Infinity/.test(cell)), `${row}`);
      }
    }
  }
});

test("measureEngine() takes a layer's time from the largest cache", {
  timeout: 120_000,
}, async () => {
  const workbench = new Workbench({ ...await benchOptions(), tokens: 16 });
  const { rows, residentSeconds } = await measureEngine(workbench, [0.5]);
  assert.deepEqual(rows.map(({ cacheShare }) => cacheShare), [0.5]);
  const [{ work, modelSeconds, openSeconds, measuredSeconds }] = rows;
  assert.ok(work.reads > 0 && residentSeconds > 0 && openSeconds >= modelSeconds);
  // A layer takes no less than no time, so the model may only be slower.
  assert.ok(modelSeconds >= measuredSeconds - 1e-12);
});

test("main() refuses questions, machines and folders that there are not", async () => {
  await assert.rejects(() => main(["11"]), /there are 1 to 10/);
  await assert.rejects(() => main(["1", "--machine", "abacus"]), /there are cloud/);
  await assert.rejects(() => main(["1", "--plots", "/no/such/folder"]), RangeError);
  await assert.rejects(() => main(["1", "--tokens", "0"]), RangeError);
});

test("traceOfLists() is the trace of what it was told", () => {
  const { documents, tokenCount, listed, ...trace } = parseTrace(
    traceOfLists([[1, 31], []], { neurons: 32 }),
  );
  assert.deepEqual([documents, tokenCount, listed, trace.wordCount], [[0], 2, "active", 1]);
});

/** A model with predictors of random bytes, and some text. */
async function benchOptions() {
  const modelPath = models.file("predicted.flash");
  copyFileSync(await models.flashOf("tales", "q8"), modelPath);
  addPredictors(modelPath);
  const text = readFileSync(new URL("../models/tales/calibration.txt", import.meta.url), "utf8");
  const documents = documentsOf(text);
  writeFileSync(models.file("text.txt"), documents.slice(-4).join("<|endoftext|>"));
  return {
    modelPath,
    documents: documents.slice(-4),
    calibrationDocuments: documents.slice(0, 12),
    textName: "calibration.txt",
    repeat: 1,
    machine,
    plotFolder: null,
  };
}
