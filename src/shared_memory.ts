import { openLinuxLibc } from "./flash/libc.ts";
import { adviseHugePages } from "./flash/huge_pages.ts";

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
