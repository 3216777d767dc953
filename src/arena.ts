import { alignUp } from "./format/align.ts";
import { SECTION_ALIGNMENT } from "./format/header.ts";
import { bundleVectors, matrixByteLength, TILE_ROWS, vectorByteLength } from "./format/layout.ts";
import type { Capacities, Quantization } from "./format/layout.ts";
import {
  accumulatorByteLength,
  downScratchByteLength,
  matmatScratchByteLength,
  preparedByteLength,
  STATICS_BYTE_LENGTH,
} from "./kernels.ts";
import { PAGE_POSITIONS, pagedScratchByteLength } from "./kv_page.ts";
import type { KvHeads, KvQuantization } from "./kv_page.ts";
import { PASS_COUNT } from "./pipeline/control.ts";

/**
 * Where everything lies in the arenas, the shared WebAssembly.Memories that hold weights, slots, KV cache and
 * activations. A memory has at most 4 GiB, so a larger model's layers are grouped into several, each with scratch of its own: what
 * passes from one to the next is the residual stream alone. Addresses are bytes from an arena's start; all threads get these
 * plans and nothing is allocated later.
 *
 *   | 64 KiB: kernels' constants | resident weights | activations | lanes' scratch | bounce | staging | pools |
 *
 * A layer's pool has the slots of its neurons and the pages of its KV cache.
 *
 * Arrays `[positions]` have a row for each position of a step: one for a token, more for a prompt or for drafts.
 */

/** Layers from `from` up to, not including, `to`. */
export interface LayerRange {
  from: number;
  to: number;
}

/** A range of the file that stays in memory. */
export interface Section {
  byteOffset: number;
  byteLength: number;
}

/** The pages of a KV cache. */
export interface PageShape extends KvHeads {
  kv: KvQuantization;
  /** Bytes of a page. */
  byteLength: number;
  /** Pages of a layer when the context is full. */
  count: number;
  /** Layers that look back over a window of so many positions need no more than `count` pages: `windowPageCount`. */
  windowed?: { window: number; layers: readonly number[]; count: number };
}

/** Pages of a layer when the context is full. */
export function pagesOfLayer({ count, windowed }: PageShape, layer: number): number {
  return windowed?.layers.includes(layer) ? Math.min(count, windowed.count) : count;
}

/** What all arenas of a model have alike. */
export interface CommonShape {
  /** Of the FFN: bundles, and the resident up projection. */
  ffnQuantization: Quantization;
  vocabSize: number;
  hiddenSize: number;
  /** Of all heads together: queries, and keys (as many as values). */
  querySize: number;
  keySize: number;
  numAttentionHeads: number;
  /** Experts of a layer, and those of them that a position has; 0 without experts. */
  expertCount: number;
  expertsPerToken: number;
  /** Longest vector that is prepared for a product. */
  colsMax: number;
  /** Tables of angles of rotary positions, and numbers of a position in each. */
  angleTables: number;
  angleDims: number;
  /** Whether the FFN's input must outlast attention: see `BLOCKS` in models/config.ts. */
  isParallel: boolean;
  intermediateSize: number;
  numLayers: number;
  /** Positions of the KV cache, and its pages. */
  contextLength: number;
  pages: PageShape;
  /** Positions of a step, at most. */
  positionsMax: number;
  laneCount: number;
  readerCount: number;
  /** Bytes of a slot (whole blocks). */
  slotByteLength: number;
  /** Staging chunks of a stream of bundles; 0 if there is none. */
  stagingChunkCount: number;
  stagingChunkByteLength: number;
  /** Neurons in the longest pass of one position, and of several. */
  passNeuronsMax: number;
  batchPassNeuronsMax: number;
  /** Largest rank of a predictor; 0 if there is none. */
  rankMax: number;
  /** Bounce buffers of one reader. */
  bounceByteLength: number;
  /** Whether up projections stay in memory (`exact`). */
  hasResidentUp: boolean;
  /** Whether bundles are stored without their zeros, so that lanes expand them. */
  isPruned: boolean;
  /** Rows of logits and of observations that may wait for the main thread: in the first arena. */
  logitsRows: number;
  observationRows: number;
  /** What the audit needs, if it is on. */
  audit?: { windowByteLength: number; neuronsMax: number };
}

