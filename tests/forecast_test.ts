/** Forecasts against arithmetic by hand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { decoderConfig } from "../models/config.ts";
import { renderPlot } from "../src/cli/plot.ts";
import {
  DISPLACED_SECONDS_PER_LAYER,
  EARLY_FOUND,
  EARLY_VAIN,
  FAR_NEURONS,
  LANES_UNEVEN,
  ORDERED_READS,
  PASSES_READS_PER_MISS,
  POLICY_GAIN,
  READS_IN_RUN,
  SECONDS_PER_LAYER,
  SECONDS_PER_LISTED,
  SECONDS_PER_LISTED_FAR,
  SECONDS_PER_LISTED_RESIDENT,
  SECONDS_PER_MISS,
  SECONDS_PER_MISS_FAR,
} from "../src/forecast/engine_costs.ts";
import { expectedMisses } from "../src/forecast/expected_misses.ts";
import { expectedReads } from "../src/forecast/expected_reads.ts";
import type { ReadingShape } from "../src/forecast/expected_reads.ts";
import { forecast, smallestMemory } from "../src/forecast/forecast.ts";
import { planPlot } from "../src/forecast/plan_plot.ts";
import { renderForecasts } from "../src/forecast/render_forecasts.ts";
import { burstSeconds, tokenTime } from "../src/forecast/token_time.ts";
import type { RunThreads } from "../src/forecast/token_time.ts";
import type { LayerWork, TokenWork } from "../src/forecast/token_work.ts";
import type { FlashHeader } from "../src/format/header.ts";
import type { Prepared } from "../src/open.ts";
import { makePlan } from "../src/plan.ts";
import type { PlanWishes } from "../src/plan.ts";
import { ReadCosts } from "../src/probe/read_costs.ts";
import { handMadeProbe } from "./hand_made_probe.ts";

const PROBE = handMadeProbe(".");
const RING: RunThreads = {
  laneCount: 1,
  coreCount: 2,
  readers: { backend: "io_uring", readerCount: 1, depth: 32 },
};

function nearly(actual: number, expected: number, what = ""): void {
  const error = Math.abs(actual - expected);
  assert.ok(error <= 1e-9 * Math.max(1, Math.abs(expected)), `${what} ${actual}, not ${expected}`);
}

test("expectedMisses() follows the curve, less what the policy spares", () => {
  const curve = { slots: [0, 100, 200], missesPerToken: [50, 10, 0] };
  const layer = { listed: 50, slots: 50, neuronCount: 200, curve, curveListed: 50 };
  nearly(expectedMisses({ ...layer, policy: "lru" }), 30);
  // LRU misses 0.6 of the list: of that a share of 0.4 is spared.
  const { frequency } = POLICY_GAIN;
  nearly(expectedMisses({ ...layer, policy: "frequency" }), 30 * (1 - frequency * 0.4));
  // A list of half the length misses half.
  nearly(expectedMisses({ ...layer, listed: 25, policy: "lru" }), 15);
  assert.equal(expectedMisses({ ...layer, slots: 200, policy: "lru" }), 0);
  assert.equal(expectedMisses({ ...layer, listed: 0, policy: "lru" }), 0);
  const unknown = { ...layer, curve: null, policy: "lru" } as const;
  nearly(expectedMisses(unknown), 50 * Math.exp(-5.95 / 4));
});

const SHAPE: ReadingShape = {
  neuronCount: 1000,
  strideBytes: 1024,
  recordBytes: 1024,
  blockByteLength: 512,
  gapBytesMax: -1,
  mergedBytesMax: 65_536,
  isOrdered: false,
};

test("expectedReads() counts a read for each miss where nothing is merged", () => {
  assert.deepEqual(expectedReads(0, SHAPE), { reads: 0, bytes: 0, scattered: 0 });
  assert.deepEqual(expectedReads(10, SHAPE), { reads: 10, bytes: 10_240, scattered: 0 });
  // 700 bytes begin at any multiple of 4 in a block: 640 begin within 324 of it and take 1024, others 1536.
  const odd = { ...SHAPE, strideBytes: 700, recordBytes: 700 };
  const bytes = (82 * 1024 + 46 * 1536) / 128;
  nearly(expectedReads(10, odd).bytes, 10 * bytes);
});

test("expectedReads() merges neighbours by their chance", () => {
  // A tenth is missed; the next neuron joins if it is one of the next two (its gap: 0 or 1024 bytes).
  const joins = 1 - 0.9 ** 2, step = (0.1 + 2 * 0.09) / joins;
  const runMax = Math.min(14, 1 + Math.floor(63 / step)), run = (1 - joins ** runMax) / (1 - joins);
  const found = expectedReads(100, { ...SHAPE, gapBytesMax: 1024 });
  nearly(found.reads, 100 / run);
  nearly(found.scattered, 100 * joins);
  assert.ok(found.bytes > 102_400 && found.bytes < 102_400 + 2048 * found.scattered);
  // All neurons: runs of 14, the most that a ticket takes.
  const all = expectedReads(1000, { ...SHAPE, gapBytesMax: 0 });
  nearly(all.reads, 1000 / 14);
  nearly(all.bytes, 1000 * 1024);
  // An order by co-activation spares reads where they would be single.
  const ordered = expectedReads(1, { ...SHAPE, gapBytesMax: 0, isOrdered: true });
  assert.ok(Math.abs(ordered.reads - ORDERED_READS) < 0.01, `${ordered.reads}`);
  const passes = expectedReads(900, { ...SHAPE, gapBytesMax: 8192 }, true);
  nearly(passes.reads, 900 * PASSES_READS_PER_MISS);
});

test("burstSeconds() has the latency of a lone read, and the rate of a full queue", () => {
  const machine = { costs: new ReadCosts(PROBE.disk), threads: RING };
  const of = (reads: number) => burstSeconds({ reads, bytes: 8192 * reads, scattered: 0 }, machine);
  nearly(of(100).seconds, READS_IN_RUN * 100 * 20e-6);
  nearly(of(100).cpuSeconds, 100 * 5e-6);
  nearly(of(1).seconds, READS_IN_RUN * 100e-6);
  nearly(of(0.5).seconds, READS_IN_RUN * Math.max(1 - Math.exp(-0.5), 0.5) * 100e-6);
  assert.equal(of(0).seconds, 0);
});

/** Kernels go through weights with 1 GB/s. */
const work = (byteLength: number) => ({
  kernel: "matvec" as const,
  dtype: "q8" as const,
  cols: 1024,
  byteLength,
});
const readsOf = (reads: number) => ({ reads, bytes: 8192 * reads, scattered: 0 });

