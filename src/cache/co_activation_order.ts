import { NeuronOrder } from "../format/neuron_order.ts";
import type { TokenMasks } from "./miss_curve.ts";
import { bitsOf } from "../predict/mask.ts";

/**
 * An order in which neurons that are read for the same token lie near each other, so that one read brings several: pairs are
 * linked into chains, those first that are wanted together most often, and the chains are put one behind the other (the greedy
 * way of Ripple, 2024, and of travelling salesmen before it). Nothing is stored twice, unlike in the bundles of "closest
 * friends" (LLM in a flash, section 3.2).
 *
 * `reads`: the neurons that were read for each token. What stays in a cache is never read, so uses alone would put side by
 * side what is hot, and gain nothing.
 */
export function orderByCoActivation(reads: TokenMasks): NeuronOrder {
  const { neuronCount } = reads;
  const chains = new Chains(neuronCount);
  for (const pair of pairsByCount(reads)) {
    chains.link(Math.floor(pair / neuronCount), pair % neuronCount);
    if (chains.isWhole) break;
  }
  return new NeuronOrder(chains.inOrder(readCounts(reads)));
}

/** How often each neuron was read. */
function readCounts({ masks, tokenCount, neuronCount }: TokenMasks): Float64Array {
  const wordCount = Math.ceil(neuronCount / 32);
  const counts = new Float64Array(neuronCount), list = new Int32Array(wordCount * 32);
  for (let token = 0; token < tokenCount; token++) {
    const count = bitsOf(masks.subarray(token * wordCount, (token + 1) * wordCount), list);
    for (let i = 0; i < count; i++) counts[list[i]]++;
  }
  return counts;
}

/** Counts above this are not told apart. */
const COUNT_MAX = 65535;

/** Pairs of neurons, as `first * neuronCount + second`, that were read for one token twice or more often; most frequent first. */
function pairsByCount({ masks, tokenCount, neuronCount: n }: TokenMasks): Float64Array {
  const wordCount = Math.ceil(n / 32), list = new Int32Array(wordCount * 32);
  const counts = new Uint16Array(n * n);
  for (let token = 0; token < tokenCount; token++) {
    const count = bitsOf(masks.subarray(token * wordCount, (token + 1) * wordCount), list);
    for (let i = 0; i < count; i++) {
      const row = list[i] * n;
      for (let j = i + 1; j < count; j++) {
        const at = row + list[j];
        if (counts[at] < COUNT_MAX) counts[at]++;
      }
    }
  }
  return sortedByCount(counts);
}

/** Indices of counts of 2 or more, by a counting sort: largest count first, then smallest index. */
function sortedByCount(counts: Uint16Array): Float64Array {
  const starts = new Float64Array(COUNT_MAX + 2);
  for (const count of counts) starts[count]++;
  let total = 0;
  for (let count = COUNT_MAX; count >= 2; count--) {
    const many = starts[count];
    starts[count] = total;
    total += many;
  }
  const sorted = new Float64Array(total);
  for (let at = 0; at < counts.length; at++) {
    if (counts[at] >= 2) sorted[starts[counts[at]]++] = at;
  }
  return sorted;
}

/** Chains of neurons: each neuron has at most two neighbours, and no chain bites its tail. */
class Chains {
  readonly #left: Int32Array;
  readonly #right: Int32Array;
  /** Union-find: a neuron of the same chain, nearer to the one that stands for it. */
  readonly #parent: Int32Array;
  #chainCount: number;

  constructor(count: number) {
    this.#left = new Int32Array(count).fill(-1);
    this.#right = new Int32Array(count).fill(-1);
    this.#parent = Int32Array.from({ length: count }, (_, neuron) => neuron);
    this.#chainCount = count;
  }

  get isWhole(): boolean {
    return this.#chainCount <= 1;
  }

  /** Makes neighbours of two neurons, if both are ends of different chains. */
  link(a: number, b: number): void {
    if (this.#right[a] >= 0 || this.#right[b] >= 0) return;
    const rootA = this.#find(a), rootB = this.#find(b);
    if (rootA === rootB) return;
    this.#parent[rootA] = rootB;
    this.#attach(a, b);
    this.#attach(b, a);
    this.#chainCount--;
  }

  #attach(a: number, b: number): void {
    if (this.#left[a] < 0) this.#left[a] = b;
    else this.#right[a] = b;
  }

  #find(neuron: number): number {
    let root = neuron;
    while (this.#parent[root] !== root) root = this.#parent[root];
    while (this.#parent[neuron] !== root) {
      const next = this.#parent[neuron];
      this.#parent[neuron] = root;
      neuron = next;
    }
    return root;
  }

  /** All neurons, chain after chain, those that are read most on average first. */
  inOrder(reads: Float64Array): number[] {
    const seen = new Uint8Array(reads.length);
    const chains: { neurons: number[]; reads: number }[] = [];
    for (let neuron = 0; neuron < reads.length; neuron++) {
      if (seen[neuron] || this.#right[neuron] >= 0) continue;
      const neurons = this.#walk(neuron, seen);
      chains.push({
        neurons,
        reads: neurons.reduce((sum, i) => sum + reads[i], 0) / neurons.length,
      });
    }
    return chains.sort((a, b) => b.reads - a.reads).flatMap((chain) => chain.neurons);
  }

  /** The chain that `end` is an end of. */
  #walk(end: number, seen: Uint8Array): number[] {
    const neurons: number[] = [];
    for (let before = -1, at = end; at >= 0;) {
      neurons.push(at);
      seen[at] = 1;
      const next = this.#left[at] !== before ? this.#left[at] : this.#right[at];
      before = at;
      at = next;
    }
    return neurons;
  }
}
