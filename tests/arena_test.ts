import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  attentionByteLength,
  EARLY_POSITIONS,
  LOOK_POSITIONS,
  observationByteLength,
  paddedRows,
  PICKED_MIN,
  planArena,
  recordOf,
  slotByteLength,
} from "../src/arena.ts";
import type {
  ArenaPlan,
  ArenaShape,
  ExpansionPlan,
  InputsPlan,
  ScratchPlan,
} from "../src/arena.ts";
import { KV_QUANTIZATIONS } from "../src/kv_page.ts";
import { bundleByteLength, matrixByteLength, QUANTIZATIONS } from "../src/format/layout.ts";
import {
  accumulatorByteLength,
  downScratchByteLength,
  matmatScratchByteLength,
  preparedByteLength,
  STATICS_BYTE_LENGTH,
} from "../src/kernels.ts";

interface Range {
  name: string;
  at: number;
  byteLength: number;
}

/** Every range of a plan, with the length that its users take. */
function rangesOf(plan: ArenaPlan, shape: ArenaShape): Range[] {
  const { hiddenSize: d, intermediateSize: n, ffnQuantization, colsMax } = shape;
  const { positionsMax: positions, passNeuronsMax, batchPassNeuronsMax } = shape;
  const rank = Math.max(shape.rankMax, 32), isBatched = positions > 1;
  const batched = isBatched ? positions : 0, isFirst = shape.layers.from === 0;
  const { strides } = plan;
  const one = (name: string, at: number, byteLength: number) => ({ name, at, byteLength });
  const all = (name: string, addresses: number[], byteLength: number) =>
    addresses.map((at, i) => one(`${name} ${i}`, at, byteLength));
  const inputs = (name: string, plan: InputsPlan, rows: number) => [
    one(`${name} normed`, plan.normed, rows * 4 * d),
    one(`${name} prepared`, plan.prepared, rows * preparedByteLength(colsMax)),
    one(`${name} lookPrepared`, plan.lookPrepared, rows * preparedByteLength(d)),
    one(`${name} lowRankPrepared`, plan.lowRankPrepared, rows * preparedByteLength(rank)),
    one(
      `${name} attentionPrepared`,
      plan.attentionPrepared,
      shape.isParallel ? rows * preparedByteLength(colsMax) : 0,
    ),
  ];
  const expansion = (name: string, { addresses, vectors, active, count, stride }: ExpansionPlan) =>
    shape.isPruned && isBatched
      ? [
        ...all(`${name} expanded`, addresses, 4 * passNeuronsMax),
        ...all(`${name} vectors`, vectors, count * stride),
        one(`${name} active`, active, 4 * passNeuronsMax),
      ]
      : [];
  const scratch = (name: string, plan: ScratchPlan) => [
    ...inputs(name, plan, 1),
    one(`${name} attentionScratch`, plan.attentionScratch, attentionByteLength(shape)),
    one(`${name} downScratch`, plan.downScratch, downScratchByteLength(d)),
    ...expansion(name, plan.expansion),
  ];
  const pass = (name: string, { activations, ...arrays }: ArenaPlan["passes"][number]) => [
    ...Object.entries(arrays).map(([array, at]) => one(`${name} ${array}`, at, 4 * passNeuronsMax)),
    one(
      `${name} activations`,
      activations,
      Math.max(4 * passNeuronsMax, batched * 4 * batchPassNeuronsMax),
    ),
  ];
  return [
    one("statics", 0, STATICS_BYTE_LENGTH),
    // Sections are read in whole pages.
    ...plan.sections.map(({ address, byteOffset, byteLength }, i) => {
      const at = address - byteOffset % 4096;
      const end = Math.ceil((address + byteLength) / 4096) * 4096;
      return one(`section ${i}`, at, end - at);
    }),
    ...plan.layers.flatMap(({ residentUp, slots, pageTable }, i) => [
      one(
        `residentUp ${i}`,
        residentUp,
        shape.hasResidentUp ? matrixByteLength(ffnQuantization, n, d) : 0,
      ),
      one(`pageTable ${i}`, pageTable, 4 * shape.pages.count),
      one(`pool ${i}`, slots, shape.poolByteLengths[i]),
    ]),
    one("residual", plan.residual, positions * 4 * d),
    ...all("layerInput", plan.layerInput, Math.min(positions, EARLY_POSITIONS) * 4 * d),
    one("angles", plan.angles, positions * 4 * shape.angleTables * shape.angleDims),
    one("query", plan.query, positions * 4 * shape.querySize),
    one("key", plan.key, positions * 4 * shape.keySize),
    one("value", plan.value, positions * 4 * shape.keySize),
    one("attention", plan.attention, positions * 4 * shape.querySize),
    one("projected", plan.projected, positions * 4 * d),
    one("lowRank", plan.lowRank, positions * 4 * rank),
    one(
      "scores",
      plan.scores,
      (shape.hasResidentUp ? positions : Math.min(positions, LOOK_POSITIONS)) * strides.scores,
    ),
    one("mask", plan.mask, positions * strides.mask),
    one("accumulator", plan.accumulator, positions * accumulatorByteLength(ffnQuantization, d)),
    ...plan.passes.flatMap((arrays, i) => pass(`pass ${i}`, arrays)),
    one("logits", plan.logits, isFirst ? plan.logitsStride * shape.logitsRows : 0),
    one(
      "observations",
      plan.observations,
      isFirst ? observationByteLength(shape.numLayers, d) * shape.observationRows : 0,
    ),
    ...plan.lanes.flatMap((lane, i) => scratch(`lane ${i}`, lane)),
    ...inputs("batch", plan.batch, batched),
    ...all(
      "products",
      plan.batch.products,
      isBatched ? matmatScratchByteLength(Math.max(colsMax, shape.rankMax)) : 0,
    ),
    ...all("picked", plan.batch.picked, 4 * Math.max(PICKED_MIN, batchPassNeuronsMax)),
    ...inputs("predictor", plan.predictor, 1),
    one("predictor lowRank", plan.predictor.lowRank, 4 * rank),
    one("predictor scores", plan.predictor.scores, 4 * paddedRows(n)),
    one("predictor mask", plan.predictor.mask, 4 * Math.ceil(n / 32)),
    ...all("bounce", plan.bounce, shape.bounceByteLength),
    one("staging", plan.staging, shape.stagingChunkCount * shape.stagingChunkByteLength),
  ];
}

