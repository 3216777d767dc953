import { alignUp } from "./format/align.ts";
import { SECTION_ALIGNMENT } from "./format/header.ts";
import { matrixByteLength, TILE_ROWS, vectorByteLength } from "./format/layout.ts";
import type { Quantization } from "./format/layout.ts";
import { accumulatorByteLength, preparedByteLength, STATICS_BYTE_LENGTH } from "./kernels.ts";
import { PASS_COUNT } from "./pipeline/control.ts";

/**
 * Where everything lies in the arena, the shared WebAssembly.Memory that holds weights, slots, KV cache and activations.
 * Addresses are bytes from its start; all threads get this plan and nothing is allocated later.
 *
 *   | 64 KiB: kernels' constants | resident weights | KV cache | activations | lanes' scratch | bounce | staging | slots |
 */

/** What the arena has to hold. */
export interface ArenaShape {
  /** Of the FFN: bundles, and the resident up projection. */
  ffnQuantization: Quantization;
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  numLayers: number;
  /** Positions of the KV cache. */
  contextLength: number;
  laneCount: number;
  readerCount: number;
  /** Slots of each layer, and bytes of a slot (whole blocks). */
  slotCounts: number[];
  slotByteLength: number;
  /** Staging chunks of the dense stream; 0 if it is not used. */
  stagingChunkCount: number;
  stagingChunkByteLength: number;
  /** Neurons in the longest pass. */
  passNeuronsMax: number;
  /** Largest rank of a predictor; 0 if there is none. */
  rankMax: number;
  /** The early look of the predictor worker needs scratch of its own. */
  bounceByteLength: number;
  /** Sections of the file that stay in memory, loaded with their alignment kept. */
  sections: { byteOffset: number; byteLength: number }[];
  /** Whether up projections stay in memory (`exact`). */
  hasResidentUp: boolean;
  /** Rows of logits and of observations that may wait for the main thread. */
  logitsRows: number;
  observationRows: number;
  /** What the audit needs, if it is on. */
  audit?: { windowByteLength: number; neuronsMax: number };
}

/** Scratch that one lane (or the predictor) has for itself. */
export interface ScratchPlan {
  /** f32[hiddenSize]: the normed residual stream. */
  normed: number;
  /** The same, prepared for a kernel. */
  prepared: number;
  /** f32[hiddenSize] prepared for the predictor, where its numbers differ from the model's. */
  lookPrepared: number;
  /** f32[rankMax] of the predictor's first product, prepared. */
  lowRankPrepared: number;
  /** f32[contextLength]: attention scores. */
  attentionScores: number;
}

/** Arrays of one pass: what is computed together. Each has `passNeuronsMax` entries. */
export interface PassPlan {
  /** u32: address of each neuron's record, in neuron order. */
  addresses: number;
  /** u32: the neurons. */
  neurons: number;
  /** u32: index into the list, hits first, then misses. */
  order: number;
  /** u32: landing flag of each entry of `order`. */
  flags: number;
  /** f32: activations. */
  activations: number;
}

/** What the audit has for itself: a window of bundles, and lists of what is sampled of a layer. */
export interface AuditPlan {
  neuronsMax: number;
  /** u32[neuronsMax] */
  addresses: number;
  neurons: number;
  /** f32[neuronsMax] */
  activations: number;
  /** The FFN's input, prepared. */
  prepared: number;
  window: number;
}

export interface ArenaPlan {
  byteLength: number;
  /** Address of each section of the shape. */
  sections: number[];
  residentUp: number[];
  keys: number[];
  values: number[];
  residual: number;
  /** f32[hiddenSize], two: the input of layer l lies in number l % 2, for the early look. */
  layerInput: number[];
  query: number;
  attention: number;
  projected: number;
  lowRank: number;
  /** f32[intermediateSize]: scores of the late look, or activations in `exact`. */
  scores: number;
  /** u32[intermediateSize / 32]: the late look's answer. */
  mask: number;
  accumulator: number;
  passes: PassPlan[];
  logits: number;
  logitsStride: number;
  observations: number;
  observationStride: number;
  lanes: ScratchPlan[];
  predictor: ScratchPlan & { lowRank: number; scores: number; mask: number };
  bounce: number[];
  staging: number;
  audit?: AuditPlan;
  slots: number[];
}

/** Rows padded to whole tiles. */
export function paddedRows(rows: number): number {
  return alignUp(rows, TILE_ROWS);
}

