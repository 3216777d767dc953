import type { Control } from "../pipeline/control.ts";
import type { NeuronCache } from "./neuron_cache.ts";
import type { ReadPlan } from "./read_plan.ts";

/** What it needs of the predictor's place. */
export interface LimitSeat {
  readonly control: Pick<Control, "sequence">;
  readonly readPlan: Pick<ReadPlan, "settle">;
}

/**
 * Slots from `limit` on hold no neuron from now on, as their bytes are another's; see `NeuronCache.setLimit`. Waits for early
 * reads to them that nobody wanted in the end. No pass may be under way.
 */
export function limitSlots(
  { readPlan, control }: LimitSeat,
  cache: NeuronCache,
  limit: number,
): void {
  const landed = control.sequence("landed");
  while (limit < cache.limit && !cache.haveLandedFrom(limit)) {
    const seen = landed.value;
    if (readPlan.settle() || cache.haveLandedFrom(limit)) continue;
    landed.waitFor((seen + 1) | 0, "reads to slots that are given up");
  }
  cache.setLimit(limit);
}
