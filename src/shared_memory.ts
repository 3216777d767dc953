import { setImmediate } from "node:timers/promises";
import { openLinuxLibc } from "./flash/libc.ts";
import { adviseHugePages, populate } from "./flash/memory_advice.ts";

const PAGE_BYTES = 65536;

/**
 * A memory that all threads share, of `byteLength` bytes (rounded up to pages of WebAssembly).
 *
 * @param hugePages ask the system for pages of 2 MiB, where there is a door to it; else, and where it refuses, all is as without
 */
export function createSharedMemory(
  byteLength: number,
  { hugePages = true }: { hugePages?: boolean } = {},
): WebAssembly.Memory {
  const pages = Math.ceil(byteLength / PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const libc = hugePages ? openLinuxLibc() : null;
  if (libc) adviseHugePages(libc, new Uint8Array(memory.buffer));
  return memory;
}

/** Bytes that are made at a time: some 30 ms, or 250 where a virtual machine gets them from its host first. */
const SLICE_BYTES = 2 ** 28;

/**
 * Has the system make all pages of a memory now, where there is a door to it; else, and where it refuses, each is made at its first use.
 *
 * @throws what the signal was aborted with
 */
export async function populateMemory(
  { buffer }: WebAssembly.Memory,
  signal?: AbortSignal,
): Promise<void> {
  const libc = openLinuxLibc();
  for (let from = 0; libc && from < buffer.byteLength; from += SLICE_BYTES) {
    signal?.throwIfAborted();
    const slice = new Uint8Array(buffer, from, Math.min(SLICE_BYTES, buffer.byteLength - from));
    if (!populate(libc, slice)) return;
    // Timers, keys and signals have their turn.
    await setImmediate();
  }
}
