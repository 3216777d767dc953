import { ReadPlan } from "../cache/read_plan.ts";
import type { ReadPlanOptions } from "../cache/read_plan.ts";
import type { TokenMasks } from "../cache/miss_curve.ts";
import { Control } from "../pipeline/control.ts";
import { bitsOf } from "../predict/mask.ts";
import type { NeuronTrace } from "./neuron_trace.ts";
import { SimulatedReader } from "./simulated_reader.ts";

/**
 * The closest friend of each neuron: the one that was used with it for most tokens; the lowest number among equals, -1 for a
 * neuron that was never used with another (LLM in a flash, section 3.2: bundling based on co-activation).
 */
export function closestFriends({ masks, tokenCount, neuronCount: n }: TokenMasks): Int32Array {
  const wordCount = Math.ceil(n / 32), list = new Int32Array(wordCount * 32);
  const counts = new Uint32Array(n * n);
  for (let token = 0; token < tokenCount; token++) {
    const count = bitsOf(masks.subarray(token * wordCount, (token + 1) * wordCount), list);
    for (let i = 0; i < count; i++) {
      for (let j = 0; j < count; j++) if (i !== j) counts[list[i] * n + list[j]]++;
    }
  }
  return Int32Array.from({ length: n }, (_, neuron) => {
    const row = counts.subarray(neuron * n, (neuron + 1) * n);
    let friend = -1, most = 0;
    for (const [other, count] of row.entries()) if (count > most) [friend, most] = [other, count];
    return friend;
  });
}

export interface FriendReplayOptions {
  /** Slots of each layer, one neuron in each; the longest unused makes room (LRU). */
  slotCounts: readonly number[];
  /** Of each layer; none: bundles of one neuron. */
  friends?: readonly Int32Array[];
  readPlan: ReadPlanOptions;
  /** Tokens that only fill the cache. */
  warmupTokens?: number;
}

/** What the tokens after the warm-up cost. */
export interface FriendReplayResult {
  tokens: number;
  misses: number;
  reads: number;
  bytes: number;
  /** Friends that came with a neuron: missed too (a read less), in memory already (loaded again), or neither. */
  friendsMissed: number;
  friendsLoadedAgain: number;
  friendsUnasked: number;
  /** Of those unasked for, those that were used before they made room. */
  friendsUsedLater: number;
}

/**
 * Replays a trace with bundles of a neuron and its closest friend: the record of neuron i holds both, so each neuron is
 * stored once for itself and once for each whose friend it is. A friend that is not in memory takes a slot, as it
 * was paid for. Without friends the same cache with plain bundles, to compare with.
 */
export function replayWithFriends(
  trace: NeuronTrace,
  { slotCounts, friends, readPlan, warmupTokens = 0 }: FriendReplayOptions,
): FriendReplayResult {
  const { numLayers, strideBytes, layerByteOffsets } = trace.header;
  const recordBytes = (friends ? 2 : 1) * strideBytes;
  const reader = new RecordReader(readPlan, recordBytes);
  const layers = slotCounts.map((slotCount, layer) => new FriendCache(slotCount, friends?.[layer]));
  const sums = () => sumOf(layers.map(({ counts }) => counts));
  let before = sums(), readsBefore = 0, bytesBefore = 0;
  for (let token = 0; token < trace.tokenCount; token++) {
    if (token === warmupTokens) {
      before = sums();
      readsBefore = reader.reads;
      bytesBefore = reader.bytes;
    }
    for (let layer = 0; layer < numLayers; layer++) {
      const fetched = layers[layer].use(trace.neurons(trace.listed, token, layer));
      const stretch = friends ? 2 : 1;
      reader.read(fetched, layerByteOffsets[layer] * stretch);
    }
  }
  const after = sums();
  const of = (name: keyof FriendCounts) => after[name] - before[name];
  return {
    tokens: Math.max(0, trace.tokenCount - warmupTokens),
    misses: of("misses"),
    reads: reader.reads - readsBefore,
    bytes: reader.bytes - bytesBefore,
    friendsMissed: of("friendsMissed"),
    friendsLoadedAgain: of("friendsLoadedAgain"),
    friendsUnasked: of("friendsUnasked"),
    friendsUsedLater: of("friendsUsedLater"),
  };
}

