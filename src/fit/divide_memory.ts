import { formatBytes, parseByteSize } from "../byte_size.ts";
import { MemoryBudgetError } from "../errors.ts";
import { FlashFile } from "../format/flash_file.ts";
import { coreCount, freeBytes, runtimeBytes } from "../runtime.ts";
import type { CalibrateOptions } from "./calibrate_options.ts";
import type { FitPlan } from "./fit_plan.ts";
import { FitTasks } from "./fit_tasks.ts";

const MEMORY_MAX = 2 ** 31;
const THREADS_MAX = 16;
/** A group is taken through a layer at once: fewer cost more reading of weights, more gain nothing. */
const GROUP_POSITIONS = 4096;
const GROUP_POSITIONS_MIN = 256;
/** MiB that a fitting thread's heap takes beside its own memory: measured. */
const THREAD_MIB = 56;

/** How many threads the memory has room for, and how many positions each takes at once. */
export function divideMemory(
  options: Pick<CalibrateOptions, "path" | "memory">,
  plan: FitPlan,
): { threadCount: number; positionsMax: number } {
  using file = FlashFile.open(options.path);
  const memoryBytes = options.memory === undefined
    ? Math.min(MEMORY_MAX, Math.max(2 ** 29, freeBytes() / 2))
    : parseByteSize(options.memory);
  const { ranks, batchSize, tokens, fitCount, chunkLengths } = plan;
  const chunkMax = Math.max(...chunkLengths);
  const needed = (threadCount: number, positionsMax: number) =>
    runtimeBytes(threadCount) + threadCount * (THREAD_MIB * 2 ** 20 + FitTasks.byteLength(file, {
        method: plan.identity.method,
        positionsMax,
        rankMax: Math.max(0, ...ranks),
        batchSize,
        heldOutCount: tokens - fitCount,
      }));
  const threadsMax = Math.min(THREADS_MAX, coreCount(), file.header.config.numLayers);
  for (let threadCount = threadsMax; threadCount >= 1; threadCount--) {
    let positionsMax = Math.max(chunkMax, Math.min(GROUP_POSITIONS, tokens));
    while (positionsMax > Math.max(chunkMax, GROUP_POSITIONS_MIN)) {
      if (needed(threadCount, positionsMax) <= memoryBytes) break;
      positionsMax = Math.max(chunkMax, positionsMax >> 1);
    }
    if (needed(threadCount, positionsMax) <= memoryBytes) return { threadCount, positionsMax };
  }
  const requiredBytes = Math.ceil(needed(1, chunkMax) / 2 ** 20) * 2 ** 20;
  throw new MemoryBudgetError(
    `Cannot calibrate within ${formatBytes(memoryBytes)}: ` +
      `the smallest memory that works is ${requiredBytes / 2 ** 20}MiB`,
    { requiredBytes },
  );
}
