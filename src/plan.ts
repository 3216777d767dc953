import type { ModelConfig } from "../models/config.ts";
import { EARLY_POSITIONS, pagesOfLayer, planArena, recordOf, slotByteLength } from "./arena.ts";
import type {
  ArenaPlan,
  ArenaShape,
  CommonShape,
  LayerRange,
  PageShape,
  RecordShape,
  Section,
} from "./arena.ts";
import { planSample, sampleNeuronsMax } from "./audit/sample.ts";
import type { AuditSample } from "./audit/sample.ts";
import { formatBytes } from "./byte_size.ts";
import { dividePools, SLOTS_MIN } from "./cache/divide_pools.ts";
import { MemoryBudgetError } from "./errors.ts";
import type { ReaderBackend } from "./flash/reader_options.ts";
import type { DiskFacts } from "./flash/bypass.ts";
import type { FlashHeader } from "./format/header.ts";
import {
  bundleFormOf,
  extentsOf,
  isScattered,
  predictorTensors,
  rankMaxOf,
  SECTION_ALIGNMENT,
} from "./format/header.ts";
import { matrixByteLength } from "./format/layout.ts";
import { MEMORY_PAGES_MAX } from "./kernels.ts";
import { pageByteLength, pageCount, windowPageCount } from "./kv_page.ts";
import type { KvQuantization } from "./kv_page.ts";
import { hasResidentRows } from "./pipeline/options.ts";
import type { FfnMode } from "./pipeline/options.ts";

/** What the user asked for; undefined is for the plan to choose. */
export interface PlanWishes {
  mode: FfnMode;
  /** Share of the neurons that `magnitude` leaves out. */
  sparsity?: number;
  /** Ceiling of the whole process, in bytes. */
  memoryBytes?: number;
  /** Share of the FFN's neurons that may lie in memory, 0 to 1; the other way to set the cache. */
  ffnCache?: number;
  contextLength: number;
  /** How keys and values are stored. */
  kv: KvQuantization;
  /** Positions of a prompt's chunk, and tokens of a draft, at most. */
  promptChunk: number;
  draftsMax: number;
  laneCount: number;
  readerCount: number;
  backend: ReaderBackend;
  /** Reads in flight of one reader. */
  depth: number;
  logitsRows: number;
  observationRows: number;
  /** Look at neurons outside the predicted set. */
  audit: boolean;
  /** Memory of runtime and workers, in bytes. */
  runtimeBytes: number;
  /** By how much that may be more in the next process, for which a refusal names the smallest memory. Default 0. */
  runtimeJitterBytes?: number;
  /** Memory that is free, for when the user sets no bound. */
  freeBytes: number;
  /** Whether pages of the KV cache may take slots; default: unless `ffnCache` says how many there are. */
  sharesPools?: boolean;
  /** `dense` reads what is resident anew for each token, too: see `OpenOptions.naive`. */
  naive?: boolean;
  /** Bytes of an arena, at most; default (and most): 4 GiB. */
  arenaBytesMax?: number;
}

/** What will lie where, made before anything is loaded. */
export interface Plan {
  mode: FfnMode;
  /** Share of the neurons that `magnitude` was asked to leave out; null in other modes. */
  sparsity: number | null;
  /** Usually one; more where layers do not fit into 4 GiB. */
  arenas: ArenaPlan[];
  shape: CommonShape;
  /** The part of a bundle that is read. */
  record: RecordShape;
  /** Slots of each layer while the context is short, and when it is full. */
  slotCounts: number[];
  slotCountsFull: number[];
  /** Pages of the KV cache take slots as the context grows. */
  isPoolShared: boolean;
  promptChunk: number;
  draftsMax: number;
  /** All neurons have their slots: nothing is read while running. */
  isResident: boolean;
  /** Layers whose neurons have their slots, whatever the context: they are loaded at once and never read again. */
  residentLayers: boolean[];
  neuronsPerChunk: number;
  /** What the audit looks at, if it is on. */
  auditSample: AuditSample | null;
  /** Bytes of a block of the disk. */
  blockByteLength: number;
  bytes: {
    runtime: number;
    weights: number;
    predictors: number;
    residentUp: number;
    keyValueCache: number;
    slots: number;
    /** Staging, bounce buffers, activations. */
    scratch: number;
    total: number;
  };
}

const ARENA_BYTES_MAX = MEMORY_PAGES_MAX * 65536;

/** One read of a stream of bundles. Long enough for sequential speed, short enough to overlap. */
const STAGING_CHUNK_BYTES = 256 * 1024;
const STAGING_CHUNKS = 8;
/** A prompt's stream, whose reads are grouped to passes, has shorter ones in small layers, and so takes half a layer at most. */
const CHUNKS_OF_LAYER_MIN = 16;