/** What one arena has to hold. */
export interface ArenaShape extends CommonShape {
  layers: LayerRange;
  /** Bytes of each of its layers' pools: slots from the front, pages of the KV cache from the end. */
  poolByteLengths: number[];
  /** Sections of the file that stay in it, loaded with their alignment kept. */
  sections: Section[];
}

/** Inputs of a layer's FFN, of one position: each lane has its own, and so has the predictor. */
export interface InputsPlan {
  /** f32[hiddenSize]: the normed residual stream. */
  normed: number;
  /** The same, prepared for a kernel. */
  prepared: number;
  /** f32[hiddenSize] prepared for the predictor, where its numbers differ from the model's. */
  lookPrepared: number;
  /** f32[rankMax] of the predictor's first product, prepared. */
  lowRankPrepared: number;
  /** What else is multiplied by a matrix of attention, prepared: its own input beside the FFN's, or the heads' results. */
  attentionPrepared: number;
}

/** Scratch that one lane has for itself; among it what it makes of a router's products. */
export interface ScratchPlan extends InputsPlan {
  /** What attention needs on its way: `attentionByteLength`. */
  attentionScratch: number;
  /** What sums of down columns need on their way: `downScratchByteLength`. */
  downScratch: number;
  /** Where vectors of pruned bundles are expanded for steps of several positions. */
  expansion: ExpansionPlan;
  /** f32[expertCount], u32[expertsPerToken]: shares of a position's experts, and those that are chosen. */
  shares: number;
  chosen: number;
}

/** Places for vectors of pruned bundles as kernels read them: of rows that decide, or columns; and of up rows behind gates. */
export interface ExpansionPlan {
  /** u32[passNeuronsMax], two: of each entry of a pass, where its vector is. */
  addresses: number[];
  /** Where the vectors begin. */
  vectors: number[];
  /** How many there are, and bytes from one to the next. */
  count: number;
  stride: number;
  /** u32[passNeuronsMax]: entries that are active. */
  active: number;
}

/** Inputs of steps of several positions: all lanes share them, each fills rows of some positions. */
export interface BatchPlan {
  /** f32[positions][hiddenSize], and the same prepared. */
  normed: number;
  prepared: number;
  lookPrepared: number;
  /** f32[rankMax] of each position, prepared. */
  lowRankPrepared: number;
  attentionPrepared: number;
  /** u32[batchPassNeuronsMax] of each lane: entries of a pass that a position computes. */
  picked: number[];
  /** Of each lane: scratch of products of a matrix with several positions. */
  products: number[];
}

/** Bytes from row to row of arrays with a row for each position. */
export interface RowStrides {
  /** f32[hiddenSize] */
  hidden: number;
  /** f32[querySize], f32[keySize] */
  query: number;
  key: number;
  /** f32[angleDims], of all tables */
  angles: number;
  prepared: number;
  /** f32[expertCount, in tiles] */
  experts: number;
  /** f32[rankMax], and the same prepared. */
  lowRank: number;
  lowRankPrepared: number;
  /** f32[intermediateSize, padded] */
  scores: number;
  /** u32[intermediateSize / 32] */
  mask: number;
  accumulator: number;
  /** f32[batchPassNeuronsMax] */
  activations: number;
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
  /** f32: activations; a row for each position of a step of several. */
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
  /** u32[neuronsMax]: those whose gate is not zero. */
  picked: number;
  /** The FFN's input, prepared. */
  prepared: number;
  window: number;
}

/** Where a layer's own parts lie in its arena. */
export interface LayerPlan {
  /** Tiled up projection, in `exact`; else 0. */
  residentUp: number;
  /**
   * Where slots begin. Pages of the KV cache begin at the end of the same pool and grow towards them, so that a longer context
   * takes slots away:
   *
   *   | slot 0 | slot 1 | ...                  ... | page 2 | page 1 | page 0 |
   */
  slots: number;
  poolByteLength: number;
  /** u32[pages]: addresses of the pages, in the order of positions. */
  pageTable: number;
}

