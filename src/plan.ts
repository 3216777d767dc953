import { planArena, recordOf, slotByteLength } from "./arena.ts";
import type { ArenaPlan, ArenaShape } from "./arena.ts";
import { planSample, sampleNeuronsMax } from "./audit/sample.ts";
import type { AuditSample } from "./audit/sample.ts";
import { formatBytes } from "./byte_size.ts";
import { divideAmongLayers } from "./cache/divide_slots.ts";
import { MemoryBudgetError } from "./errors.ts";
import type { ReaderBackend } from "./flash/reader_options.ts";
import type { DiskFacts } from "./flash/bypass.ts";
import type { FlashHeader } from "./format/header.ts";
import { extentsOf, isReordered, predictorTensors, rankMaxOf } from "./format/header.ts";
import { MEMORY_PAGES_MAX } from "./kernels.ts";
import type { FfnMode } from "./pipeline/options.ts";

/** What the user asked for; undefined is for the plan to choose. */
export interface PlanWishes {
  mode: FfnMode;
  /** Ceiling of the whole process, in bytes. */
  memoryBytes?: number;
  /** Share of the FFN's neurons that may lie in memory, 0 to 1; the other way to set the cache. */
  ffnCache?: number;
  contextLength: number;
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
  /** Memory that is free, for when the user sets no bound. */
  freeBytes: number;
}

/** What will lie where, made before anything is loaded. */
export interface Plan {
  mode: FfnMode;
  arena: ArenaPlan;
  shape: ArenaShape;
  /** The part of a bundle that is read. */
  record: { offset: number; byteLength: number };
  slotCounts: number[];
  /** All neurons have their slots: nothing is read while running. */
  isResident: boolean;
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

/** A layer must have so many slots at least: a group of misses and the one after it. */
const SLOTS_MIN = 8;

/** One read of the dense stream. Long enough for sequential speed, short enough to overlap. */
const STAGING_CHUNK_BYTES = 256 * 1024;
const STAGING_CHUNKS = 8;

/** A merged read is at most this long. */
export const BOUNCE_BYTES = 64 * 1024;

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
  const arenaMax = MEMORY_PAGES_MAX * 65536;
  if (smallest.arena.byteLength > arenaMax) {
    const size = formatBytes(smallest.arena.byteLength);
    throw new RangeError(
      `Cannot run this model as its resident part takes ${size}, more than 4 GiB`,
    );
  }
  const { memoryBytes, runtimeBytes, freeBytes, ffnCache } = wishes;
  if (memoryBytes !== undefined && memoryBytes < smallest.bytes.total) {
    throw budgetError(memoryBytes, smallest.bytes.total);
  }
  const ceiling = memoryBytes ?? Math.max(smallest.bytes.total, FREE_SHARE * freeBytes);
  const arenaCeiling = Math.min(ceiling - runtimeBytes, arenaMax);
  const wanted = ffnCache === undefined ? n * numLayers : Math.round(ffnCache * n * numLayers);
  if (isDense) {
    // The stream of `dense` needs no slots, unless everything fits.
    const resident = wanted >= n * numLayers ? planOf(n * numLayers) : smallest;
    return resident.arena.byteLength <= arenaCeiling ? resident : smallest;
  }
  // A cache that was asked for as a share has no floor but one slot a layer.
  const least = ffnCache === undefined ? slotsMin : Math.min(slotsMin, numLayers);
  return largestPlan(planOf, { least, wanted: Math.max(least, wanted), arenaCeiling });
}