/** Staging chunks beside those, for what `naive` reads to no purpose. */
export const REREAD_CHUNKS = 8;

/** A merged read is at most this long. */
export const BOUNCE_BYTES = 64 * 1024;

/** Neurons of a pass that several positions compute: their records stay in the processor's caches. */
const BATCH_PASS_NEURONS = 1024;

/** Without a wish, the engine takes at most this share of the memory that is free. */
const FREE_SHARE = 0.6;

/**
 * Decides what is resident and how many slots each layer gets. Throws `MemoryBudgetError` with the
 * smallest budget that works if the wish is below it.
 */
export function makePlan(header: FlashHeader, disk: DiskFacts, wishes: PlanWishes): Plan {
  const { intermediateSize: n, numLayers } = header.config;
  const isDense = wishes.mode === "dense";
  const planOf = (slotTotal: number) => planWith(header, disk, wishes, slotTotal);
  const slotsMin = isDense ? 0 : Math.min(SLOTS_MIN, n) * numLayers;
  const smallest = planOf(slotsMin);
  const { memoryBytes, runtimeBytes, freeBytes, ffnCache } = wishes;
  if (memoryBytes !== undefined && memoryBytes < smallest.bytes.total) {
    throw budgetError(memoryBytes, smallest.bytes.total + (wishes.runtimeJitterBytes ?? 0));
  }
  const ceiling = memoryBytes ?? Math.max(smallest.bytes.total, FREE_SHARE * freeBytes);
  const arenaCeiling = ceiling - runtimeBytes;
  const wanted = ffnCache === undefined ? n * numLayers : Math.round(ffnCache * n * numLayers);
  // `dense` comes to each neuron once a token, so what it keeps is whole layers, and streams the others.
  if (isDense) return largestPlan(planOf, { least: 0, wanted, arenaCeiling, unit: n });
  // A cache that was asked for as a share has no floor but one slot a layer.
  const least = ffnCache === undefined ? slotsMin : Math.min(slotsMin, numLayers);
  return largestPlan(planOf, { least, wanted: Math.max(least, wanted), arenaCeiling, unit: 1 });
}

/**
 * The plan with as many slots beside a full context as are wanted and fit, in units of `unit`. Bytes are not quite a multiple of the
 * slots: layers are aligned, and where fewer slots need one arena less, its scratch goes to slots too.
 */
function largestPlan(
  planOf: (slotTotal: number) => Plan,
  { least, wanted, arenaCeiling, unit }: {
    least: number;
    wanted: number;
    arenaCeiling: number;
    unit: number;
  },
): Plan {
  const whole = (slots: number) => Math.floor(slots / unit) * unit;
  let plan = planOf(Math.max(least, whole(wanted))), fits = least, tooMany: number;
  const spareOf = (plan: Plan) => {
    return Math.floor((arenaCeiling - arenaBytes(plan.arenas)) / plan.shape.slotByteLength);
  };
  if (spareOf(plan) >= 0 || whole(wanted) <= least) return plan;
  tooMany = whole(wanted);
  for (let slotTotal = tooMany + spareOf(plan);;) {
    slotTotal = Math.min(tooMany - unit, Math.max(fits, whole(slotTotal)));
    plan = planOf(slotTotal);
    const spare = spareOf(plan);
    if (spare >= 0) fits = slotTotal;
    else tooMany = slotTotal;
    const isNear = spare >= 0 && spare < unit;
    if (isNear || tooMany - fits <= unit) return spare >= 0 ? plan : planOf(fits);
    slotTotal += spare;
  }
}

function budgetError(memoryBytes: number, smallestBytes: number): MemoryBudgetError {
  const mebibytes = Math.ceil(smallestBytes / (1 << 20));
  return new MemoryBudgetError(
    `Cannot run within ${
      formatBytes(memoryBytes)
    }: the smallest memory that works is ${mebibytes}MiB`,
    { requiredBytes: mebibytes * (1 << 20) },
  );
}