const LAYER: LayerWork = {
  attention: [work(1e6)],
  look: [work(1e5)],
  up: [{ ...work(4e5), kernel: "up" }],
  down: [{ ...work(2e5), kernel: "down" }],
  listed: 1000,
  misses: 40,
  earlyStarted: 10,
  early: readsOf(10),
  late: readsOf(30),
};

function tokenOf(layer: Partial<LayerWork>, hasEarlyLook = true): TokenWork {
  const layers = [{ ...LAYER, ...layer }];
  const logits = [work(5e5)], ticketPlaces = 32;
  return {
    layers,
    logits,
    hasEarlyLook,
    ticketPlaces,
    neuronCount: 2 ** 15,
    streamedBytes: 0,
    workingBytes: 2 ** 28,
  };
}

test("tokenTime() hides early reads behind attention, late ones behind up dots", () => {
  const list = 1000 * SECONDS_PER_LISTED + 40 * SECONDS_PER_MISS;
  const time = tokenTime(tokenOf({}), PROBE, RING);
  // Late: 30 reads at about 20 us take longer than 0.4 ms of up dots, by what the last group of 4 takes too.
  const costs = new ReadCosts(PROBE.disk);
  const late = READS_IN_RUN * 30 * costs.of({ ...RING.readers, depth: 30 }, 8192)!.seconds;
  nearly(time.attention, 1e-3);
  nearly(time.look, 1e-4);
  nearly(time.ffn, 6e-4);
  nearly(time.logits, 5e-4);
  nearly(time.memoryManagement, list);
  nearly(time.waitingFlash, late + 4 / 1000 * 4e-4 - 4e-4);
  assert.equal(time.waitingPredictor, 0);
  assert.equal(time.contention, 0);
  nearly(
    time.total,
    1e-3 + 1e-4 + 6e-4 + 5e-4 + list + time.waitingFlash + SECONDS_PER_LAYER,
  );
  nearly(time.flash - time.hidden, time.waitingFlash);
});

test("tokenTime() waits for the early look where it is longer than attention, and for lists that fill the rings", () => {
  const looks = { attention: [work(0)], look: [work(1e6)] };
  // The predictor's own io_uring begins 10 early reads after its look, 5 us each.
  const slow = tokenTime(tokenOf(looks), PROBE, RING);
  nearly(slow.waitingPredictor, 50e-6);
  const two = { ...RING, laneCount: 2, coreCount: 4 };
  const split = tokenTime(tokenOf({ ...looks, early: readsOf(0) }), PROBE, two);
  // Two lanes share the late look, as fast as memory serves both (1.5 GB/s); the early look is one thread's.
  nearly(split.waitingPredictor, 1e-3 - LANES_UNEVEN * 1e6 / 1.5e9);
  // Rings have 32 places: of 320 reads nine tenths are waited for before lanes have the list.
  const long = tokenTime(tokenOf({ early: readsOf(0), late: readsOf(320) }), PROBE, RING);
  const left = READS_IN_RUN * 320 * 20e-6;
  nearly(long.waitingFlash, 0.9 * left + Math.max(4e-4, 0.1 * left + 16e-7) - 4e-4);
});

