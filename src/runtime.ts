import os from "node:os";
import process from "node:process";

/**
 * The small door behind which runtimes differ: who we are, and what the process has used.
 */

/** Name and version of the runtime: "Deno 2.9.6", "Bun 1.4.5" or "Node 26.10.0". */
export function runtimeName(): string {
  const { deno, bun, node } = process.versions as Record<string, string | undefined>;
  if (deno) return `Deno ${deno}`;
  if (bun) return `Bun ${bun}`;
  return `Node ${node}`;
}

/** Bytes that one more worker costs, by runtime (docs/decisions.md: measured with idle workers). */
export function workerByteLength(): number {
  const versions = process.versions as Record<string, string | undefined>;
  const MIB = 1 << 20;
  if (versions.deno) return 9 * MIB;
  return versions.bun ? 4 * MIB : 8 * MIB;
}

/** Memory of the process now, in bytes. */
export function residentBytes(): number {
  return process.memoryUsage().rss;
}

/** Largest memory that the process has had, in bytes, and bytes that it has read from disks. */
export function resourceUse(): { peakBytes: number; diskBytes: number } {
  const { maxRSS, fsRead } = process.resourceUsage();
  return { peakBytes: maxRSS * 1024, diskBytes: fsRead * 512 };
}

/** Processors that the process may use. */
export function coreCount(): number {
  return os.availableParallelism();
}

/** Memory that is free now, in bytes. */
export function freeBytes(): number {
  return os.freemem();
}