/** The plan with `slotTotal` slots beside a full context, divided among the layers. */
function planWith(
  header: FlashHeader,
  disk: DiskFacts,
  wishes: PlanWishes,
  slotTotal: number,
): Plan {
  const { config, ffnQuantization } = header;
  const { intermediateSize: n, numLayers, hiddenSize } = config;
  const hasResidentUp = hasResidentRows(wishes.mode);
  const { capacities, isGated } = bundleFormOf(header);
  const record = recordOf(ffnQuantization, hiddenSize, hasResidentUp, isGated, capacities);
  const strideBytes = header.layers[0].bundles.bundleByteLength;
  const isResident = slotTotal >= n * numLayers;
  const neuronsPerRead = Math.max(1, Math.floor(STAGING_CHUNK_BYTES / strideBytes));
  const neuronsPerChunk = wishes.mode === "dense"
    ? Math.min(n, neuronsPerRead)
    : Math.min(Math.ceil(n / CHUNKS_OF_LAYER_MIN), neuronsPerRead);
  const chunk = { strideBytes, offset: 0, byteLength: neuronsPerChunk * strideBytes };
  const auditSample = wishes.audit ? planSample(n, strideBytes) : null;
  const slotBytes = slotByteLength({ strideBytes, ...record }, disk.blockByteLength);
  // The audit looks at one position after the other.
  const promptChunk = wishes.audit ? 1 : wishes.promptChunk;
  const draftsMax = wishes.audit ? 0 : wishes.draftsMax;
  const positionsMax = Math.max(promptChunk, 1 + draftsMax);
  const isDense = wishes.mode === "dense", isDenseStream = isDense && !isResident;
  const isStreaming = isDenseStream || (!isResident && promptChunk > EARLY_POSITIONS);
  const pages = pagesOf(header, wishes, positionsMax);
  const isPoolShared = !isResident && !isDense &&
    (wishes.sharesPools ?? wishes.ffnCache === undefined);
  const batchPassNeuronsMax = Math.max(neuronsPerChunk, Math.min(n, BATCH_PASS_NEURONS));
  const shape: CommonShape = {
    ffnQuantization,
    vocabSize: config.vocabSize,
    hiddenSize,
    ...attentionShape(config),
    intermediateSize: n,
    numLayers,
    contextLength: wishes.contextLength,
    pages,
    positionsMax,
    laneCount: wishes.laneCount,
    readerCount: wishes.readerCount,
    slotByteLength: slotBytes,
    stagingChunkCount: isStreaming ? STAGING_CHUNKS + (wishes.naive ? REREAD_CHUNKS : 0) : 0,
    // Neurons in another order are read one by one, each to a place of whole blocks.
    stagingChunkByteLength: isScattered(header)
      ? neuronsPerChunk *
        slotByteLength({ ...chunk, byteLength: strideBytes }, disk.blockByteLength)
      : slotByteLength(chunk, 4096),
    // `dense` need not know of how many positions a step is whose passes it prepares.
    passNeuronsMax: isDenseStream ? batchPassNeuronsMax : n,
    batchPassNeuronsMax,
    rankMax: rankMaxOf(header.predictors),
    bounceByteLength: wishes.depth * BOUNCE_BYTES,
    hasResidentUp,
    isPruned: capacities !== null,
    logitsRows: wishes.logitsRows,
    observationRows: wishes.observationRows,
    audit: auditSample ? auditShape(auditSample, strideBytes) : undefined,
  };
  const pools = dividePools(header, { slotTotal, slotBytes, pages, isPoolShared, isDense });
  const poolByteLengths = pools.map(({ byteLength }) => byteLength);
  const arenas = planArenas(header, shape, poolByteLengths, wishes.arenaBytesMax);
  const slotCounts = pools.map(({ slots }) => slots);
  const slotCountsFull = pools.map(({ slotsFull }) => slotsFull);
  const residentLayers = slotCountsFull.map((slots) => slots === n);
  const predictors = predictorBytes(header);
  const weights = header.tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const residentUp = hasResidentUp
    ? numLayers * matrixByteLength(ffnQuantization, n, hiddenSize)
    : 0;
  const keyValueCache = pages.byteLength *
    pools.reduce((sum, _, layer) => sum + pagesOfLayer(pages, layer), 0);
  const slots = poolByteLengths.reduce((sum, bytes) => sum + bytes, 0) - keyValueCache;
  const runtime = wishes.runtimeBytes, inArenas = arenaBytes(arenas);
  const scratch = inArenas - weights - predictors - residentUp - keyValueCache - slots;
  const total = runtime + inArenas;
  const bytes = { runtime, weights, predictors, residentUp, keyValueCache, slots, scratch, total };
  return {
    mode: wishes.mode,
    sparsity: wishes.sparsity ?? null,
    arenas,
    shape,
    record,
    slotCounts,
    slotCountsFull,
    isPoolShared,
    promptChunk,
    draftsMax,
    isResident,
    residentLayers,
    neuronsPerChunk,
    auditSample,
    blockByteLength: disk.blockByteLength,
    bytes,
  };
}

