import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  observationByteLength,
  paddedRows,
  planArena,
  recordOf,
  slotByteLength,
} from "../src/arena.ts";
import type { ArenaPlan, ArenaShape, ScratchPlan } from "../src/arena.ts";
import { bundleByteLength, matrixByteLength, QUANTIZATIONS } from "../src/format/layout.ts";
import { accumulatorByteLength, preparedByteLength, STATICS_BYTE_LENGTH } from "../src/kernels.ts";

interface Range {
  name: string;
  at: number;
  byteLength: number;
}

/** Every range of a plan, with the length that its users take. */
function rangesOf(plan: ArenaPlan, shape: ArenaShape): Range[] {
  const { hiddenSize: d, intermediateSize: n, contextLength, ffnQuantization } = shape;
  const rank = Math.max(shape.rankMax, 32);
  const all = (name: string, addresses: number[], byteLength: number) =>
    addresses.map((at, i) => ({ name: `${name} ${i}`, at, byteLength }));
  const one = (name: string, at: number, byteLength: number) => ({ name, at, byteLength });
  const scratch = (name: string, plan: ScratchPlan) => [
    one(`${name} normed`, plan.normed, 4 * d),
    one(`${name} prepared`, plan.prepared, preparedByteLength(d)),
    one(`${name} lookPrepared`, plan.lookPrepared, preparedByteLength(d)),
    one(`${name} lowRankPrepared`, plan.lowRankPrepared, preparedByteLength(rank)),
    one(`${name} attentionScores`, plan.attentionScores, 16 * Math.ceil(contextLength / 4)),
  ];
  const pass = (name: string, arrays: ArenaPlan["passes"][number]) =>
    Object.entries(arrays).map(([array, at]) =>
      one(`${name} ${array}`, at, 4 * shape.passNeuronsMax)
    );
  return [
    one("statics", 0, STATICS_BYTE_LENGTH),
    // Sections are read in whole pages.
    ...plan.sections.map((address, i) => {
      const { byteOffset, byteLength } = shape.sections[i];
      const at = address - byteOffset % 4096;
      const end = Math.ceil((address + byteLength) / 4096) * 4096;
      return one(`section ${i}`, at, end - at);
    }),
    ...all("residentUp", plan.residentUp, matrixByteLength(ffnQuantization, n, d)),
    ...all("keys", plan.keys, 4 * d * contextLength),
    ...all("values", plan.values, 4 * d * contextLength),
    one("residual", plan.residual, 4 * d),
    ...all("layerInput", plan.layerInput, 4 * d),
    one("query", plan.query, 4 * d),
    one("attention", plan.attention, 4 * d),
    one("projected", plan.projected, 4 * d),
    one("lowRank", plan.lowRank, 4 * rank),
    one("scores", plan.scores, 4 * paddedRows(n)),
    one("mask", plan.mask, 4 * Math.ceil(n / 32)),
    one("accumulator", plan.accumulator, accumulatorByteLength(shape.ffnQuantization, d)),
    ...plan.passes.flatMap((arrays, i) => pass(`pass ${i}`, arrays)),
    one("logits", plan.logits, plan.logitsStride * shape.logitsRows),
    one(
      "observations",
      plan.observations,
      observationByteLength(shape.numLayers, d) * shape.observationRows,
    ),
    ...plan.lanes.flatMap((lane, i) => scratch(`lane ${i}`, lane)),
    ...scratch("predictor", plan.predictor),
    one("predictor lowRank", plan.predictor.lowRank, 4 * rank),
    one("predictor scores", plan.predictor.scores, 4 * paddedRows(n)),
    one("predictor mask", plan.predictor.mask, 4 * Math.ceil(n / 32)),
    ...all("bounce", plan.bounce, shape.bounceByteLength),
    one("staging", plan.staging, shape.stagingChunkCount * shape.stagingChunkByteLength),
    ...plan.slots.map((at, i) => one(`slots ${i}`, at, shape.slotCounts[i] * shape.slotByteLength)),
  ];
}

