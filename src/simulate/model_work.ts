import { tokenTime } from "./cost_model.ts";
import type { DiskCost, Machine, TokenTime, TokenWork } from "./cost_model.ts";
import { bytesOf, predictorBytes } from "./model_shape.ts";
import type { ModelShape } from "./model_shape.ts";

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
