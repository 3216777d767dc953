/**
 * What do bundles of neurons that are active together bring? Bundles of a neuron and its closest friend, which the paper
 * tried and gave up, beside an order in which such neurons are neighbours and nothing is stored twice. Friends and
 * orders are learned from three quarters of the trace, and judged by the rest.
 */
import { orderByCoActivation } from "../../src/cache/co_activation_order.ts";
import type { TokenMasks } from "../../src/cache/miss_curve.ts";
import { NeuronOrder } from "../../src/format/neuron_order.ts";
import { GAP_BYTES } from "../../src/open_options.ts";
import { BOUNCE_BYTES } from "../../src/plan.ts";
import { readsByLayer } from "../../src/reorder.ts";
import { closestFriends, replayWithFriends } from "../../src/simulate/closest_friend.ts";
import { readingSeconds } from "../../src/simulate/cost_model.ts";
import type { Machine } from "../../src/simulate/cost_model.ts";
import type { NeuronTrace } from "../../src/simulate/neuron_trace.ts";
import { replay } from "../../src/simulate/replay.ts";
import { slotCountsOf } from "../../src/simulate/simulate.ts";
import { figure, milliseconds, percent } from "./table.ts";
import type { Table } from "./table.ts";
import type { Workbench } from "./workbench.ts";

const LEARNED_SHARE = 0.75;
const CACHE_SHARE = 0.2;
const LRU = { name: "lru", window: Infinity } as const;
/** No two reads are merged. */
const NO_GAP = -1;

/** A layout on flash, and what its reads cost a token. */
export interface LayoutRow {
  layout: string;
  isMerged: boolean;
  /** Bytes on flash over those of plain bundles. */
  storedTwice: number;
  misses: number;
  reads: number;
  bytes: number;
  /** Of friends that came with a neuron; null without friends. */
  friends: { missed: number; loadedAgain: number; unasked: number; usedLater: number } | null;
}

/** All layouts, with LRU in the same slots, so that only the layout differs. */
export function compareLayouts(trace: NeuronTrace, cacheShare: number): LayoutRow[] {
  const { blockByteLength } = trace.header;
  const learned = Math.floor(LEARNED_SHARE * trace.tokenCount);
  const slotCounts = slotCountsOf(trace, cacheShare);
  const { numLayers, intermediateSize: neuronCount } = trace.header;
  const uses = usesByLayer(trace, learned);
  const reads = readsByLayer(trace, { slotCounts, policy: LRU }, learned).map((masks) => ({
    masks,
    tokenCount: learned,
    neuronCount,
  }));
  const plain = new Array<NeuronOrder>(numLayers).fill(NeuronOrder.plain(neuronCount));
  const friendsOf = (all: TokenMasks[]) => all.map(closestFriends);
  const friendLayouts = [
    { layout: "closest friend, by uses", friends: friendsOf(uses) },
    { layout: "closest friend, by reads", friends: friendsOf(reads) },
  ];
  const orderLayouts = [
    { layout: "order of the model", orders: plain },
    { layout: "order by uses", orders: uses.map(orderByCoActivation) },
    { layout: "order by reads", orders: reads.map(orderByCoActivation) },
  ];
  const rows: LayoutRow[] = [];
  for (const isMerged of [false, true]) {
    const gapBytes = isMerged ? GAP_BYTES : NO_GAP;
    for (const { layout, orders } of orderLayouts) {
      // Alone, each bundle is a read, wherever it lies.
      if (isMerged || orders === plain) {
        rows.push(orderRow(trace, { layout, isMerged, orders, slotCounts, gapBytes, learned }));
      }
    }
    for (const { layout, friends } of friendLayouts) {
      const readPlan = {
        blockByteLength,
        gapBytesMax: gapBytes,
        mergedBytesMax: isMerged ? BOUNCE_BYTES : 0,
      };
      const options = { slotCounts, friends, readPlan, warmupTokens: learned };
      const result = replayWithFriends(trace, options), { tokens } = result;
      const came = result.friendsMissed + result.friendsLoadedAgain + result.friendsUnasked;
      rows.push({
        layout,
        isMerged,
        storedTwice: 2,
        misses: result.misses / tokens,
        reads: result.reads / tokens,
        bytes: result.bytes / tokens,
        friends: {
          missed: result.friendsMissed / came,
          loadedAgain: result.friendsLoadedAgain / came,
          unasked: result.friendsUnasked / came,
          usedLater: result.friendsUsedLater / Math.max(1, result.friendsUnasked),
        },
      });
    }
  }
  return rows;
}

