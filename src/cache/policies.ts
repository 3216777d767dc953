import { DecayedFrequency } from "./decayed_frequency.ts";
import type { CachePolicy, PolicyShape } from "./policy.ts";
import { PinnedHot } from "./pinned_hot.ts";
import { SegmentedLru } from "./segmented_lru.ts";
import { SlidingWindow } from "./sliding_window.ts";

/** The policies that there are to choose from. docs/decisions.md compares them. */
export const POLICY_NAMES = ["frequency", "lru", "segmented", "pinned", "window"] as const;
export type PolicyName = (typeof POLICY_NAMES)[number];

/** A policy, and what it can be told. */
export interface PolicyChoice {
  name: PolicyName;
  /** Steps of the sliding window: of `window`, and of `pinned` beside what is hot. */
  window: number;
}

export const DEFAULT_POLICY: PolicyName = "frequency";

/** Makes a layer's policy. */
export function makePolicy({ name, window }: PolicyChoice, shape: PolicyShape): CachePolicy {
  switch (name) {
    case "frequency":
      return new DecayedFrequency(shape);
    case "lru":
      return new SlidingWindow(shape, Infinity);
    case "segmented":
      return new SegmentedLru(shape);
    case "pinned":
      return new PinnedHot(shape, window);
    case "window":
      return new SlidingWindow(shape, window);
  }
}