const shapes: fc.Arbitrary<ArenaShape> = fc.integer({ min: 1, max: 5 }).chain((numLayers) =>
  fc.record({
    ffnQuantization: fc.constantFrom(...QUANTIZATIONS),
    vocabSize: fc.integer({ min: 1, max: 5000 }),
    hiddenSize: fc.integer({ min: 1, max: 40 }).map((x) => 32 * x),
    intermediateSize: fc.integer({ min: 1, max: 40 }).map((x) => 32 * x),
    numLayers: fc.constant(2 * numLayers),
    querySize: fc.integer({ min: 1, max: 40 }).map((x) => 32 * x),
    keySize: fc.integer({ min: 1, max: 40 }).map((x) => 16 * x),
    numAttentionHeads: fc.integer({ min: 1, max: 16 }),
    expertCount: fc.constantFrom(0, 4, 60),
    expertsPerToken: fc.constantFrom(0, 4),
    colsMax: fc.constant(32 * 40),
    angleTables: fc.integer({ min: 0, max: 2 }),
    angleDims: fc.constantFrom(8, 64),
    isParallel: fc.boolean(),
    layers: fc.constantFrom(0, numLayers).map((from) => ({ from, to: from + numLayers })),
    positionsMax: fc.integer({ min: 1, max: 20 }),
    batchPassNeuronsMax: fc.integer({ min: 1, max: 200 }),
    contextLength: fc.integer({ min: 1, max: 300 }),
    laneCount: fc.integer({ min: 1, max: 5 }),
    readerCount: fc.integer({ min: 1, max: 9 }),
    pages: fc.record({
      kv: fc.constantFrom(...KV_QUANTIZATIONS),
      numKeyValueHeads: fc.integer({ min: 1, max: 8 }),
      headDim: fc.constantFrom(16, 64, 80),
      byteLength: fc.constantFrom(4096, 8448),
      count: fc.integer({ min: 1, max: 20 }),
    }),
    poolByteLengths: fc.array(fc.nat(20).map((x) => 4096 * x), {
      minLength: numLayers,
      maxLength: numLayers,
    }),
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
    isPruned: fc.boolean(),
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
      const alignment = /^(pool|bounce|staging|section)/.test(name) ? 4096 : 64;
      assert.equal(at % alignment, 0, `${name} at ${at}`);
    }
    for (const { address, byteOffset } of plan.sections) {
      assert.equal(address % 4096, byteOffset % 4096, "a section keeps its place in a page");
    }
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