test("tokenTime() can do no more than the cores can", () => {
  const large = { ...tokenOf({}, false), neuronCount: FAR_NEURONS };
  const one = tokenTime(large, PROBE, { ...RING, coreCount: 1 });
  const many = tokenTime(large, PROBE, RING);
  assert.equal(many.contention, 0);
  // On one core the CPU time of the reads comes on top, where it exceeds the waiting.
  const layer = LAYER,
    cpu = 1e-3 + 1e-4 + 6e-4 + 1000 * SECONDS_PER_LISTED_FAR +
      layer.misses * SECONDS_PER_MISS_FAR + 40 * 5e-6 + SECONDS_PER_LAYER;
  // Lanes take the only core: what the predictor does beside the list, and the reads, displace them while they would compute.
  const displaced = DISPLACED_SECONDS_PER_LAYER + 40 * 5e-6 - many.waitingFlash;
  assert.ok(displaced > 0);
  nearly(one.total, Math.max(many.total + displaced, cpu + 5e-4));
  const reads = { early: readsOf(0), late: readsOf(0) };
  assert.equal(tokenTime(tokenOf(reads, false), PROBE, { ...RING, coreCount: 1 }).contention, 0);
  const pread = tokenTime(tokenOf({ early: readsOf(0) }, false), PROBE, {
    ...RING,
    coreCount: 1,
    readers: { backend: "pread", readerCount: 8, depth: 8 },
  });
  assert.ok(pread.contention > 0);
});

test("tokenTime() has dearer lists where the tables are large, and nearly none where all is in memory", () => {
  const near = tokenOf({}), far = { ...near, neuronCount: FAR_NEURONS };
  nearly(
    tokenTime(far, PROBE, RING).memoryManagement,
    1000 * SECONDS_PER_LISTED_FAR + 40 * SECONDS_PER_MISS_FAR,
  );
  const none = { misses: 0, earlyStarted: 0, early: readsOf(0), late: readsOf(0) };
  nearly(
    tokenTime(tokenOf({ ...none, isResident: true }), PROBE, RING).memoryManagement,
    1000 * SECONDS_PER_LISTED_RESIDENT,
  );
});

test("tokenTime() of a stream is the longer of reading and computing", () => {
  const dense = { ...tokenOf({ early: readsOf(0), late: readsOf(0), look: [] }, false) };
  // The fastest reads are those of 256 KiB, 5000 a second.
  const bytes = 5000 * 262_144 / 100;
  const time = tokenTime({ ...dense, streamedBytes: bytes }, PROBE, RING);
  nearly(time.flash, 0.01);
  nearly(time.waitingFlash, 0.01 - 1.6e-3);
  const fast = tokenTime({ ...dense, streamedBytes: bytes / 100 }, PROBE, RING);
  assert.equal(fast.waitingFlash, 0);
});

/** A file of two layers with 1024 neurons of 64 numbers in q8: 136 bytes a bundle. */
function preparedFor(wishes: Partial<PlanWishes>): Prepared {
  const stride = 136, n = 1024, tensor = { byteOffset: 4096, byteLength: 64 };
  const curve = { slots: [0, 512, 1024], missesPerToken: [100, 20, 0] };
  const predictor = {
    rank: 32,
    a: tensor,
    b: tensor,
    bias: tensor,
    earlyBias: tensor,
    predictedShare: 100 / n,
    activeShare: 40 / n,
  };
  const header = {
    architecture: "opt",
    quantization: "q8",
    ffnQuantization: "q8",
    config: decoderConfig({
      hiddenSize: 64,
      intermediateSize: n,
      numLayers: 2,
      vocabSize: 1000,
      numAttentionHeads: 2,
      maxPositionEmbeddings: 128,
      positions: { kind: "learned", offset: 2 },
      norm: { kind: "layer", epsilon: 1e-5 },
      ffn: { activation: "relu", threshold: 0, isGated: false },
      bosTokenId: null,
      eosTokenIds: [],
      padTokenId: null,
      tiedEmbedding: true,
    }),
    tensors: [{ name: "embedTokens", byteOffset: 4096, byteLength: 68_000 }],
    layers: [0, 1].map((layer) => ({
      bundles: {
        byteOffset: 2 ** 20 * (layer + 1),
        bundleByteLength: stride,
        count: n,
        order: null,
      },
    })),
    predictors: { kind: "low-rank", layers: [predictor, predictor], missCurves: [curve, curve] },
  } as unknown as FlashHeader;
  const disk = { direct: true, blockByteLength: 512, bypassed: "yes", reason: "" } as const;
  const all: PlanWishes = {
    mode: "predicted",
    contextLength: 128,
    kv: "f32",
    promptChunk: 1,
    draftsMax: 0,
    laneCount: 1,
    readerCount: 1,
    backend: "io_uring",
    depth: 32,
    logitsRows: 4,
    observationRows: 0,
    audit: false,
    runtimeBytes: 0,
    freeBytes: 2 ** 32,
    ...wishes,
  };
  const settings = {
    wishes: all,
    policy: { name: "lru", window: Infinity },
    gapBytes: 0,
    hasEarlyLook: true,
  };
  return { header, damaged: null, disk, settings, plan: makePlan(header, disk, all) } as unknown as
    & Prepared
    & object;
}

