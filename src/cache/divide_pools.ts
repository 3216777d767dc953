import { pagesOfLayer } from "../arena.ts";
import type { PageShape } from "../arena.ts";
import { alignUp } from "../format/align.ts";
import type { FlashHeader } from "../format/header.ts";
import { divideAmongLayers } from "./divide_slots.ts";

/** A layer must have so many slots at least: a group of misses and the one after it. */
export const SLOTS_MIN = 8;

/** A layer's pool: its bytes, and how many slots there are beside no page and beside all. */
export interface Pool {
  byteLength: number;
  slots: number;
  slotsFull: number;
}

/**
 * Divides `slotTotal` slots beside the pages of a full context among the layers' pools. Where pages and slots share, slots are divided
 * for a short context, in which pages take next to nothing: a pool that has its pages' room from them gets fewer of its own. (Not where
 * layers with a window have fewer pages than others.)
 */
export function dividePools(
  header: FlashHeader,
  { slotTotal, slotBytes, pages, isPoolShared, isDense }: {
    slotTotal: number;
    slotBytes: number;
    pages: PageShape;
    isPoolShared: boolean;
    isDense: boolean;
  },
): Pool[] {
  const { predictors, config } = header, { numLayers, intermediateSize: count } = config;
  const pageBytesOf = (layer: number) => pagesOfLayer(pages, layer) * pages.byteLength;
  const divide = (slotTotal: number, leastSlots: number) => {
    if (isDense) return wholeLayers(slotTotal / count, numLayers).map((is) => is ? count : 0);
    return divideAmongLayers({
      numLayers,
      count,
      slotTotal,
      leastSlots,
      curves: predictors?.missCurves ?? [],
      predictedShares: predictors?.layers.map((layer) => layer.predictedShare) ?? [],
    });
  };
  // Pools are read to in whole blocks.
  const poolOf = (bytes: number) => alignUp(bytes, 4096);
  const lent = Math.ceil(pageBytesOf(0) / slotBytes), own = Math.floor(slotTotal / numLayers);
  const isEqual = pages.windowed === undefined;
  const isWithin = isEqual && own > 0 && lent + SLOTS_MIN <= count &&
    slotTotal + numLayers * lent < numLayers * count;
  if (!isPoolShared || !isWithin) {
    return divide(slotTotal, 1).map((slots, layer) => {
      const byteLength = poolOf(slots * slotBytes + pageBytesOf(layer));
      const beside = isPoolShared ? Math.min(count, Math.floor(byteLength / slotBytes)) : slots;
      return { byteLength, slots: beside, slotsFull: slots };
    });
  }
  const least = lent + Math.min(SLOTS_MIN, own);
  return divide(slotTotal + numLayers * lent, least).map((slots) => ({
    byteLength: poolOf(slots * slotBytes),
    slots,
    slotsFull: slots - lent,
  }));
}

/** Which layers `dense` keeps: so many of them, spread evenly, so that reads for the others go on while one is computed. */
function wholeLayers(kept: number, numLayers: number): boolean[] {
  const before = (layer: number) => Math.floor(kept * layer / numLayers);
  return Array.from({ length: numLayers }, (_, layer) => before(layer + 1) > before(layer));
}
