import type { NeuronTrace } from "./neuron_trace.ts";
import type { ReplayResult } from "./replay.ts";
import { vectorsOf } from "./trace_format.ts";

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
    flopsPerByte: 2 * vectorsOf(header) * header.hiddenSize / header.strideBytes,
    earlyShare: misses > 0 ? earlyStarted / misses : 0,
    overlapsHits: true,
  };
}