/** The plan with as many slots as are wanted and fit; layers are aligned, so bytes are not quite a multiple. */
function largestPlan(
  planOf: (slotTotal: number) => Plan,
  { least, wanted, arenaCeiling }: { least: number; wanted: number; arenaCeiling: number },
): Plan {
  let slotTotal = wanted;
  for (;;) {
    const plan = planOf(slotTotal);
    const overBytes = plan.arena.byteLength - arenaCeiling;
    if (overBytes <= 0 || slotTotal === least) return plan;
    slotTotal = Math.max(least, slotTotal - Math.ceil(overBytes / plan.shape.slotByteLength));
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

/** The plan with `slotTotal` slots divided among the layers. */
function planWith(
  header: FlashHeader,
  disk: DiskFacts,
  wishes: PlanWishes,
  slotTotal: number,
): Plan {
  const { config, ffnQuantization } = header;
  const { intermediateSize: n, numLayers, hiddenSize } = config;
  const isExact = wishes.mode === "exact";
  const record = recordOf(ffnQuantization, hiddenSize, isExact);
  const strideBytes = header.layers[0].bundles.bundleByteLength;
  const isResident = slotTotal >= n * numLayers;
  const slotCounts = divide(header, slotTotal);
  const isStreaming = wishes.mode === "dense" && !isResident;
  const neuronsPerChunk = Math.min(n, Math.max(1, Math.floor(STAGING_CHUNK_BYTES / strideBytes)));
  const chunk = { strideBytes, offset: 0, byteLength: neuronsPerChunk * strideBytes };
  const auditSample = wishes.audit ? planSample(n, strideBytes) : null;
  const slotBytes = slotByteLength({ strideBytes, ...record }, disk.blockByteLength);
  const shape: ArenaShape = {
    ffnQuantization,
    vocabSize: config.vocabSize,
    hiddenSize,
    intermediateSize: n,
    numLayers,
    contextLength: wishes.contextLength,
    laneCount: wishes.laneCount,
    readerCount: wishes.readerCount,
    slotCounts,
    slotByteLength: slotBytes,
    stagingChunkCount: isStreaming ? STAGING_CHUNKS : 0,
    // Neurons in another order are read one by one, each to a place of whole blocks.
    stagingChunkByteLength: isReordered(header)
      ? neuronsPerChunk * slotBytes
      : slotByteLength(chunk, 4096),
    passNeuronsMax: isStreaming ? neuronsPerChunk : n,
    rankMax: rankMaxOf(header.predictors),
    bounceByteLength: wishes.depth * BOUNCE_BYTES,
    sections: residentSections(header),
    hasResidentUp: isExact,
    logitsRows: wishes.logitsRows,
    observationRows: wishes.observationRows,
    audit: auditSample ? auditShape(auditSample, strideBytes) : undefined,
  };
  const arena = planArena(shape);
  const predictors = predictorBytes(header);
  const weights = header.tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const residentUp = isExact ? numLayers * arenaUpBytes(arena, numLayers) : 0;
  const keyValueCache = 8 * hiddenSize * wishes.contextLength * numLayers;
  const slots = slotCounts.reduce((sum, count) => sum + count, 0) * shape.slotByteLength;
  const runtime = wishes.runtimeBytes;
  const scratch = arena.byteLength - weights - predictors - residentUp - keyValueCache - slots;
  const total = runtime + arena.byteLength;
  const bytes = { runtime, weights, predictors, residentUp, keyValueCache, slots, scratch, total };
  return {
    mode: wishes.mode,
    arena,
    shape,
    record,
    slotCounts,
    isResident,
    neuronsPerChunk,
    auditSample,
    blockByteLength: disk.blockByteLength,
    bytes,
  };
}

function auditShape(sample: AuditSample, strideBytes: number): ArenaShape["audit"] {
  const window = { strideBytes, offset: 0, byteLength: sample.windowNeurons * strideBytes };
  return {
    windowByteLength: slotByteLength(window, 4096),
    neuronsMax: sampleNeuronsMax(sample),
  };
}

function divide(header: FlashHeader, slotTotal: number): number[] {
  const { predictors, config } = header;
  return divideAmongLayers({
    numLayers: config.numLayers,
    count: config.intermediateSize,
    slotTotal,
    curves: predictors?.missCurves ?? [],
    predictedShares: predictors?.layers.map((layer) => layer.predictedShare) ?? [],
  });
}

function arenaUpBytes(arena: ArenaPlan, numLayers: number): number {
  return numLayers > 1
    ? arena.residentUp[1] - arena.residentUp[0]
    : arena.keys[0] - arena.residentUp[0];
}

function predictorBytes(header: FlashHeader): number {
  let sum = 0;
  for (const layer of header.predictors?.layers ?? []) {
    for (const [, { byteLength }] of predictorTensors(layer)) sum += byteLength;
  }
  return sum;
}

/** What must be in memory: the tensors' section, then the predictors' if there are any. */
export function residentSections(
  header: FlashHeader,
): { byteOffset: number; byteLength: number }[] {
  const groups = [
    header.tensors,
    (header.predictors?.layers ?? []).flatMap((layer) =>
      predictorTensors(layer).map(([, tensor]) => tensor)
    ),
  ];
  return groups.filter((tensors) => tensors.length > 0).map((tensors) => {
    const byteOffset = Math.min(...tensors.map((tensor) => tensor.byteOffset));
    const end = Math.max(...tensors.map((tensor) => tensor.byteOffset + tensor.byteLength));
    return { byteOffset, byteLength: end - byteOffset };
  });
}

/** Bytes of all bundles. */
export function ffnByteLength(header: FlashHeader): number {
  const isBundles = /^layers\.\d+\.bundles$/;
  return extentsOf(header).filter(({ field }) => isBundles.test(field))
    .reduce((sum, { byteLength }) => sum + byteLength, 0);
}