type FriendCounts = Pick<
  FriendReplayResult,
  "misses" | "friendsMissed" | "friendsLoadedAgain" | "friendsUnasked" | "friendsUsedLater"
>;

const NO_COUNTS: FriendCounts = {
  misses: 0,
  friendsMissed: 0,
  friendsLoadedAgain: 0,
  friendsUnasked: 0,
  friendsUsedLater: 0,
};

function sumOf(all: readonly FriendCounts[]): FriendCounts {
  const sum = { ...NO_COUNTS };
  for (const counts of all) {
    for (const name of Object.keys(sum) as (keyof FriendCounts)[]) sum[name] += counts[name];
  }
  return sum;
}

/** One layer's neurons in memory, from the longest unused to the last used. */
class FriendCache {
  readonly #slotCount: number;
  readonly #friends?: Int32Array;
  /** Neuron to whether it came as a friend and was not used since. */
  readonly #inMemory = new Map<number, boolean>();
  readonly counts: FriendCounts = { ...NO_COUNTS };

  constructor(slotCount: number, friends?: Int32Array) {
    this.#slotCount = slotCount;
    this.#friends = friends;
  }

  /** Brings a list into memory; returns the neurons whose records are read for it. */
  use(list: Int32Array): number[] {
    const missing = new Set<number>(), fetched: number[] = [];
    for (const neuron of list) {
      const isIdleFriend = this.#inMemory.get(neuron);
      if (isIdleFriend === undefined) missing.add(neuron);
      else if (isIdleFriend) this.counts.friendsUsedLater++;
    }
    this.counts.misses += missing.size;
    for (const neuron of missing) {
      if (this.#inMemory.has(neuron)) continue;
      fetched.push(neuron);
      this.#touch(neuron, false);
      const friend = this.#friends?.[neuron] ?? -1;
      if (friend >= 0) this.#bring(friend, missing);
    }
    for (const neuron of list) this.#touch(neuron, false);
    // The list is needed as a whole: only then may the longest unused go.
    for (const neuron of this.#inMemory.keys()) {
      if (this.#inMemory.size <= this.#slotCount) break;
      this.#inMemory.delete(neuron);
    }
    return fetched;
  }

  #bring(friend: number, missing: ReadonlySet<number>): void {
    if (this.#inMemory.has(friend)) this.counts.friendsLoadedAgain++;
    else if (missing.has(friend)) {
      this.counts.friendsMissed++;
      this.#touch(friend, false);
    } else {
      this.counts.friendsUnasked++;
      this.#touch(friend, true);
    }
  }

  #touch(neuron: number, isIdleFriend: boolean): void {
    this.#inMemory.delete(neuron);
    this.#inMemory.set(neuron, isIdleFriend);
  }
}

/** Counts the reads of lists of records by the engine's own read plan. */
class RecordReader {
  readonly #reader: SimulatedReader;
  readonly #plan: ReadPlan;
  readonly #recordBytes: number;

  constructor(options: ReadPlanOptions, recordBytes: number) {
    const shape = { laneCount: 1, readerCount: 1, flagCount: 1 };
    const control = new Control(
      Control.create(shape, { spins: 1, flashSpins: 1, waitMsMax: 1000 }),
    );
    this.#reader = new SimulatedReader(control);
    this.#plan = new ReadPlan(control, options, this.#reader);
    this.#recordBytes = recordBytes;
  }

  get reads(): number {
    return this.#reader.reads;
  }

  get bytes(): number {
    return this.#reader.bytes;
  }

  /** Reads the records of these neurons, in ascending order. */
  read(neurons: number[], byteOffset: number): void {
    this.#plan.begin("late", 0);
    for (const neuron of neurons) {
      const record = {
        byteOffset: byteOffset + neuron * this.#recordBytes,
        byteLength: this.#recordBytes,
      };
      // An address that nobody reads from; not 0, which means a bounce buffer.
      this.#plan.add(record, 4096, 0);
    }
    this.#plan.finish();
    this.#plan.settle();
  }
}