export interface ArenaPlan {
  byteLength: number;
  range: LayerRange;
  /** Of each layer of `range`. */
  layers: LayerPlan[];
  /** Where each section of the file lies. */
  sections: (Section & { address: number })[];
  strides: RowStrides;
  /** f32[positions][hiddenSize] */
  residual: number;
  /** f32[up to EARLY_POSITIONS][hiddenSize], two: what the early look at layer l sees, in number l % 2. */
  layerInput: number[];
  /** f32[positions][angleTables][angleDims]: cosines and sines of rotary positions. */
  angles: number;
  /** f32[positions][querySize], and of keys and values [keySize]. */
  query: number;
  key: number;
  value: number;
  attention: number;
  /** f32[positions][hiddenSize] */
  projected: number;
  /** f32[positions][expertCount, in tiles]: products with the router, and what experts' results are multiplied by. */
  routed: number;
  expertWeights: number;
  /** f32[positions][rankMax] */
  lowRank: number;
  /**
   * f32[up to LOOK_POSITIONS][intermediateSize]: scores of the late look; or, in `exact`, activations:
   * f32[positions][intermediateSize].
   */
  scores: number;
  /** u32[positions][intermediateSize / 32]: the late look's answer. */
  mask: number;
  /** [positions] */
  accumulator: number;
  passes: PassPlan[];
  /** f32[rows][vocabSize], padded; in the first arena. */
  logits: number;
  logitsStride: number;
  observations: number;
  observationStride: number;
  lanes: ScratchPlan[];
  batch: BatchPlan;
  predictor: InputsPlan & { lowRank: number; scores: number; mask: number };
  /** Of each reader. */
  bounce: number[];
  staging: number;
  audit?: AuditPlan;
}

/** Positions whose scores are computed together: B is read once for so many. */
export const LOOK_POSITIONS = 8;

/** Entries of a pass that a lane can pick out, at least. */
export const PICKED_MIN = 256;

/** Steps of up to so many positions have an early look, and read what their lists name; longer ones stream. */
export const EARLY_POSITIONS = 8;

/** Vectors that a lane expands at once stay in a core's second cache. */
const EXPANSION_BYTES = 256 * 1024;

/** Kernels take them by fours, and ask memory for eight at once. */
const EXPANDED_MIN = 8;

/** Bytes behind a bundle that a kernel may read when it expands vectors. */
export const EXPAND_BYTES_BEHIND = 64;

/** How vectors of pruned bundles are expanded: a line apart, as rows a power of two apart would compete for the same places in a cache. */
export function expansionShape(
  quantization: Quantization,
  hiddenSize: number,
): Pick<ExpansionPlan, "count" | "stride"> {
  const stride = alignUp(vectorByteLength(quantization, hiddenSize), 64) + 64;
  const count = Math.floor(EXPANSION_BYTES / stride / EXPANDED_MIN) * EXPANDED_MIN;
  return { stride, count: Math.min(PICKED_MIN, Math.max(EXPANDED_MIN, count)) };
}

/** Rows padded to whole tiles. */
export function paddedRows(rows: number): number {
  return alignUp(rows, TILE_ROWS);
}

function stridesOf(shape: CommonShape): RowStrides {
  const { hiddenSize: d, intermediateSize: n, rankMax, ffnQuantization } = shape;
  return {
    hidden: 4 * d,
    query: 4 * shape.querySize,
    key: 4 * shape.keySize,
    angles: 4 * shape.angleTables * shape.angleDims,
    prepared: alignUp(preparedByteLength(shape.colsMax), 64),
    experts: 4 * paddedRows(shape.expertCount),
    lowRank: 4 * Math.max(rankMax, 32, shape.expertsPerToken),
    lowRankPrepared: alignUp(preparedByteLength(Math.max(rankMax, 32)), 64),
    scores: alignUp(4 * paddedRows(n), 64),
    mask: alignUp(Math.ceil(n / 32) * 4, 64),
    accumulator: alignUp(accumulatorByteLength(ffnQuantization, d), 64),
    activations: alignUp(4 * shape.batchPassNeuronsMax, 64),
  };
}

