import fs from "node:fs";
import os from "node:os";
import { join } from "node:path";
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

/**
 * MiB that a worker costs, and that the process will still grow by when it generates: a little above the peaks that were measured
 * (docs/decisions.md, "A ceiling that holds").
 */
const MEMORY_MIB = {
  deno: { worker: 17, growth: 90 },
  bun: { worker: 5, growth: 124 },
  node: { worker: 18, growth: 86 },
};

/** What a process has when it plans differs by so much from start to start. */
export const START_JITTER_BYTES = 16 * 2 ** 20;

/** Bytes that the process will have beside the arena when it runs `workerCount` workers: what it has now, and what comes. */
export function runtimeBytes(workerCount: number, nowBytes = residentBytes()): number {
  const { worker, growth } = MEMORY_MIB[RUNTIME];
  return nowBytes + (growth + workerCount * worker) * (1 << 20);
}

/** Memory of the process now, in bytes. */
export function residentBytes(): number {
  return process.memoryUsage().rss;
}

/** Largest memory that the process has had, in bytes, and bytes that it has read from disks. */
export function resourceUse(): { peakBytes: number; diskBytes: number } {
  const { maxRSS, fsRead } = process.resourceUsage();
  return { peakBytes: highWaterBytes() ?? maxRSS * 1024, diskBytes: fsRead * 512 };
}

/**
 * The peak as Linux keeps it for the program; null where it may not be read. `maxRSS` is of the process: one that another
 * started has at least what that one had then.
 */
function highWaterBytes(): number | null {
  const path = "/proc/self/status";
  if (RUNTIME === "deno" && !isGranted({ name: "read", path })) return null;
  try {
    const line = /^VmHWM:\s+(\d+) kB/m.exec(fs.readFileSync(path, "utf8"));
    return line ? Number(line[1]) * 1024 : null;
  } catch {
    return null;
  }
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

/** Model of the processor; null where nobody may ask without being asked for a permission. */
export function processorName(): string | null {
  if (RUNTIME === "deno" && !isGranted({ name: "sys", kind: "cpus" })) return null;
  return os.cpus()[0]?.model.trim() || null;
}

/** Our folder in the user's cache folder; null where the environment names none, or may not be asked. */
export function cacheFolder(): string | null {
  const cache = environment("XDG_CACHE_HOME");
  if (cache) return join(cache, "flashpipe");
  const home = environment("HOME");
  return home ? join(home, ".cache", "flashpipe") : null;
}

function environment(variable: string): string | undefined {
  if (RUNTIME === "deno" && !isGranted({ name: "env", variable })) return undefined;
  return process.env[variable];
}

/** Whether Deno allows something already: a question at the terminal would be a surprise. */
function isGranted(permission: Deno.PermissionDescriptor): boolean {
  return Deno.permissions.querySync(permission).state === "granted";
}
