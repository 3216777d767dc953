import { MemoryBudgetError } from "../errors.ts";
import type { Prepared } from "../open.ts";
import type { Plan } from "../plan.ts";
import type { Probe } from "../probe/probe_result.ts";
import { ReadCosts } from "../probe/read_costs.ts";
import { coreCount } from "../runtime.ts";
import { tokenTime } from "./token_time.ts";
import type { TokenTime } from "./token_time.ts";
import { tokenWork } from "./token_work.ts";

/** What a run is expected to cost; all figures are of a token in the middle of a text, its cache warm. */
export interface Forecast {
  /** The ceiling that was asked for, in bytes; null where none was. */
  memoryBytes: number | null;
  /** What the engine's own plan puts where. */
  bytes: Plan["bytes"];
  isResident: boolean;
  slotCounts: number[];
  /** Share of the FFN's neurons that have a slot. */
  cachedShare: number;
  /** Neurons computed, and those of them that are in no slot when the list is made. */
  neuronsPerToken: number;
  missesPerToken: number;
  /** Share of the neurons computed that are in a slot. */
  hitRate: number;
  /** Share of the misses that the early look has begun to read. */
  earlyRate: number;
  bytesPerToken: number;
  readsPerToken: number;
  msPerToken: TokenTime;
  tokensPerSecond: number;
}

/** Foresees what a prepared run will cost, by the speeds of a probe. Pure arithmetic. */
export function forecast(
  { header, plan, settings }: Prepared,
  probe: Probe,
  { position, cores = coreCount() }: { position: number; cores?: number },
): Forecast {
  const { wishes, policy, gapBytes, hasEarlyLook } = settings;
  const isReading = !plan.isResident && plan.mode !== "dense";
  const work = tokenWork(header, {
    plan,
    policy: policy.name,
    gapBytes,
    hasEarlyLook: isReading && hasEarlyLook,
    position,
  });
  const { laneCount, readerCount, backend, depth } = wishes;
  const seconds = tokenTime(work, probe, {
    laneCount,
    coreCount: cores,
    readers: { backend, readerCount, depth: readerCount * depth },
  });
  const sum = (pick: (layer: (typeof work.layers)[number]) => number) =>
    work.layers.reduce((total, layer) => total + pick(layer), 0);
  const neurons = sum(({ listed }) => listed), misses = sum((layer) => layer.misses);
  const streamed = work.streamedBytes * work.layers.filter((layer) => !layer.isResident).length;
  const chunkBytes = plan.neuronsPerChunk * header.layers[0].bundles.bundleByteLength;
  const slotTotal = plan.slotCounts.reduce((total, count) => total + count, 0);
  return {
    memoryBytes: wishes.memoryBytes ?? null,
    bytes: plan.bytes,
    isResident: plan.isResident,
    slotCounts: plan.slotCounts,
    cachedShare: slotTotal / (work.layers.length * header.config.intermediateSize),
    neuronsPerToken: neurons,
    missesPerToken: misses,
    hitRate: neurons > 0 && streamed === 0 ? 1 - misses / neurons : 0,
    earlyRate: misses > 0 ? sum(({ earlyStarted }) => earlyStarted) / misses : 0,
    bytesPerToken: sum(({ early, late }) => early.bytes + late.bytes) + streamed,
    readsPerToken: sum(({ early, late }) => early.reads + late.reads) + streamed / chunkBytes,
    msPerToken: mapValues(seconds, (value) => 1000 * value),
    tokensPerSecond: 1 / seconds.total,
  };
}

/** Whether a probe knows the readers of a run. */
export function isProbed({ settings: { wishes } }: Prepared, { disk }: Probe): boolean {
  const { backend, readerCount, depth } = wishes;
  return new ReadCosts(disk).of({ backend, readerCount, depth }, 4096) !== null;
}

function mapValues(time: TokenTime, change: (value: number) => number): TokenTime {
  return Object.fromEntries(
    Object.entries(time).map(([name, value]) => [name, change(value)]),
  ) as unknown as TokenTime;
}

/** The smallest memory by which a plan is made, in bytes: asked of the plan itself, which refuses one byte. */
export function smallestMemory(planOf: (memoryBytes: number) => unknown): number {
  try {
    planOf(1);
  } catch (error) {
    if (error instanceof MemoryBudgetError) return error.requiredBytes;
    throw error;
  }
  throw new Error("A plan was made for one byte of memory");
}
