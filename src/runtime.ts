import os from "node:os";
import process from "node:process";

/**
 * The small door behind which runtimes differ: who we are, and what the process has used.
 */

const VERSIONS = process.versions as Record<string, string | undefined>;

/** Which runtime this is. Deno and Bun call themselves Node, too. */
export const RUNTIME: "deno" | "bun" | "node" = VERSIONS.deno
  ? "deno"
  : VERSIONS.bun
  ? "bun"
  : "node";

/** Name and version of the runtime: "Deno 2.9.6", "Bun 1.4.5" or "Node 26.10.0". */
export function runtimeName(): string {
  return `${{ deno: "Deno", bun: "Bun", node: "Node" }[RUNTIME]} ${VERSIONS[RUNTIME]}`;
}

/** MiB that a worker costs, and that the main thread will still grow by when it generates: measured with 1, 8 and 16 readers. */
const MEMORY_MIB = {
  deno: { worker: 15, growth: 24 },
  bun: { worker: 5, growth: 20 },
  node: { worker: 22, growth: 8 },
};

/** Bytes that the process will have beside the arena when it runs `workerCount` workers: what it has now, and what comes. */
export function runtimeBytes(workerCount: number): number {
  const { worker, growth } = MEMORY_MIB[RUNTIME];
  return residentBytes() + (growth + workerCount * worker) * (1 << 20);
}

/** Memory of the process now, in bytes. */
function residentBytes(): number {
  return process.memoryUsage().rss;
}

/** Largest memory that the process has had, in bytes, and bytes that it has read from disks. */
export function resourceUse(): { peakBytes: number; diskBytes: number } {
  const { maxRSS, fsRead } = process.resourceUsage();
  return { peakBytes: maxRSS * 1024, diskBytes: fsRead * 512 };
}

/** CPU time of this thread, in ms; 0 where the runtime does not tell. */
export function threadCpuMs(): number {
  const { user, system } = process.threadCpuUsage?.() ?? { user: 0, system: 0 };
  return (user + system) / 1000;
}

/** Processors that the process may use. */
export function coreCount(): number {
  return os.availableParallelism();
}

/** Memory that is free now, in bytes. */
export function freeBytes(): number {
  return os.freemem();
}