interface OrderOptions {
  layout: string;
  isMerged: boolean;
  orders: NeuronOrder[];
  slotCounts: number[];
  gapBytes: number;
  learned: number;
}

function orderRow(
  trace: NeuronTrace,
  { layout, isMerged, orders, slotCounts, gapBytes, learned }: OrderOptions,
): LayoutRow {
  const options = { slotCounts, policy: LRU, gapBytes, orders, warmupTokens: learned };
  const result = replay(trace, options);
  const { tokens, listed, hits, reads, bytes } = result;
  return {
    layout,
    isMerged,
    storedTwice: 1,
    misses: (listed - hits) / tokens,
    reads: reads / tokens,
    bytes: bytes / tokens,
    friends: null,
  };
}

/** Neurons that each layer listed for the first tokens. */
function usesByLayer(trace: NeuronTrace, tokenCount: number): TokenMasks[] {
  const { wordCount, header: { numLayers, intermediateSize: neuronCount } } = trace;
  return Array.from({ length: numLayers }, (_, layer) => {
    const masks = new Uint32Array(tokenCount * wordCount);
    for (let token = 0; token < tokenCount; token++) {
      masks.set(trace.mask(trace.listed, token, layer), token * wordCount);
    }
    return { masks, tokenCount, neuronCount };
  });
}

/** Share of the neurons whose closest friend is one of the `most` most popular. */
export function popularity(friends: Int32Array, most: number): number {
  const counts = new Uint32Array(friends.length);
  let all = 0;
  for (const friend of friends) {
    if (friend < 0) continue;
    counts[friend]++;
    all++;
  }
  const popular = counts.toSorted().reverse().subarray(0, most);
  return all === 0 ? 0 : popular.reduce((sum, count) => sum + count, 0) / all;
}

export async function ask(workbench: Workbench): Promise<Table[]> {
  const trace = await workbench.trace();
  const rows = compareLayouts(trace, CACHE_SHARE);
  const learned = Math.floor(LEARNED_SHARE * trace.tokenCount);
  const friends = usesByLayer(trace, learned).map(closestFriends);
  return [layoutTable(rows, trace, workbench.machine), popularityTable(friends)];
}

function layoutTable(rows: LayoutRow[], { header }: NeuronTrace, { disk }: Machine): Table {
  return {
    title: `Layouts on flash, a fifth of the FFN cached (LRU), a token; reading by the cost model`,
    head: [
      "layout",
      "merged",
      "misses",
      "reads",
      "KiB",
      "ms",
      "friend missed",
      "loaded again",
      "unasked",
      "used later",
    ],
    rows: rows.map(({ layout, isMerged, misses, reads, bytes, friends }) => [
      layout,
      isMerged ? "yes" : "no",
      figure(misses),
      figure(reads),
      figure(bytes / 1024),
      milliseconds(readingSeconds({ reads, readBytes: bytes, numLayers: header.numLayers }, disk)),
      ...(friends
        ? [friends.missed, friends.loadedAgain, friends.unasked, friends.usedLater].map(percent)
        : ["", "", "", ""]),
    ]),
  };
}

function popularityTable(friends: Int32Array[]): Table {
  return {
    title:
      "How popular are the closest friends? Neurons whose closest friend is one of the most popular",
    head: ["layer", "the first", "the first 5", "the first 20", "different friends"],
    rows: friends.map((all, layer) => [
      `${layer}`,
      ...[1, 5, 20].map((most) => percent(popularity(all, most))),
      `${new Set(all.filter((friend) => friend >= 0)).size}`,
    ]),
  };
}