/** Lays the arena out; pure arithmetic. */
export function planArena(shape: ArenaShape): ArenaPlan {
  let next = STATICS_BYTE_LENGTH;
  const take = (byteLength: number, alignment = 64): number => {
    const at = alignUp(next, alignment);
    next = at + byteLength;
    return at;
  };
  const each = <T>(count: number, make: (index: number) => T) =>
    Array.from({ length: count }, (_, i) => make(i));
  const { hiddenSize: d, intermediateSize: n, contextLength, rankMax, passNeuronsMax } = shape;
  const rows = paddedRows(n);
  const scratch = (): ScratchPlan => ({
    normed: take(4 * d),
    prepared: take(preparedByteLength(d)),
    lookPrepared: take(preparedByteLength(d)),
    lowRankPrepared: take(preparedByteLength(Math.max(rankMax, 32))),
    attentionScores: take(4 * contextLength + 64),
  });
  const plan = {
    sections: shape.sections.map(({ byteOffset, byteLength }) => {
      const phase = byteOffset % SECTION_ALIGNMENT;
      const covering = alignUp(phase + byteLength, SECTION_ALIGNMENT);
      return take(covering, SECTION_ALIGNMENT) + phase;
    }),
    residentUp: shape.hasResidentUp
      ? each(shape.numLayers, () => take(matrixByteLength(shape.ffnQuantization, n, d)))
      : [],
    keys: each(shape.numLayers, () => take(4 * d * contextLength)),
    values: each(shape.numLayers, () => take(4 * d * contextLength)),
    residual: take(4 * d),
    layerInput: each(2, () => take(4 * d)),
    query: take(4 * d),
    attention: take(4 * d),
    projected: take(4 * d),
    lowRank: take(4 * Math.max(rankMax, 32)),
    scores: take(4 * rows),
    mask: take(Math.ceil(n / 32) * 4),
    accumulator: take(accumulatorByteLength(shape.ffnQuantization, d)),
    passes: each(PASS_COUNT, () => ({
      addresses: take(4 * passNeuronsMax),
      neurons: take(4 * passNeuronsMax),
      order: take(4 * passNeuronsMax),
      flags: take(4 * passNeuronsMax),
      activations: take(4 * passNeuronsMax),
    })),
    logitsStride: 4 * paddedRows(shape.vocabSize),
    logits: take(4 * paddedRows(shape.vocabSize) * shape.logitsRows),
    observationStride: observationByteLength(shape.numLayers, d),
    observations: take(observationByteLength(shape.numLayers, d) * shape.observationRows),
    lanes: each(shape.laneCount, scratch),
    predictor: {
      ...scratch(),
      lowRank: take(4 * Math.max(rankMax, 32)),
      scores: take(4 * rows),
      mask: take(Math.ceil(n / 32) * 4),
    },
    bounce: each(shape.readerCount, () => take(shape.bounceByteLength, 4096)),
    staging: take(shape.stagingChunkCount * shape.stagingChunkByteLength, 4096),
    audit: shape.audit && {
      neuronsMax: shape.audit.neuronsMax,
      addresses: take(4 * shape.audit.neuronsMax),
      neurons: take(4 * shape.audit.neuronsMax),
      activations: take(4 * shape.audit.neuronsMax),
      prepared: take(preparedByteLength(d)),
      window: take(shape.audit.windowByteLength, 4096),
    },
    slots: shape.slotCounts.map((count) => take(count * shape.slotByteLength, 4096)),
  };
  return { ...plan, byteLength: alignUp(next, 65536) };
}

/** What is observed of a token: per layer its input and the normed FFN input, f32[hiddenSize] each. */
export function observationByteLength(numLayers: number, hiddenSize: number): number {
  return numLayers * 2 * 4 * hiddenSize;
}

/**
 * Bytes of a slot: the blocks that cover a record wherever it begins. Records begin at multiples of
 * `strideBytes` plus `offset` from a whole block.
 */
export function slotByteLength(
  record: { strideBytes: number; offset: number; byteLength: number },
  blockByteLength: number,
): number {
  const { strideBytes, offset, byteLength } = record;
  const step = greatestCommonDivisor(greatestCommonDivisor(strideBytes, offset), blockByteLength);
  const worstPhase = blockByteLength - step;
  return alignUp(worstPhase + byteLength, blockByteLength);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** Bytes of the record that a mode reads of a neuron, and where it begins within the bundle. */
export function recordOf(quantization: Quantization, hiddenSize: number, isDownOnly: boolean) {
  const vector = vectorByteLength(quantization, hiddenSize);
  return isDownOnly
    ? { offset: vector, byteLength: vector }
    : { offset: 0, byteLength: 2 * vector };
}
