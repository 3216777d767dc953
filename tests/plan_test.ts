import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { decoderConfig } from "../models/config.ts";
import { MemoryBudgetError } from "../src/errors.ts";
import type { DiskFacts } from "../src/flash/bypass.ts";
import type { FlashHeader } from "../src/format/header.ts";
import { bundleByteLength } from "../src/format/layout.ts";
import type { Quantization } from "../src/format/layout.ts";
import { makePlan } from "../src/plan.ts";
import type { Plan, PlanWishes } from "../src/plan.ts";

const MIB = 2 ** 20, GIB = 2 ** 30;

interface Size {
  hiddenSize: number;
  intermediateSize: number;
  numLayers: number;
  quantization?: Quantization;
  residentBytes?: number;
}

const SMALL: Size = { hiddenSize: 256, intermediateSize: 1024, numLayers: 6 };
/** OPT-6.7B in f16: its FFN takes 8 GiB. */
const LARGE: Size = {
  hiddenSize: 4096,
  intermediateSize: 16384,
  numLayers: 32,
  residentBytes: 2.5 * GIB,
};

/** What a plan needs to know of a header. */
function headerOf(
  { hiddenSize, intermediateSize, numLayers, quantization = "f16", residentBytes = MIB }: Size,
  missCurves?: { slots: number[]; missesPerToken: number[] }[],
): FlashHeader {
  const stride = bundleByteLength(quantization, hiddenSize);
  const tensor = { byteOffset: 4096 * 1000, byteLength: 64 };
  const predictor = {
    rank: 32,
    predictedShare: 0.01,
    a: tensor,
    b: tensor,
    bias: tensor,
    earlyBias: tensor,
  };
  return {
    quantization,
    ffnQuantization: quantization,
    config: decoderConfig({
      hiddenSize,
      intermediateSize,
      numLayers,
      vocabSize: 4096,
      numAttentionHeads: 2,
      maxPositionEmbeddings: 512,
      positions: { kind: "learned", offset: 2 },
      norm: { kind: "layer", epsilon: 1e-5 },
      ffn: { activation: "relu", threshold: 0, isGated: false },
      bosTokenId: null,
      eosTokenIds: [],
      padTokenId: null,
      tiedEmbedding: true,
    }),
    tensors: [{ name: "embedTokens", byteOffset: 4096, byteLength: residentBytes }],
    layers: Array.from({ length: numLayers }, (_, layer) => ({
      bundles: {
        byteOffset: 4096 * (1000 + layer * Math.ceil(stride * intermediateSize / 4096)),
        bundleByteLength: stride,
        count: intermediateSize,
      },
    })),
    predictors: missCurves ? { layers: missCurves.map(() => predictor), missCurves } : null,
  } as unknown as FlashHeader;
}

const diskOf = (blockByteLength: number): DiskFacts => ({
  direct: true,
  blockByteLength,
  bypassed: "yes",
  reason: "",
});

const WISHES: PlanWishes = {
  mode: "predicted",
  contextLength: 512,
  kv: "f16",
  promptChunk: 16,
  draftsMax: 7,
  laneCount: 1,
  readerCount: 8,
  backend: "pread",
  depth: 1,
  logitsRows: 4,
  observationRows: 0,
  audit: false,
  runtimeBytes: 100 * MIB,
  freeBytes: 8 * GIB,
};

const plan = (size: Size, wishes: Partial<PlanWishes>, block = 512): Plan =>
  makePlan(headerOf(size), diskOf(block), { ...WISHES, ...wishes });

const slotTotal = ({ slotCounts }: Plan) => slotCounts.reduce((sum, count) => sum + count, 0);

/** The smallest memory, as the refusal of next to none says. */
function requiredBytes(size: Size, wishes: Partial<PlanWishes>, block = 512): number {
  try {
    plan(size, { ...wishes, memoryBytes: 1 }, block);
  } catch (error) {
    if (error instanceof MemoryBudgetError) return error.requiredBytes;
    throw error;
  }
  assert.fail("one byte was enough");
}

const MODES = ["predicted", "exact", "dense"] as const;

for (const mode of MODES) {
  test(`makePlan() says the smallest memory that works, and refuses less: ${mode}`, () => {
    for (const block of [512, 4096]) {
      const required = requiredBytes(SMALL, { mode }, block);
      assert.equal(required % MIB, 0);
      const smallest = plan(SMALL, { mode, memoryBytes: required }, block);
      assert.ok(smallest.bytes.total <= required, `${smallest.bytes.total} of ${required}`);
      assert.ok(required - smallest.bytes.total < 2 * MIB, "and no less would do");
      assert.throws(() => plan(SMALL, { mode, memoryBytes: required - MIB }, block), {
        name: "MemoryBudgetError",
        requiredBytes: required,
        message: new RegExp(
          `^Cannot run within .*: the smallest memory that works is ${required / MIB}MiB$`,
        ),
      });
      for (const count of smallest.slotCounts) assert.ok(mode === "dense" || count >= 8);
    }
  });
}

