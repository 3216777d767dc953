/**
 * Sizes of the pages in which the KV cache is kept: keys and values of all heads of a layer at `PAGE_POSITIONS`
 * positions. What lies where within a page is drawn in kernels/pages/page.ts.
 */

/** How numbers of the KV cache are stored. `q8`: bytes with one f32 scale for each position and head. */
export type KvQuantization = "f32" | "f16" | "q8";

export const KV_QUANTIZATIONS: readonly KvQuantization[] = ["f32", "f16", "q8"];

/** Positions of a page. */
export const PAGE_POSITIONS = 16;

/** Dimensions of a head, at most, whose exact sums of q8 fit into 32 bits. */
export const Q8_HEAD_DIM_MAX = 512;

const NUMBER_BYTES: Record<KvQuantization, number> = { f32: 4, f16: 2, q8: 1 };

/** A head of a model: how many of them have keys and values of their own, and the length of one. */
export interface KvHeads {
  numKeyValueHeads: number;
  headDim: number;
}

/**
 * Bytes of a block: the keys, or the values, of one head in a page.
 *
 * @throws {RangeError} if `headDim` is no multiple of 16, or too large for q8
 */
export function kvBlockByteLength(kv: KvQuantization, headDim: number): number {
  if (headDim % 16 !== 0 || headDim <= 0) {
    throw new RangeError(
      `Cannot page keys and values whose length is no multiple of 16: received ${headDim}`,
    );
  }
  if (kv === "q8" && headDim > Q8_HEAD_DIM_MAX) {
    throw new RangeError(
      `Cannot keep heads of more than ${Q8_HEAD_DIM_MAX} dimensions in q8: received ${headDim}`,
    );
  }
  const scaleBytes = kv === "q8" ? 4 : 0;
  return PAGE_POSITIONS * (headDim * NUMBER_BYTES[kv] + scaleBytes);
}

/** Bytes of a page, a multiple of 64. */
export function pageByteLength(
  kv: KvQuantization,
  { numKeyValueHeads, headDim }: KvHeads,
): number {
  return 2 * numKeyValueHeads * kvBlockByteLength(kv, headDim);
}

/** Where in a page the keys of a head begin. */
export function keysOffset(kv: KvQuantization, { headDim }: KvHeads, head: number): number {
  return head * kvBlockByteLength(kv, headDim);
}

/** Where in a page the values of a head begin. */
export function valuesOffset(
  kv: KvQuantization,
  { numKeyValueHeads, headDim }: KvHeads,
  head: number,
): number {
  return (numKeyValueHeads + head) * kvBlockByteLength(kv, headDim);
}

/** Pages that `positions` positions of a layer take. */
export function pageCount(positions: number): number {
  return Math.ceil(positions / PAGE_POSITIONS);
}

/**
 * Pages of a layer that looks back over a window: they are taken in turn, page p of a text where its page p - count was, position by
 * position. A step of up to `positionsMax` positions writes its own before it looks back at the `window - 1` before its first.
 */
export function windowPageCount(window: number, positionsMax: number): number {
  return pageCount(window - 1 + positionsMax);
}

/**
 * Knows what a window can still look back at. Places are taken in turn, so a text that goes on from before its end may find that later
 * positions have taken those that it needs. What drafts wrote in vain is within a step, and no such case.
 */
export class WindowGuard {
  readonly #window: number;
  /** Positions that have places at a time. */
  readonly #places: number;
  /** The most positions that the places have seen since a text began anew. */
  #end = 0;

  /** @param pageCount of the layers with the window */
  constructor(window: number, pageCount: number) {
    this.#window = window;
    this.#places = pageCount * PAGE_POSITIONS;
  }

  /** Whether a step may begin there. */
  mayGoOnFrom(position: number): boolean {
    return position === 0 || this.#end - this.#places <= Math.max(0, position - this.#window + 1);
  }

  /** Before each step. Throws `RangeError`. */
  check({ position, positions }: { position: number; positions: number }): void {
    if (position === 0) this.#end = 0;
    if (!this.mayGoOnFrom(position)) {
      throw new RangeError(
        `Cannot go on from position ${position}: what its window sees made room for ${this.#end} positions`,
      );
    }
    this.#end = Math.max(this.#end, position + positions);
  }
}

/** Bytes of scratch for the attention of `queries` heads over `positions` positions. */
export function pagedScratchByteLength(
  queries: number,
  headDim: number,
  positions: number,
): number {
  return 4 * queries * (headDim + pageCount(positions) * PAGE_POSITIONS);
}
