import process from "node:process";
import { MADV_HUGEPAGE, SYS_MADVISE } from "./c_abi.ts";
import type { LinuxLibc } from "./c_library.ts";

/** Smallest page of any system that we run on; WebAssembly memories begin at one. */
const PAGE_BYTES = 4096;

/**
 * Asks the system to put `bytes` into pages of 2 MiB. To be called before anything is written there. One core reads weights from memory
 * 1.2 to 1.6 times as fast then (bench/kernels.ts): the processor's prefetching stops at the end of a page, and each page
 * has to be looked up.
 *
 * Returns whether the system agreed. It may still use small pages, where it finds no large ones that are free.
 */
export function adviseHugePages(libc: LinuxLibc, bytes: Uint8Array): boolean {
  const number = SYS_MADVISE[process.arch];
  const from = Math.ceil(libc.addressOf(bytes) / PAGE_BYTES) * PAGE_BYTES;
  const to = libc.addressOf(bytes) + bytes.length;
  return number !== undefined && to > from &&
    libc.syscall(number, from, to - from, MADV_HUGEPAGE) === 0;
}