test("makePlan() names a memory that does in the next process, too, and refuses no more than it must", () => {
  const required = requiredBytes(SMALL, {}), runtimeJitterBytes = 16 * MIB;
  assert.equal(requiredBytes(SMALL, { runtimeJitterBytes }), required + runtimeJitterBytes);
  const larger = { runtimeJitterBytes, runtimeBytes: WISHES.runtimeBytes + runtimeJitterBytes };
  plan(SMALL, { ...larger, memoryBytes: required + runtimeJitterBytes });
  plan(SMALL, { runtimeJitterBytes, memoryBytes: required });
});

const wished = fc.record({
  mode: fc.constantFrom(...MODES),
  block: fc.constantFrom(512, 4096),
  aboveBytes: fc.integer({ min: 0, max: 40 * MIB }),
  laneCount: fc.integer({ min: 1, max: 4 }),
  size: fc.record({
    hiddenSize: fc.constantFrom(32, 96, 256),
    intermediateSize: fc.constantFrom(96, 1024),
    numLayers: fc.integer({ min: 1, max: 9 }),
    quantization: fc.constantFrom("f32" as const, "f16" as const, "q8" as const, "q4" as const),
  }),
});

test("makePlan() keeps below the ceiling of the whole process", () => {
  fc.assert(fc.property(wished, ({ size, block, aboveBytes, ...wishes }) => {
    const memoryBytes = requiredBytes(size, wishes, block) + aboveBytes;
    const made = plan(size, { ...wishes, memoryBytes }, block);
    assert.ok(made.bytes.total <= memoryBytes, `${made.bytes.total} of ${memoryBytes}`);
    const { total, ...parts } = made.bytes;
    const sum = Object.values(parts).reduce((sum, bytes) => sum + bytes, 0);
    assert.equal(sum, total, "the parts add up");
    for (const [part, bytes] of Object.entries(parts)) assert.ok(bytes >= 0, part);
    for (const count of made.slotCounts) {
      assert.ok(count <= size.intermediateSize && count >= (wishes.mode === "dense" ? 0 : 8));
    }
    // A short context may leave room for all neurons in pools that a full one shares.
    const slotsFull = made.slotCountsFull.reduce((sum, count) => sum + count, 0);
    assert.equal(made.isResident, slotsFull === size.intermediateSize * size.numLayers);
  }));
});

test("makePlan() leaves no room for another slot, though fewer slots may need an arena less", () => {
  for (let memoryBytes = 3 * GIB; memoryBytes <= 12 * GIB; memoryBytes += 0.25 * GIB) {
    const made = plan(LARGE, { memoryBytes });
    const spareBytes = memoryBytes - made.bytes.total;
    // Pools are whole blocks of 4 KiB, arenas whole pages.
    const pages = 32 * 4096 + made.arenas.length * 65536;
    const most = made.shape.slotByteLength + pages;
    assert.ok(made.isResident || spareBytes <= most, `${memoryBytes}: ${spareBytes}`);
  }
});

test("makePlan() gives more slots for more memory, until all neurons have theirs", () => {
  const required = requiredBytes(SMALL, {});
  let before = 0;
  for (let more = 0; more <= 10; more++) {
    const made = plan(SMALL, { memoryBytes: required + more * MIB });
    assert.ok(slotTotal(made) >= before);
    before = slotTotal(made);
  }
  assert.equal(before, 6 * 1024);
});

test("makePlan() takes the cache's share at its word, unless memory is short", () => {
  assert.equal(slotTotal(plan(SMALL, { ffnCache: 0.2 })), Math.round(0.2 * 6144));
  assert.equal(slotTotal(plan(SMALL, { ffnCache: 1 })), 6144);
  const one = plan(SMALL, { ffnCache: 0 });
  assert.deepEqual(one.slotCounts, [1, 1, 1, 1, 1, 1]);
  const required = requiredBytes(SMALL, {});
  const short = plan(SMALL, { ffnCache: 0.9, memoryBytes: required + MIB });
  assert.ok(short.bytes.total <= required + MIB && slotTotal(short) < 0.9 * 6144);
});

