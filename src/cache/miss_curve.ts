import { bitsOf } from "../predict/mask.ts";

/** Expected reads of one layer as a function of its cache: `missesPerToken[k]` with `slots[k]` slots. */
export interface MissCurve {
  /** Ascending, from 0 to the layer's neuron count. */
  slots: number[];
  /** Never rises. */
  missesPerToken: number[];
}

/** One bit a neuron for each of a row of tokens: word `token * wordCount + neuron / 32`, bit `neuron % 32`. */
export interface TokenMasks {
  masks: Uint32Array;
  tokenCount: number;
  neuronCount: number;
}

/**
 * Misses per token of an LRU cache of any size, from one pass over the neurons that consecutive tokens used: a neuron
 * is hit in a cache of s slots if fewer than s other neurons were used since it was (its stack distance; Mattson et
 * al. 1970). Neurons of one token are used together, so those of the token itself do not count.
 *
 * A neuron's first use has the largest distance there is: only a cache for all neurons is spared it. The first
 * `warmupTokens` (a quarter, at most 256, unless told) only fill the cache.
 */
export function missCurve(
  uses: TokenMasks,
  { pointCount = 16, warmupTokens = Math.min(256, uses.tokenCount >> 2) } = {},
): MissCurve {
  const { neuronCount, tokenCount } = uses;
  const distances = stackDistances(uses, warmupTokens);
  const countedTokens = Math.max(1, tokenCount - warmupTokens);
  const slots = slotPoints(neuronCount, pointCount);
  const missesPerToken: number[] = [];
  let far = 0;
  let distance = neuronCount;
  for (let point = slots.length - 1; point >= 0; point--) {
    while (distance > slots[point]) far += distances[--distance];
    missesPerToken.unshift(far / countedTokens);
  }
  return { slots, missesPerToken };
}

/** How many uses had each stack distance, 0..neuronCount - 1. */
export function stackDistances(uses: TokenMasks, warmupTokens = 0): Float64Array {
  const { masks, tokenCount, neuronCount } = uses;
  const wordCount = Math.ceil(neuronCount / 32);
  const distances = new Float64Array(neuronCount);
  const lastUse = new Int32Array(neuronCount).fill(-1);
  const neurons = new Int32Array(wordCount * 32);
  const recent = new RecentUses(neuronCount);
  for (let token = 0; token < tokenCount; token++) {
    const count = bitsOf(masks.subarray(token * wordCount, (token + 1) * wordCount), neurons);
    if (token >= warmupTokens) {
      for (let k = 0; k < count; k++) {
        const use = lastUse[neurons[k]];
        distances[use < 0 ? neuronCount - 1 : recent.countAfter(use)]++;
      }
    }
    if (!recent.hasRoom(count)) recent.compact(lastUse);
    for (let k = 0; k < count; k++) {
      lastUse[neurons[k]] = recent.replace(lastUse[neurons[k]]);
    }
  }
  return distances;
}

/** The latest use of each neuron on a time line, counted by a Fenwick tree: O(log) for each use. */
class RecentUses {
  readonly #size: number;
  readonly #tree: Int32Array;
  #now = 0;
  #total = 0;

  constructor(neuronCount: number) {
    this.#size = Math.max(1024, 8 * neuronCount);
    this.#tree = new Int32Array(this.#size + 1);
  }

  hasRoom(count: number): boolean {
    return this.#now + count <= this.#size;
  }

  /** Neurons whose latest use came after the one at `time`. */
  countAfter(time: number): number {
    let upTo = 0;
    for (let k = time + 1; k > 0; k -= k & -k) upTo += this.#tree[k];
    return this.#total - upTo;
  }

  /** Moves a neuron's latest use from `time` (-1: none) to now; returns the new time. */
  replace(time: number): number {
    if (time >= 0) this.#add(time, -1);
    this.#add(this.#now, 1);
    return this.#now++;
  }

  /** Renumbers the latest uses 0, 1, 2, ... in their order, so that the time line has room again. */
  compact(lastUse: Int32Array): void {
    const used = [...lastUse.keys()].filter((neuron) => lastUse[neuron] >= 0)
      .sort((a, b) => lastUse[a] - lastUse[b]);
    this.#tree.fill(0);
    this.#now = this.#total = 0;
    for (const neuron of used) lastUse[neuron] = this.replace(-1);
  }

  #add(time: number, amount: number): void {
    this.#total += amount;
    for (let k = time + 1; k <= this.#size; k += k & -k) this.#tree[k] += amount;
  }
}

/** 0 and the whole layer, and sizes between that grow by a constant factor from 1/128 of the layer. */
function slotPoints(neuronCount: number, pointCount: number): number[] {
  const first = Math.max(1, neuronCount / 128);
  const points = new Set([0, neuronCount]);
  for (let k = 0; k < pointCount - 2; k++) {
    points.add(Math.round(first * (neuronCount / first) ** (k / (pointCount - 2))));
  }
  return [...points].sort((a, b) => a - b);
}
