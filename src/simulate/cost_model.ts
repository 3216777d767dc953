import { bytesOf, predictorBytes } from "./model_shape.ts";
import type { ModelShape } from "./model_shape.ts";
import type { NeuronTrace } from "./neuron_trace.ts";
import type { ReplayResult } from "./replay.ts";

/** What a machine charges for reading and computing. */
export interface Machine {
  name: string;
  disk: DiskCost;
  memory: {
    /** Weights that are streamed: matrix times vector. */
    bytesPerSecond: number;
    /** Weights of neurons here and there: the sparse FFN. */
    sparseBytesPerSecond: number;
  };
  flopsPerSecond: number;
  /** Of each layer, whatever its size: threads that meet, the list that is made, norms. */
  secondsPerLayer: number;
}

/** A disk by three numbers: reads of a full queue take `secondsPerRead` and the time of their bytes. */
export interface DiskCost {
  bytesPerSecond: number;
  /** Of each read in a full queue, beside its bytes: the inverse of what the disk gives of the smallest reads. */
  secondsPerRead: number;
  /** What the first read of a burst takes longer than that: nothing else is in flight while it is waited for. */
  firstReadSeconds: number;
  /** Bytes of a block: reads cover whole ones. */
  blockBytes: number;
}

/** What is in memory for good, and computed with each token. */
export interface ResidentBytes {
  /** Attention and predictors. */
  layerBytes: number;
  logitsBytes: number;
}

/** What one token asks of the machine. */
export interface TokenWork extends ResidentBytes {
  numLayers: number;
  /** FFN neurons that are computed, and the part of those that are in memory already. */
  listedBytes: number;
  hitShare: number;
  reads: number;
  /** Whole blocks, gaps that are read over. */
  readBytes: number;
  /** Two for each weight: 1 in f16, 0.5 in f32. */
  flopsPerByte: number;
  /** Share of the reads that begin a layer early, and so may hide behind its attention. */
  earlyShare: number;
  /** Whether hits are computed while misses are read. */
  overlapsHits: boolean;
}

/** Where a token's time goes, in seconds. `total` = attention + logits + ffn + layers + reading - hidden. */
export interface TokenTime {
  /** With predictors. */
  attention: number;
  logits: number;
  ffn: number;
  layers: number;
  reading: number;
  /** The part of `reading` in which something is computed. */
  hidden: number;
  total: number;
}

/**
 * The time of one token (LLM in a flash, section 3.1: reading + computing + the rest), with what hides what:
 *
 *   attention, late look | hits of the list            | misses
 *   early reads -------->| late reads ---------------->|
 *
 * Computing is bound by memory or by arithmetic, whichever is slower. Reads of a list are one burst (`DiskCost`).
 */
export function tokenTime(work: TokenWork, machine: Machine): TokenTime {
  const { memory, flopsPerSecond, secondsPerLayer } = machine;
  const byArithmetic = flopsPerSecond / work.flopsPerByte;
  const streamed = Math.min(memory.bytesPerSecond, byArithmetic);
  const attention = work.layerBytes / streamed, logits = work.logitsBytes / streamed;
  const ffn = work.listedBytes / Math.min(memory.sparseBytesPerSecond, byArithmetic);
  const layers = work.numLayers * secondsPerLayer;
  const reading = readingSeconds(work, machine.disk);
  const early = Math.min(work.earlyShare * reading, attention);
  const late = work.overlapsHits ? Math.min(reading - early, work.hitShare * ffn) : 0;
  const hidden = early + late;
  const total = attention + logits + ffn + layers + reading - hidden;
  return { attention, logits, ffn, layers, reading, hidden, total };
}

/** What the reads of a token take if nothing hides them. */
export function readingSeconds(
  { reads, readBytes, numLayers }: Pick<TokenWork, "reads" | "readBytes" | "numLayers">,
  disk: DiskCost,
): number {
  // Of lists that read twice on average, one in seven reads nothing: as many as if reads fell at random.
  const bursts = numLayers * (1 - Math.exp(-reads / numLayers));
  return bursts * disk.firstReadSeconds + reads * disk.secondsPerRead +
    readBytes / disk.bytesPerSecond;
}

/** How a model of some shape is run, by shares of its FFN's neurons. */
export interface RunShares {
  /** Computed for each token. */
  listed: number;
  /** Read for each token. */
  missed: number;
  /** In memory. */
  cached: number;
  /** Reads for each neuron that is missed: below 1 where neighbours are read together. */
  readsPerMiss: number;
  predictorRank: number;
  earlyShare: number;
}

/**
 * The paper's shares for OPT 6.7B (sections 3.1 and 4): a tenth predicted, a window of 4 to 5 tokens keeps 24 % and reads
 * 2.4 %; rank 128 in 28 layers of 32 and 1024 in four, 240 in the mean.
 */
export const PAPER_SHARES: RunShares = {
  listed: 0.1,
  missed: 0.024,
  cached: 0.24,
  readsPerMiss: 1,
  predictorRank: 240,
  earlyShare: 0,
};

