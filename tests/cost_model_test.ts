/** The cost model against arithmetic by hand, the paper's figures, and its own limits. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkAgainstPaper } from "../bench/questions/scale.ts";
import { seededRandom } from "../src/random.ts";
import { readingSeconds, replayedWork, rooflineOf, tokenTime } from "../src/simulate/cost_model.ts";
import {
  memoryBytesOf,
  naiveTime,
  PAPER_SHARES,
  sharesWithin,
  workOf,
  workWithin,
} from "../src/simulate/model_work.ts";
import type { Machine, TokenWork } from "../src/simulate/cost_model.ts";
import { MACHINES } from "../src/simulate/machines.ts";
import { bytesOf, keyValueBytes, predictorBytes, SHAPES } from "../src/simulate/model_shape.ts";
import { replay } from "../src/simulate/replay.ts";
import { makeTrace, parseTrace } from "./random_trace.ts";

const MACHINE: Machine = {
  name: "by hand",
  disk: { bytesPerSecond: 1000, secondsPerRead: 0.01, firstReadSeconds: 0, blockBytes: 10 },
  memory: { bytesPerSecond: 100, sparseBytesPerSecond: 50 },
  flopsPerSecond: 1000,
  secondsPerLayer: 0.1,
};

const WORK: TokenWork = {
  numLayers: 2,
  layerBytes: 100,
  logitsBytes: 50,
  listedBytes: 100,
  hitShare: 0.5,
  reads: 10,
  readBytes: 500,
  flopsPerByte: 1,
  earlyShare: 0.25,
  overlapsHits: true,
};

function nearly(actual: object, expected: Record<string, number>): void {
  for (const [name, value] of Object.entries(expected)) {
    const found = (actual as Record<string, number>)[name];
    assert.ok(Math.abs(found - value) < 1e-9, `${name}: ${found}, expected ${value}`);
  }
}

test("tokenTime() adds what the parts take, less what hides", () => {
  // Reads: 10 of 0.01 s and 500 bytes of 1000 a second. A quarter is early; the hits take 1 s, so all of the rest hides.
  nearly(tokenTime(WORK, MACHINE), {
    attention: 1,
    logits: 0.5,
    ffn: 2,
    layers: 0.2,
    reading: 0.6,
    hidden: 0.6,
    total: 3.7,
  });
  nearly(tokenTime({ ...WORK, earlyShare: 0, overlapsHits: false }, MACHINE), {
    hidden: 0,
    total: 4.3,
  });
  // 20 operations a byte at 1000 a second: 50 bytes a second.
  nearly(tokenTime({ ...WORK, flopsPerByte: 20 }, MACHINE), { attention: 2, logits: 1, ffn: 2 });
  // Ten times the reads: early ones hide behind 1 s of attention, late ones behind 1 s of hits.
  nearly(tokenTime({ ...WORK, reads: 100, readBytes: 5000 }, MACHINE), {
    reading: 6,
    hidden: 2,
    total: 7.7,
  });
});

test("readingSeconds() counts a first read for each list that reads", () => {
  const disk = { ...MACHINE.disk, firstReadSeconds: 1 };
  const of = (reads: number) => readingSeconds({ reads, readBytes: 0, numLayers: 2 }, disk);
  assert.equal(of(0), 0);
  nearly({ many: of(1000) }, { many: 2 + 10 });
  nearly({ few: of(2) }, { few: 2 * (1 - Math.exp(-1)) + 0.02 });
});

test("bytesOf() has the published sizes of OPT", () => {
  // Zhang et al. 2022 name the models by their parameters; positions, norms and biases are not counted here.
  const published = { opt6_7b: 6.7, opt13b: 13, opt30b: 30, opt66b: 66, opt175b: 175 } as const;
  for (const [name, billions] of Object.entries(published)) {
    const parameters = bytesOf(SHAPES[name as keyof typeof published]).total / 2 / 1e9;
    assert.ok(Math.abs(parameters / billions - 1) < 0.02, `${name}: ${parameters} billions`);
  }
  nearly(bytesOf({ ...SHAPES.opt6_7b, keyValueShare: 1 / 4, ffnMatrices: 3 }), {
    attention: 32 * 2.5 * 4096 * 4096 * 2,
    ffn: 32 * 16_384 * 3 * 4096 * 2,
    bundle: 3 * 4096 * 2,
  });
  assert.equal(keyValueBytes(SHAPES.tales, 100), 2 * 4 * 256 * 100 * 6);
  assert.equal(predictorBytes(SHAPES.tales, 32), 6 * 32 * (256 + 1024) * 34 / 32);
});

test("workOf() covers whole blocks", () => {
  const disk = { ...MACHINE.disk, blockBytes: 4096 };
  const shares = { ...PAPER_SHARES, listed: 0.1, missed: 0.05, readsPerMiss: 2, cached: 0 };
  const work = workOf({ ...SHAPES.tales, hiddenSize: 256 }, shares, disk);
  // 5 % of 6 x 1024 neurons; a bundle of 1 KiB takes a block of 4 KiB.
  nearly(work, { reads: 614.4, readBytes: 307.2 * 4096, hitShare: 0.5, flopsPerByte: 1 });
  nearly(work, { listedBytes: 0.1 * 6 * 1024 * 1024, logitsBytes: 4096 * 256 * 2 });
});

test("sharesWithin() caches what is left, and streams what finds no place", () => {
  const shape = SHAPES.opt6_7b, resident = memoryBytesOf(shape, { ...PAPER_SHARES, cached: 0 });
  const paper = sharesWithin(shape, memoryBytesOf(shape, PAPER_SHARES));
  assert.ok(Math.abs(paper.shares.missed - PAPER_SHARES.missed) < 1e-4, `${paper.shares.missed}`);
  assert.equal(paper.streamedBytes, 0);
  const all = sharesWithin(shape, 2 * bytesOf(shape).total);
  assert.deepEqual([all.shares.cached, all.shares.missed, all.streamedBytes], [1, 0, 0]);
  const tight = sharesWithin(shape, resident - 1000);
  assert.deepEqual([tight.shares.cached, tight.shares.missed, tight.streamedBytes], [0, 0.1, 1000]);
  const { disk } = MACHINES.m1;
  const without = workOf(shape, tight.shares, disk);
  assert.equal(workWithin(shape, resident - 1000, disk).readBytes, without.readBytes + 1000);
});

test("naiveTime() reads what memory does not hold, and hides nothing", () => {
  const { total } = bytesOf(SHAPES.tales), computed = total / 100 + 6 * 0.1;
  // f16: one operation a byte.
  nearly(naiveTime(SHAPES.tales, MACHINE, 0), {
    reading: total / 1000,
    total: computed + total / 1000,
  });
  nearly(naiveTime(SHAPES.tales, MACHINE, total + 1), { reading: 0, total: computed });
});

test("rooflineOf() is never above what the model says", () => {
  nearly(rooflineOf(WORK, MACHINE), {
    flash: 0.5,
    reads: 0.6,
    memory: 2.5,
    arithmetic: 0.25,
    bound: 2.5,
  });
  const random = seededRandom(3);
  for (let run = 0; run < 500; run++) {
    const work = {
      ...WORK,
      layerBytes: 1000 * random(),
      listedBytes: 1000 * random(),
      hitShare: random(),
      reads: 100 * random(),
      readBytes: 5000 * random(),
      flopsPerByte: 20 * random(),
      earlyShare: random(),
    };
    const { bound } = rooflineOf(work, MACHINE), { total } = tokenTime(work, MACHINE);
    assert.ok(bound <= total, `run ${run}: a bound of ${bound} s above ${total} s`);
  }
});

test("replayedWork() takes its counts from the replay", () => {
  const trace = parseTrace(makeTrace({ seed: 5 }));
  const options = { slotCounts: [30, 30], policy: { name: "lru", window: Infinity } } as const;
  const result = replay(trace, { ...options, earlyLook: true });
  const work = replayedWork(trace, result, { layerBytes: 7, logitsBytes: 3 });
  assert.equal(work.reads * trace.tokenCount, result.reads);
  assert.equal(work.readBytes * trace.tokenCount, result.bytes);
  assert.equal(work.listedBytes * trace.tokenCount, result.listed * 256);
  assert.ok(work.earlyShare > 0 && work.earlyShare < 1 && work.hitShare > 0 && work.hitShare < 1);
  assert.deepEqual([work.layerBytes, work.logitsBytes, work.flopsPerByte], [7, 3, 1]);
});

test("the cost model is within 15 % of the paper's figures for OPT 6.7B", () => {
  for (const { what, paper, model } of checkAgainstPaper()) {
    assert.ok(Math.abs(model / paper - 1) < 0.15, `${what}: ${model}, the paper has ${paper}`);
  }
});
