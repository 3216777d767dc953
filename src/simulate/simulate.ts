import { divideAmongLayers, divideSlots } from "../cache/divide_slots.ts";
import type { MissCurve } from "../cache/miss_curve.ts";
import type { PolicyName } from "../cache/policies.ts";
import type { PolicyShape } from "../cache/policy.ts";
import { GAP_BYTES } from "../open_options.ts";
import { BeladyPolicy, nextUses } from "./belady.ts";
import type { NeuronTrace } from "./neuron_trace.ts";
import { replay } from "./replay.ts";
import type { ReplayOptions, ReplayResult } from "./replay.ts";

/** The limits that no policy can pass: MIN with the engine's slots, and with slots divided for MIN itself. */
export const LIMIT_NAMES = ["belady", "belady-divided"] as const;
export type LimitName = (typeof LIMIT_NAMES)[number];

/** What to replay a trace against: every combination. */
export interface SimulateOptions {
  /** Shares of the FFN's neurons. */
  cacheShares: readonly number[];
  policies: readonly (PolicyName | LimitName)[];
  /** For the policy `window`. */
  windows?: readonly number[];
  gaps?: readonly number[];
  /** Whether the early look starts reads; needs its set in the trace. */
  earlyLook?: boolean;
}

/** One replay, per token. */
export interface SimulatedRow {
  /** The policy, with its window if it has one. */
  policy: string;
  cacheShare: number;
  gapBytes: number;
  slotCounts: readonly number[];
  /** Listed neurons that lay in a slot before the token. */
  hitRate: number;
  missesPerToken: number;
  readsPerToken: number;
  bytesPerToken: number;
  passesPerToken: number;
  /** Neurons in slots, as a share of all. */
  residentShare: number;
}

/** A quarter of the trace, at most 512 tokens, only fills the cache. */
export function warmupOf({ tokenCount }: NeuronTrace): number {
  return Math.min(512, tokenCount >> 2);
}

/** How many rows `simulate` will yield. */
export function rowCountOf(options: SimulateOptions): number {
  const { cacheShares, policies, windows = [], gaps = [GAP_BYTES] } = options;
  const perSize = policies.reduce(
    (sum, policy) => sum + (policy === "window" ? windows.length : 1),
    0,
  );
  return cacheShares.length * perSize * gaps.length;
}

/** Replays the trace against every combination, one row at a time. */
export function* simulate(trace: NeuronTrace, options: SimulateOptions): Generator<SimulatedRow> {
  const { cacheShares, policies, windows = [], gaps = [GAP_BYTES], earlyLook = false } = options;
  const limits = new Limits(trace);
  const common = { earlyLook, warmupTokens: warmupOf(trace) };
  for (const cacheShare of cacheShares) {
    const slotCounts = slotCountsOf(trace, cacheShare);
    for (const gapBytes of gaps) {
      const row = (policy: string, wish: Pick<ReplayOptions, "policy" | "slotCounts">) => ({
        policy,
        cacheShare,
        gapBytes,
        slotCounts: wish.slotCounts,
        ...perToken(trace, replay(trace, { ...common, gapBytes, ...wish })),
      });
      for (const name of policies) {
        if (name === "belady") yield row(name, { slotCounts, policy: limits.policy });
        else if (name === "belady-divided") {
          const slotCounts = limits.slotCounts(cacheShare);
          yield row(name, { slotCounts, policy: limits.policy });
        } else if (name === "window") {
          for (const window of windows) {
            yield row(`window ${window}`, { slotCounts, policy: { name, window } });
          }
        } else yield row(name, { slotCounts, policy: { name, window: Infinity } });
      }
    }
  }
}

/** The window curve of the paper (figure 4): what a window of k tokens holds, and what it reads anew for each token. */
export interface WindowPoint {
  window: number;
  /** As shares of the FFN's neurons. */
  residentShare: number;
  readShare: number;
}

/** Windows with room for all: only what leaves the window is read again. */
export function* windowCurve(
  trace: NeuronTrace,
  windows: readonly number[],
): Generator<WindowPoint> {
  const { numLayers, intermediateSize } = trace.header;
  const slotCounts = new Array(numLayers).fill(intermediateSize);
  for (const window of windows) {
    const policy = { name: "window", window } as const;
    const result = replay(trace, { slotCounts, policy, warmupTokens: warmupOf(trace) });
    const { missesPerToken, residentShare } = perToken(trace, result);
    const readShare = missesPerToken / (numLayers * intermediateSize);
    yield { window, residentShare, readShare };
  }
}

/** The engine's division of slots at this share. */
export function slotCountsOf({ header }: NeuronTrace, cacheShare: number): number[] {
  const { numLayers, intermediateSize: count, missCurves: curves, predictedShares } = header;
  const slotTotal = Math.max(numLayers, Math.round(cacheShare * numLayers * count));
  return divideAmongLayers({ numLayers, count, slotTotal, curves, predictedShares });
}

/** MIN of each layer, and what it would do with any number of slots: made when asked for. */
class Limits {
  readonly #trace: NeuronTrace;
  #next: Int32Array[] | undefined;
  #curves: MissCurve[] | undefined;

  constructor(trace: NeuronTrace) {
    this.#trace = trace;
  }

  readonly policy = (layer: number, shape: PolicyShape): BeladyPolicy => {
    this.#next ??= this.#trace.header.layerByteOffsets.map((_, index) =>
      nextUses(this.#trace, index)
    );
    return new BeladyPolicy(shape, this.#next[layer]);
  };

  /** Slots divided so that MIN misses least. */
  slotCounts(cacheShare: number): number[] {
    const { numLayers, intermediateSize: count } = this.#trace.header;
    this.#curves ??= missCurvesOf(this.#trace, this.policy);
    const totalSlots = Math.max(numLayers, Math.round(cacheShare * numLayers * count));
    return divideSlots({ curves: this.#curves, totalSlots, minSlots: 1, count });
  }
}

/** Misses per token of a policy in each layer, by slots: sizes that grow by half from a 64th of the layer. */
export function missCurvesOf(trace: NeuronTrace, policy: ReplayOptions["policy"]): MissCurve[] {
  const { numLayers, intermediateSize: count } = trace.header;
  const curves = Array.from({ length: numLayers }, (): MissCurve => ({
    slots: [],
    missesPerToken: [],
  }));
  const first = Math.max(1, count / 64);
  for (let slots = first; slots < 1.5 * count; slots = Math.max(slots + 1, slots * 1.5)) {
    const slotCount = Math.min(count, Math.round(slots));
    const slotCounts = new Array(numLayers).fill(slotCount);
    const { missesByLayer, tokens } = replay(trace, {
      slotCounts,
      policy,
      warmupTokens: warmupOf(trace),
    });
    for (const [layer, curve] of curves.entries()) {
      const misses = missesByLayer[layer] / tokens;
      curve.slots.push(slotCount);
      curve.missesPerToken.push(Math.min(misses, curve.missesPerToken.at(-1) ?? Infinity));
    }
  }
  return curves;
}

function perToken({ header }: NeuronTrace, result: ReplayResult) {
  const { tokens, listed, hits, reads, bytes, passes, residentNeurons } = result;
  return {
    hitRate: listed === 0 ? 1 : hits / listed,
    missesPerToken: (listed - hits) / tokens,
    readsPerToken: reads / tokens,
    bytesPerToken: bytes / tokens,
    passesPerToken: passes / tokens,
    residentShare: residentNeurons / (header.numLayers * header.intermediateSize),
  };
}