test("makePlan() divides slots by the misses that they save", () => {
  const flat = { slots: [8, 1024], missesPerToken: [1, 0.9] };
  const steep = { slots: [8, 400, 1024], missesPerToken: [100, 1, 0] };
  const header = headerOf(SMALL, [flat, flat, flat, flat, flat, steep]);
  const { slotCounts } = makePlan(header, diskOf(512), { ...WISHES, ffnCache: 0.1 });
  assert.equal(slotCounts.reduce((sum, count) => sum + count), 614);
  assert.ok(slotCounts[5] >= 390, `${slotCounts}`);
  for (const count of slotCounts) assert.ok(count >= 8);
});

test("makePlan() streams dense through staging, but for whole layers that fit", () => {
  const streamed = plan(SMALL, { mode: "dense", ffnCache: 0.1 });
  assert.equal(slotTotal(streamed), 0);
  assert.ok(!streamed.isResident && streamed.shape.stagingChunkCount > 0);
  const half = plan(SMALL, { mode: "dense", ffnCache: 0.6 });
  assert.deepEqual(half.slotCounts, [0, 1024, 0, 1024, 0, 1024]);
  assert.deepEqual(half.residentLayers, [false, true, false, true, false, true]);
  assert.ok(!half.isResident && half.shape.stagingChunkCount > 0);
  const resident = plan(SMALL, { mode: "dense" });
  assert.ok(resident.isResident && resident.shape.stagingChunkCount === 0);
});

test("makePlan() keeps as many whole layers of dense as memory holds", () => {
  const required = requiredBytes(SMALL, { mode: "dense" }), layerBytes = 1024 * 1024;
  for (let layers = 0; layers <= 6; layers++) {
    const memoryBytes = required + layers * layerBytes + MIB / 2;
    const made = plan(SMALL, { mode: "dense", memoryBytes });
    const kept = made.residentLayers.filter((is) => is).length;
    assert.ok(kept >= layers - 1 && kept <= layers + 3, `${kept} of ${layers}`);
    assert.equal(slotTotal(made), kept * 1024);
    assert.ok(made.bytes.total <= memoryBytes);
  }
});

test("makePlan() knows layers that have a slot for each neuron, whatever the context", () => {
  const flat = { slots: [8, 1024], missesPerToken: [1, 0.9] };
  const steep = { slots: [8, 1024], missesPerToken: [100, 0] };
  const header = headerOf(SMALL, [flat, steep, flat, flat, flat, flat]);
  const made = makePlan(header, diskOf(512), { ...WISHES, ffnCache: 0.3 });
  assert.deepEqual(made.residentLayers, [false, true, false, false, false, false]);
  assert.ok(!made.isResident);
});

test("makePlan() reads the down column alone in exact, whose up rows stay in memory", () => {
  const { record, bytes } = plan(SMALL, { mode: "exact" });
  assert.deepEqual(record, { offset: 512, byteLength: 512, upOffset: 0, downOffset: 0 });
  assert.equal(bytes.residentUp, 6 * 1024 * 256 * 2);
});

test("makePlan() groups layers into arenas of at most 4 GiB, which hold all there is", () => {
  const made = plan(LARGE, { memoryBytes: 64 * GIB });
  assert.ok(made.isResident && made.arenas.length > 1);
  let next = 0, bytes = 0;
  for (const { range, byteLength, layers } of made.arenas) {
    assert.equal(range.from, next);
    assert.equal(layers.length, range.to - range.from);
    assert.ok(byteLength <= 4 * GIB);
    next = range.to;
    bytes += byteLength;
  }
  assert.equal(next, LARGE.numLayers);
  assert.equal(made.bytes.total, bytes + WISHES.runtimeBytes);
  assert.ok(plan(LARGE, { memoryBytes: 4 * GIB }).arenas.length === 1);
});

test("makePlan() takes smaller arenas where it is told to, and the same slots", () => {
  const whole = plan(SMALL, { ffnCache: 0.3 });
  const split = plan(SMALL, { ffnCache: 0.3, arenaBytesMax: whole.arenas[0].byteLength * 0.6 });
  assert.equal(whole.arenas.length, 1);
  assert.ok(split.arenas.length >= 2, `${split.arenas.length}`);
  assert.deepEqual(split.slotCounts, whole.slotCounts);
});

test("makePlan() refuses a model of which a layer takes more than an arena has", () => {
  assert.throws(() => plan(SMALL, { ffnCache: 1, arenaBytesMax: MIB }), {
    name: "RangeError",
    message: /a layer takes .+, more than 1\.00 MiB/,
  });
});