/**
 * Misses fall by this power of e with the share of neurons that are cached: from a tenth to 2.4 % with 24 % in the paper. The
 * embedded model's trace falls so too, by 8.9 (docs/questions.md).
 */
const MISS_DECAY = 5.95;

/** How a model runs in some memory; `streamedBytes` of what should be resident find no place and are read for each token. */
export function sharesWithin(
  shape: ModelShape,
  memoryBytes: number,
): { shares: RunShares; streamedBytes: number } {
  const { ffn } = bytesOf(shape);
  const forCache = memoryBytes - memoryBytesOf(shape, { ...PAPER_SHARES, cached: 0 });
  const cached = Math.min(1, Math.max(0, forCache / ffn));
  const missed = cached === 1 ? 0 : PAPER_SHARES.listed * Math.exp(-MISS_DECAY * cached);
  return {
    shares: { ...PAPER_SHARES, cached, missed },
    streamedBytes: Math.max(0, -forCache),
  };
}

/** The work of a token of this model in some memory. */
export function workWithin(shape: ModelShape, memoryBytes: number, disk: DiskCost): TokenWork {
  const { shares, streamedBytes } = sharesWithin(shape, memoryBytes);
  const work = workOf(shape, shares, disk);
  return { ...work, readBytes: work.readBytes + streamedBytes };
}

/** The work of a token of this model. */
export function workOf(shape: ModelShape, shares: RunShares, disk: DiskCost): TokenWork {
  const { numLayers, intermediateSize } = shape;
  const bytes = bytesOf(shape);
  const listedBytes = shares.listed * bytes.ffn;
  const misses = shares.missed * numLayers * intermediateSize;
  const blocks = Math.ceil(bytes.bundle / disk.blockBytes);
  return {
    numLayers,
    layerBytes: bytes.attention + predictorBytes(shape, shares.predictorRank),
    logitsBytes: bytes.embedding,
    listedBytes,
    hitShare: shares.listed > 0 ? 1 - shares.missed / shares.listed : 0,
    reads: misses * shares.readsPerMiss,
    readBytes: misses * blocks * disk.blockBytes,
    flopsPerByte: 2 / shape.bytesPerWeight,
    earlyShare: shares.earlyShare,
    overlapsHits: true,
  };
}

/** Bytes that are in memory for good: what is resident and the cache. */
export function memoryBytesOf(shape: ModelShape, shares: RunShares): number {
  const { attention, embedding, ffn } = bytesOf(shape);
  return attention + embedding + predictorBytes(shape, shares.predictorRank) + shares.cached * ffn;
}

/** The naive way: what memory does not hold is read for each token, in long reads, and the whole model is computed. */
export function naiveTime(shape: ModelShape, machine: Machine, memoryBytes: number): TokenTime {
  const { total, embedding } = bytesOf(shape);
  const readBytes = Math.max(0, total - memoryBytes);
  return tokenTime({
    numLayers: shape.numLayers,
    layerBytes: total - embedding,
    logitsBytes: embedding,
    listedBytes: 0,
    hitShare: 0,
    reads: 0,
    readBytes,
    flopsPerByte: 2 / shape.bytesPerWeight,
    earlyShare: 0,
    overlapsHits: false,
  }, machine);
}

/** Times that no engine can pass on this machine: each thing at full speed, everything else hidden behind it. */
export interface Roofline {
  /** Bytes from flash in long reads. */
  flash: number;
  /** The same bytes in the reads that they take. */
  reads: number;
  memory: number;
  arithmetic: number;
  /** The slowest of flash, memory and arithmetic. */
  bound: number;
}

/** The roofline of a token by bytes (Williams et al. 2009), reads beside it. */
export function rooflineOf(work: TokenWork, { disk, memory, flopsPerSecond }: Machine): Roofline {
  const flash = work.readBytes / disk.bytesPerSecond;
  const reads = work.reads * disk.secondsPerRead + flash;
  const computedBytes = work.layerBytes + work.logitsBytes + work.listedBytes;
  const fromMemory = computedBytes / memory.bytesPerSecond;
  const arithmetic = computedBytes * work.flopsPerByte / flopsPerSecond;
  const bound = Math.max(flash, fromMemory, arithmetic);
  return { flash, reads, memory: fromMemory, arithmetic, bound };
}

type ReplayCounts = Pick<
  ReplayResult,
  "tokens" | "listed" | "hits" | "earlyStarted" | "reads" | "bytes"
>;

/** The work of a token as a replay counted it. */
export function replayedWork(
  { header }: Pick<NeuronTrace, "header">,
  { tokens, listed, hits, earlyStarted, reads, bytes }: ReplayCounts,
  resident: ResidentBytes,
): TokenWork {
  const misses = listed - hits;
  return {
    numLayers: header.numLayers,
    ...resident,
    listedBytes: listed / tokens * header.strideBytes,
    hitShare: listed > 0 ? hits / listed : 1,
    reads: reads / tokens,
    readBytes: bytes / tokens,
    flopsPerByte: 4 * header.hiddenSize / header.strideBytes,
    earlyShare: misses > 0 ? earlyStarted / misses : 0,
    overlapsHits: true,
  };
}
