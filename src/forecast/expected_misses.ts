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
  /** Neurons are not hot or cold, as where hardly any is zero: what a token needs says little of the next one. Default false. */
  isEven?: boolean;
}

/**
 * Neurons of a token that will not be in a slot, without an early look. Curves are of LRU; other policies keep more of what LRU loses
 * (`POLICY_GAIN`). Without a curve misses are taken to fall by a power of e with the share of slots, as in the paper;
 * those of even neurons by that share itself.
 */
export function expectedMisses(layer: ListedLayer): number {
  const { listed, slots, neuronCount, curve, curveListed, policy, isEven = false } = layer;
  if (slots >= neuronCount || listed === 0) return 0;
  if (isEven) return listed * (1 - slots / neuronCount);
  if (curve === null || curveListed === 0) {
    return listed * Math.exp(-UNKNOWN_MISS_DECAY * slots / neuronCount);
  }
  const missShare = Math.min(1, missesAt(curve, slots) / curveListed);
  return listed * missShare * (1 - POLICY_GAIN[policy] * (1 - missShare));
}