function arenaBytes(arenas: ArenaPlan[]): number {
  return arenas.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/**
 * Groups layers into as few arenas as hold them, one after the other. Throws `RangeError` if a single layer does not
 * fit into one.
 */
function planArenas(
  header: FlashHeader,
  shape: CommonShape,
  poolByteLengths: number[],
  byteLengthMax = ARENA_BYTES_MAX,
): ArenaPlan[] {
  const { numLayers } = shape;
  const plan = (from: number, to: number) =>
    planArena({
      ...shape,
      layers: { from, to },
      poolByteLengths: poolByteLengths.slice(from, to),
      sections: residentSections(header, { from, to }),
    });
  const whole = plan(0, numLayers);
  if (whole.byteLength <= byteLengthMax) return [whole];
  const arenas: ArenaPlan[] = [];
  for (let from = 0; from < numLayers;) {
    let to = from + 1, arena = plan(from, to);
    if (arena.byteLength > byteLengthMax) {
      const size = formatBytes(arena.byteLength), most = formatBytes(byteLengthMax);
      throw new RangeError(`Cannot run this model as a layer takes ${size}, more than ${most}`);
    }
    for (; to < numLayers; to++) {
      const larger = plan(from, to + 1);
      if (larger.byteLength > byteLengthMax) break;
      arena = larger;
    }
    arenas.push(arena);
    from = to;
  }
  return arenas;
}

/** Sizes of what attention and a router leave on their way. */
function attentionShape(config: ModelConfig) {
  const { hiddenSize, embeddingSize, numAttentionHeads, numKeyValueHeads, headDim } = config;
  const { positions, block } = config, querySize = numAttentionHeads * headDim;
  const isRotary = positions.kind === "rotary";
  return {
    numAttentionHeads,
    expertCount: config.experts?.count ?? 0,
    expertsPerToken: config.experts?.perToken ?? 0,
    querySize,
    keySize: numKeyValueHeads * headDim,
    colsMax: Math.max(hiddenSize, embeddingSize, querySize),
    angleTables: !isRotary ? 0 : positions.windowTheta === null ? 1 : 2,
    angleDims: isRotary ? positions.dims : 0,
    isParallel: block === "parallel" || block === "parallel-two",
  };
}

function pagesOf(
  { config }: FlashHeader,
  { kv, contextLength }: PlanWishes,
  positionsMax: number,
): PageShape {
  const { numKeyValueHeads, headDim, attention: { window } } = config;
  const heads = { numKeyValueHeads, headDim };
  const byteLength = pageByteLength(kv, heads);
  const pages: PageShape = { kv, ...heads, byteLength, count: pageCount(contextLength) };
  const count = window ? windowPageCount(window.length, positionsMax) : Infinity;
  if (window === null || count >= pages.count) return pages;
  return { ...pages, windowed: { window: window.length, layers: window.layers, count } };
}

function auditShape(sample: AuditSample, strideBytes: number): ArenaShape["audit"] {
  const window = { strideBytes, offset: 0, byteLength: sample.windowNeurons * strideBytes };
  return {
    windowByteLength: slotByteLength(window, 4096),
    neuronsMax: sampleNeuronsMax(sample),
  };
}

function predictorBytes(header: FlashHeader): number {
  let sum = 0;
  for (const layer of header.predictors?.layers ?? []) {
    for (const [, { byteLength }] of predictorTensors(layer)) sum += byteLength;
  }
  return sum;
}

/**
 * What must be in the memory of these layers: runs of tensors and predictors as they lie in the file. What belongs to no
 * layer is with the first.
 */
export function residentSections(header: FlashHeader, { from, to }: LayerRange): Section[] {
  const tensors: { layer: number; byteOffset: number; byteLength: number }[] = header.tensors.map(
    ({ name, byteOffset, byteLength }) => ({ layer: layerOf(name), byteOffset, byteLength }),
  );
  for (const [layer, predictor] of (header.predictors?.layers ?? []).entries()) {
    for (const [, { byteOffset, byteLength }] of predictorTensors(predictor)) {
      tensors.push({ layer, byteOffset, byteLength });
    }
  }
  const sections: Section[] = [];
  let last: Section | undefined;
  for (
    const { layer, byteOffset, byteLength } of tensors.sort((a, b) => a.byteOffset - b.byteOffset)
  ) {
    if (layer < from || layer >= to) {
      last = undefined;
      continue;
    }
    const gap = last ? byteOffset - (last.byteOffset + last.byteLength) : Infinity;
    if (last && gap < SECTION_ALIGNMENT) {
      last.byteLength = byteOffset + byteLength - last.byteOffset;
    } else sections.push(last = { byteOffset, byteLength });
  }
  return sections;
}

function layerOf(tensorName: string): number {
  const match = /^layers\.(\d+)\./.exec(tensorName);
  return match ? Number(match[1]) : 0;
}

/** Bytes of all bundles. */
export function ffnByteLength(header: FlashHeader): number {
  const isBundles = /^layers\.\d+\.bundles$/;
  return extentsOf(header).filter(({ field }) => isBundles.test(field))
    .reduce((sum, { byteLength }) => sum + byteLength, 0);
}