/** Bytes of what attention needs on its way, whichever heads are a lane's. */
export function attentionByteLength(
  { pages, numAttentionHeads }: Pick<CommonShape, "pages" | "numAttentionHeads">,
): number {
  return pagedScratchByteLength(numAttentionHeads, pages.headDim, pages.count * PAGE_POSITIONS);
}

/** Address of a page of a layer's KV cache. */
export function pageAddress(
  { slots, poolByteLength }: LayerPlan,
  pages: PageShape,
  page: number,
): number {
  return slots + poolByteLength - (page + 1) * pages.byteLength;
}

/** Slots of a layer's pool that are left beside so many pages. */
export function slotsBeside(
  pageCount: number,
  { poolByteLength }: Pick<LayerPlan, "poolByteLength">,
  { slotByteLength, pages }: Pick<CommonShape, "slotByteLength" | "pages">,
): number {
  return Math.max(0, Math.floor((poolByteLength - pageCount * pages.byteLength) / slotByteLength));
}

/** Lays an arena out; pure arithmetic. */
export function planArena(shape: ArenaShape): ArenaPlan {
  let next = STATICS_BYTE_LENGTH;
  const take = (byteLength: number, alignment = 64): number => {
    const at = alignUp(next, alignment);
    next = at + byteLength;
    return at;
  };
  const each = <T>(count: number, make: (index: number) => T) =>
    Array.from({ length: count }, (_, i) => make(i));
  const { hiddenSize: d, intermediateSize: n, rankMax, passNeuronsMax } = shape;
  const { positionsMax: positions, layers: range, laneCount } = shape;
  const isFirst = range.from === 0, layerCount = range.to - range.from;
  const strides = stridesOf(shape);
  const products = matmatScratchByteLength(Math.max(shape.colsMax, rankMax));
  const isBatched = positions > 1, batched = isBatched ? positions : 0;
  const inputs = (): InputsPlan => ({
    normed: take(4 * d),
    prepared: take(preparedByteLength(shape.colsMax)),
    lookPrepared: take(preparedByteLength(d)),
    lowRankPrepared: take(preparedByteLength(Math.max(rankMax, 32))),
    attentionPrepared: take(shape.isParallel ? preparedByteLength(shape.colsMax) : 0),
  });
  const { isPruned } = shape, vectors = expansionShape(shape.ffnQuantization, d);
  const isExpanded = isPruned && isBatched, entries = isExpanded ? 4 * passNeuronsMax : 0;
  const expansion = (): ExpansionPlan => ({
    addresses: each(2, () => take(entries)),
    vectors: each(2, () => take(isExpanded ? vectors.count * vectors.stride : 0)),
    active: take(entries),
    ...vectors,
  });
  const scratch = (): ScratchPlan => ({
    ...inputs(),
    attentionScratch: take(attentionByteLength(shape)),
    downScratch: take(downScratchByteLength(d)),
    expansion: expansion(),
    shares: take(strides.experts),
    chosen: take(4 * shape.expertsPerToken),
  });
  const sections = shape.sections.map(({ byteOffset, byteLength }) => {
    const phase = byteOffset % SECTION_ALIGNMENT;
    const covering = alignUp(phase + byteLength, SECTION_ALIGNMENT);
    return { byteOffset, byteLength, address: take(covering, SECTION_ALIGNMENT) + phase };
  });
  const residentUp = each(
    layerCount,
    () => shape.hasResidentUp ? take(matrixByteLength(shape.ffnQuantization, n, d)) : 0,
  );
  const pageTables = each(layerCount, () => take(4 * shape.pages.count));
  const activations = Math.max(4 * passNeuronsMax, batched * strides.activations);
  const scoreRows = shape.hasResidentUp ? positions : Math.min(positions, LOOK_POSITIONS);
  const plan = {
    range,
    sections,
    strides,
    residual: take(positions * strides.hidden),
    layerInput: each(2, () => take(Math.min(positions, EARLY_POSITIONS) * strides.hidden)),
    angles: take(positions * strides.angles),
    query: take(positions * strides.query),
    attention: take(positions * strides.query),
    key: take(positions * strides.key),
    value: take(positions * strides.key),
    projected: take(positions * strides.hidden),
    routed: take(positions * strides.experts),
    expertWeights: take(positions * strides.experts),
    lowRank: take(positions * strides.lowRank),
    scores: take(scoreRows * strides.scores),
    mask: take(positions * strides.mask),
    accumulator: take(positions * strides.accumulator),
    passes: each(PASS_COUNT, () => ({
      addresses: take(4 * passNeuronsMax),
      neurons: take(4 * passNeuronsMax),
      order: take(4 * passNeuronsMax),
      flags: take(4 * passNeuronsMax),
      activations: take(activations),
    })),
    logitsStride: 4 * paddedRows(shape.vocabSize),
    logits: take(isFirst ? 4 * paddedRows(shape.vocabSize) * shape.logitsRows : 0),
    observationStride: observationByteLength(shape.numLayers, d),
    observations: take(
      isFirst ? observationByteLength(shape.numLayers, d) * shape.observationRows : 0,
    ),
    lanes: each(laneCount, scratch),
    batch: {
      normed: take(batched * strides.hidden),
      prepared: take(batched * strides.prepared),
      lookPrepared: take(batched * strides.prepared),
      lowRankPrepared: take(batched * strides.lowRankPrepared),
      attentionPrepared: take(shape.isParallel ? batched * strides.prepared : 0),
      picked: each(laneCount, () => take(4 * Math.max(PICKED_MIN, shape.batchPassNeuronsMax))),
      products: each(laneCount, () => take(isBatched ? products : 0)),
    },
    predictor: {
      ...inputs(),
      lowRank: take(strides.lowRank),
      scores: take(4 * paddedRows(n)),
      mask: take(Math.ceil(n / 32) * 4),
    },
    bounce: each(shape.readerCount, () => take(shape.bounceByteLength, 4096)),
    staging: take(shape.stagingChunkCount * shape.stagingChunkByteLength, 4096),
    audit: shape.audit && {
      neuronsMax: shape.audit.neuronsMax,
      addresses: take(4 * shape.audit.neuronsMax),
      neurons: take(4 * shape.audit.neuronsMax),
      activations: take(4 * shape.audit.neuronsMax),
      picked: take(4 * shape.audit.neuronsMax),
      prepared: take(preparedByteLength(d)),
      window: take(shape.audit.windowByteLength, 4096),
    },
  };
  const layers = each(layerCount, (i) => ({
    residentUp: residentUp[i],
    pageTable: pageTables[i],
    slots: take(shape.poolByteLengths[i], 4096),
    poolByteLength: shape.poolByteLengths[i],
  }));
  const end = next + (isPruned ? EXPAND_BYTES_BEHIND : 0);
  return { ...plan, layers, byteLength: alignUp(end, 65536) };
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

/** The part of a bundle that is read, and where the up row and the down column begin in that. */
export interface RecordShape {
  offset: number;
  byteLength: number;
  upOffset: number;
  downOffset: number;
}

/** What a mode reads of a neuron; `isFirstResident`: the row that decides is in memory already (`exact`). */
export function recordOf(
  quantization: Quantization,
  hiddenSize: number,
  isFirstResident: boolean,
  isGated = false,
  capacities: Capacities = null,
): RecordShape {
  const vectors = bundleVectors({ quantization, hiddenSize, isGated, capacities });
  const offset = isFirstResident ? vectors[0] : 0;
  const byteLength = vectors.reduce((sum, vector) => sum + vector, -offset);
  return {
    offset,
    byteLength,
    upOffset: isGated && !isFirstResident ? vectors[0] : 0,
    downOffset: byteLength - vectors[vectors.length - 1],
  };
}