const shapes: fc.Arbitrary<ArenaShape> = fc.integer({ min: 1, max: 5 }).chain((numLayers) =>
  fc.record({
    ffnQuantization: fc.constantFrom(...QUANTIZATIONS),
    vocabSize: fc.integer({ min: 1, max: 5000 }),
    hiddenSize: fc.integer({ min: 1, max: 40 }).map((x) => 32 * x),
    intermediateSize: fc.integer({ min: 1, max: 40 }).map((x) => 32 * x),
    numLayers: fc.constant(numLayers),
    contextLength: fc.integer({ min: 1, max: 300 }),
    laneCount: fc.integer({ min: 1, max: 5 }),
    readerCount: fc.integer({ min: 1, max: 9 }),
    slotCounts: fc.array(fc.nat(20), { minLength: numLayers, maxLength: numLayers }),
    slotByteLength: fc.constantFrom(512, 1024, 4096, 8704, 12288),
    stagingChunkCount: fc.constantFrom(0, 8),
    stagingChunkByteLength: fc.constantFrom(4096, 262144),
    passNeuronsMax: fc.integer({ min: 1, max: 1300 }),
    rankMax: fc.integer({ min: 0, max: 8 }).map((x) => 32 * x),
    bounceByteLength: fc.constant(65536),
    sections: fc.array(
      fc.record({
        byteOffset: fc.integer({ min: 1, max: 1e6 }).map((x) => 64 * x),
        byteLength: fc.integer({ min: 1, max: 50_000 }),
      }),
      { maxLength: 2 },
    ),
    hasResidentUp: fc.boolean(),
    logitsRows: fc.integer({ min: 1, max: 4 }),
    observationRows: fc.constantFrom(0, 8),
  })
);

test("planArena() lets no two ranges overlap, whatever the shape", () => {
  fc.assert(fc.property(shapes, (shape) => {
    const plan = planArena(shape);
    const ranges = rangesOf(plan, shape).filter(({ byteLength }) => byteLength > 0)
      .toSorted((a, b) => a.at - b.at);
    let end = 0, before = "the start";
    for (const { name, at, byteLength } of ranges) {
      assert.ok(at >= end, `${name} begins at ${at}, within ${before} that ends at ${end}`);
      end = at + byteLength;
      before = name;
    }
    assert.ok(end <= plan.byteLength, `${before} ends at ${end} of ${plan.byteLength}`);
    assert.equal(plan.byteLength % 65536, 0);
    assert.ok(plan.byteLength - end < 65536 + 4096, "no page too many");
  }));
});

test("planArena() aligns what kernels and direct reads ask for", () => {
  fc.assert(fc.property(shapes, (shape) => {
    const plan = planArena(shape);
    for (const { name, at } of rangesOf(plan, shape)) {
      const alignment = /^(slots|bounce|staging|section)/.test(name) ? 4096 : 64;
      assert.equal(at % alignment, 0, `${name} at ${at}`);
    }
    plan.sections.forEach((at, i) => {
      assert.equal(
        at % 4096,
        shape.sections[i].byteOffset % 4096,
        "a section keeps its place in a page",
      );
    });
  }));
});

test("slotByteLength() covers the record of every neuron", () => {
  const records = fc.record({
    quantization: fc.constantFrom(...QUANTIZATIONS),
    hiddenSize: fc.integer({ min: 1, max: 300 }).map((x) => 32 * x),
    isDownOnly: fc.boolean(),
    block: fc.constantFrom(512, 4096),
    base: fc.nat(1e6).map((x) => 4096 * x),
  });
  fc.assert(fc.property(records, ({ quantization, hiddenSize, isDownOnly, block, base }) => {
    const strideBytes = bundleByteLength(quantization, hiddenSize);
    const record = recordOf(quantization, hiddenSize, isDownOnly);
    const slot = slotByteLength({ strideBytes, ...record }, block);
    assert.equal(slot % block, 0);
    for (let neuron = 0; neuron < 300; neuron++) {
      const phase = (base + neuron * strideBytes + record.offset) % block;
      const covering = Math.ceil((phase + record.byteLength) / block) * block;
      assert.ok(covering <= slot, `neuron ${neuron}: ${covering} bytes in a slot of ${slot}`);
    }
    assert.ok(slot < record.byteLength + 2 * block, "and wastes less than two blocks");
  }));
});

test("slotByteLength() wastes nothing where records are whole blocks", () => {
  // q8, d = 4096: 8704 bytes are 17 blocks of 512.
  const record = { strideBytes: 8704, offset: 0, byteLength: 8704 };
  assert.equal(slotByteLength(record, 512), 8704);
  assert.equal(slotByteLength(record, 4096), 3 * 4096);
});
