import { DecayedFrequency } from "./decayed_frequency.ts";
import type { CachePolicy, PolicyShape } from "./policy.ts";
import { SlidingWindow } from "./sliding_window.ts";

/** The policies that there are to choose from. docs/decisions.md compares them. */
export const POLICY_NAMES = ["frequency", "lru", "window"] as const;
export type PolicyName = (typeof POLICY_NAMES)[number];

/** A policy, and what it can be told. */
export interface PolicyChoice {
  name: PolicyName;
  /** Steps of the sliding window. */
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
    case "window":
      return new SlidingWindow(shape, window);
  }
}
