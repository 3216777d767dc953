import { TICKET_PARTS_MAX } from "../flash/ticket.ts";
import { alignUp } from "../format/align.ts";
import { ORDERED_GAP_BUNDLES, ORDERED_READS, PASSES_READS_PER_MISS } from "./engine_costs.ts";

/** How records lie on flash, and how they may be read. */
export interface ReadingShape {
  neuronCount: number;
  strideBytes: number;
  /** Bytes of a record, from the bundle's beginning or its middle. */
  recordBytes: number;
  blockByteLength: number;
  gapBytesMax: number;
  mergedBytesMax: number;
  /** Neurons lie in the order of what is read together. */
  isOrdered: boolean;
}

export interface ExpectedReads {
  reads: number;
  bytes: number;
  /** Records that come by merged reads, and are copied to their slots. */
  scattered: number;
}

/**
 * Reads of a batch of `misses` neurons, anywhere among those of a layer, and the bytes that they cover: whole blocks, and gaps that
 * are read over. The next neuron lies k places on with probability p (1 - p)^(k-1), p being the share that is missed; it joins if
 * the gap is short enough. A run ends at the longest read, or at the most parts of a ticket.
 */
export function expectedReads(
  misses: number,
  shape: ReadingShape,
  inPasses = false,
): ExpectedReads {
  if (misses === 0) return { reads: 0, bytes: 0, scattered: 0 };
  const { neuronCount, strideBytes, recordBytes, gapBytesMax, mergedBytesMax, isOrdered } = shape;
  const p = Math.min(1, misses / neuronCount);
  // The gap after a record begins where its blocks end, so what a bundle leaves over counts too.
  const steps = Math.max(0, Math.floor((gapBytesMax + recordBytes) / strideBytes));
  const joinsByChance = gapBytesMax < 0 ? 0 : 1 - (1 - p) ** steps;
  const stepByChance = meanStep(p, steps);
  const joinsByOrder = isOrdered && gapBytesMax >= 0 && steps > 0
    ? (1 - ORDERED_READS) * (1 - joinsByChance)
    : 0;
  const joins = Math.min(1, joinsByChance + joinsByOrder);
  const step = joins === 0
    ? 1
    : (joinsByChance * stepByChance + joinsByOrder * (1 + ORDERED_GAP_BUNDLES)) / joins;
  const runMax = Math.max(
    1,
    Math.min(TICKET_PARTS_MAX, 1 + Math.floor((mergedBytesMax / strideBytes - 1) / step)),
  );
  // A run of at most so many: the mean of a geometric distribution that is cut off.
  const run = joins >= 1 ? runMax : (1 - joins ** runMax) / (1 - joins);
  const reads = misses * Math.max(1 / run, inPasses ? PASSES_READS_PER_MISS : 0);
  const perRead = misses / reads;
  const covered = recordBytes + (perRead - 1) * step * strideBytes;
  return {
    reads,
    bytes: reads * coveringBytes(covered, shape),
    scattered: joins * misses,
  };
}

/** Mean distance, in bundles, of the next neuron if it lies within `steps`. */
function meanStep(p: number, steps: number): number {
  let weight = 0, sum = 0;
  for (let k = 1, chance = p; k <= steps; k++, chance *= 1 - p) {
    weight += chance;
    sum += k * chance;
  }
  return weight > 0 ? sum / weight : 1;
}

/** Whole blocks that cover so many bytes, on average over where records begin in a block. */
function coveringBytes(
  byteLength: number,
  { strideBytes, recordBytes, blockByteLength: block }: ReadingShape,
): number {
  const half = recordBytes < strideBytes ? recordBytes : 0;
  const step = greatestCommonDivisor(greatestCommonDivisor(strideBytes, half), block);
  let sum = 0;
  for (let phase = 0; phase < block; phase += step) sum += alignUp(phase + byteLength, block);
  return sum / (block / step);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
