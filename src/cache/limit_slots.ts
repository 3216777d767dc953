import type { NeuronCache } from "./neuron_cache.ts";
import type { ReadPlan } from "./read_plan.ts";

/** What it needs of the predictor's place. */
export interface LimitSeat {
  readonly readPlan: Pick<ReadPlan, "awaitLanding">;
}

/**
 * Slots from `limit` on hold no neuron from now on, as their bytes are another's; see `NeuronCache.setLimit`. Waits for early
 * reads to them that nobody wanted in the end. No pass may be under way.
 */
export function limitSlots({ readPlan }: LimitSeat, cache: NeuronCache, limit: number): void {
  while (!cache.haveLandedFrom(limit)) readPlan.awaitLanding();
  cache.setLimit(limit);
}
