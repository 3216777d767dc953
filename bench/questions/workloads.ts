import { DEFAULT_POLICY } from "../../src/cache/policies.ts";
import { replayedWork, tokenTime } from "../../src/simulate/cost_model.ts";
import { naiveTime, sharesWithin, workWithin } from "../../src/simulate/model_work.ts";
import type { Machine, ResidentBytes, TokenWork } from "../../src/simulate/cost_model.ts";
import { BYTES_PER_WEIGHT, bytesOf, SHAPES } from "../../src/simulate/model_shape.ts";
import type { ModelShape } from "../../src/simulate/model_shape.ts";
import type { NeuronTrace } from "../../src/simulate/neuron_trace.ts";
import { replay } from "../../src/simulate/replay.ts";
import { slotCountsOf, warmupOf } from "../../src/simulate/simulate.ts";

/** A model, a memory and a machine: the ground on which parameters are varied. */
export interface Workload {
  name: string;
  machine: Machine;
  work: TokenWork;
}

/** The embedded model with a fifth of its FFN cached, as replayed. */
export function replayedWorkload(
  trace: NeuronTrace,
  { machine, resident, cacheShare = 0.2 }: {
    machine: Machine;
    resident: ResidentBytes;
    cacheShare?: number;
  },
): Workload {
  const result = replay(trace, {
    slotCounts: slotCountsOf(trace, cacheShare),
    policy: { name: DEFAULT_POLICY, window: Infinity },
    earlyLook: trace.has("early"),
    warmupTokens: warmupOf(trace),
  });
  const work = replayedWork(trace, result, resident);
  return { name: "traced model", machine, work };
}

/** A shape with half of its bytes in memory. */
export function halfMemory(shape: ModelShape, machine: Machine): Workload {
  const work = workWithin(shape, bytesOf(shape).total / 2, machine.disk);
  return { name: shape.name, machine, work };
}

export const OPT_175B_Q8 = {
  ...SHAPES.opt175b,
  name: "OPT-175B q8",
  bytesPerWeight: BYTES_PER_WEIGHT.q8,
};

/** How fast a shape runs in half of its memory, and how that compares with reading the rest of the model for each token. */
export function speedupInHalf(shape: ModelShape, machine: Machine) {
  const memoryBytes = bytesOf(shape).total / 2;
  const { work } = halfMemory(shape, machine);
  const { total } = tokenTime(work, machine);
  const naive = naiveTime(shape, machine, memoryBytes).total;
  const { shares, streamedBytes } = sharesWithin(shape, memoryBytes);
  return { tokenSeconds: total, speedup: naive / total, cachedShare: shares.cached, streamedBytes };
}
