import { missesAt } from "../cache/divide_slots.ts";
import type { MissCurve } from "../cache/miss_curve.ts";
import type { PolicyName } from "../cache/policies.ts";
import { POLICY_GAIN, UNKNOWN_MISS_DECAY } from "./engine_costs.ts";

/** One layer's list of a token, and its slots. */
export interface ListedLayer {
  /** Neurons that are computed for a token. */
  listed: number;
  slots: number;
  neuronCount: number;
  /** Of lists of `curveListed` neurons; null if the file has none. */
  curve: MissCurve | null;
  curveListed: number;
  policy: PolicyName;
}

/**
 * Neurons of a token that will not be in a slot, without an early look. Curves are of LRU; other policies keep more of what LRU loses
 * (`POLICY_GAIN`). Without a curve misses are taken to fall by a power of e with the share of slots, as in the paper.
 */
export function expectedMisses(layer: ListedLayer): number {
  const { listed, slots, neuronCount, curve, curveListed, policy } = layer;
  if (slots >= neuronCount || listed === 0) return 0;
  if (curve === null || curveListed === 0) {
    return listed * Math.exp(-UNKNOWN_MISS_DECAY * slots / neuronCount);
  }
  const missShare = Math.min(1, missesAt(curve, slots) / curveListed);
  return listed * missShare * (1 - POLICY_GAIN[policy] * (1 - missShare));
}