test("forecast() follows the engine's plan", () => {
  const prepared = preparedFor({ ffnCache: 0.5 });
  assert.deepEqual(prepared.plan.slotCounts, [512, 512]);
  const found = forecast(prepared, PROBE, { position: 10, cores: 2 });
  assert.equal(found.bytes, prepared.plan.bytes);
  nearly(found.neuronsPerToken, 200);
  nearly(found.missesPerToken, 40);
  nearly(found.hitRate, 0.8);
  nearly(found.cachedShare, 0.5);
  // The ring has 8 places for early reads, which bring 6.4 neurons of the 20 of a layer.
  const early = Math.min(EARLY_FOUND * 20, 6.4);
  nearly(found.earlyRate, early / 20);
  const most = 2 * (20 + EARLY_VAIN * early);
  assert.ok(
    found.readsPerToken > 0.9 * most && found.readsPerToken < most,
    `${found.readsPerToken}`,
  );
  // A bundle of 136 bytes lies in one block of 512 or in two.
  assert.ok(found.bytesPerToken > 512 * found.readsPerToken);
  assert.ok(found.bytesPerToken < 1024 * found.readsPerToken);
  nearly(found.tokensPerSecond, 1000 / found.msPerToken.total);
});

test("forecast() of a model that is all in memory reads nothing; of a dense one, everything", () => {
  const resident = forecast(preparedFor({ ffnCache: 1 }), PROBE, { position: 0 });
  assert.ok(resident.isResident);
  assert.deepEqual([resident.readsPerToken, resident.msPerToken.flash, resident.hitRate], [
    0,
    0,
    1,
  ]);
  const dense = forecast(preparedFor({ ffnCache: 0, mode: "dense" }), PROBE, { position: 0 });
  nearly(dense.bytesPerToken, 2 * 1024 * 136);
  assert.equal(dense.neuronsPerToken, 2048);
  // Exactly the active ones, by their down columns: half a bundle each.
  const exact = forecast(preparedFor({ ffnCache: 0.5, mode: "exact" }), PROBE, { position: 0 });
  nearly(exact.neuronsPerToken, 80);
  nearly(exact.missesPerToken, 16);
});

test("smallestMemory() asks the plan", () => {
  const planOf = (memoryBytes: number) => preparedFor({ memoryBytes });
  const smallest = smallestMemory(planOf);
  assert.ok(planOf(smallest).plan.bytes.total <= smallest);
  assert.throws(() => planOf(smallest - 2 ** 20), { requiredBytes: smallest });
});

test("forecasts are printed side by side, and drawn", async () => {
  const rows = [0.5, 1].map((ffnCache) => ({
    now: forecast(preparedFor({ ffnCache }), PROBE, { position: 10 }),
    next: ffnCache < 1 ? forecast(preparedFor({ ffnCache: 1 }), PROBE, { position: 10 }) : null,
  }));
  const text = renderForecasts("about", rows, 5 * 2 ** 20);
  const lineOf = (name: string) =>
    text.split("\n").find((line) => line.startsWith(name))!.slice(21).trim().split(/ {2,}/);
  assert.deepEqual(lineOf("slots a layer"), ["512", "1024"]);
  assert.deepEqual(lineOf("a token: hit rate"), ["80.0 %", "resident"]);
  assert.deepEqual(lineOf("1 GiB more: tokens/s").length, 2);
  assert.match(text, /Smallest memory that works: 5MiB/);
  const svg = await renderPlot(planPlot(rows.map(({ now }) => now), "a model"));
  assert.ok(svg.includes("a model: foreseen") && svg.includes("waiting for flash"));
});
