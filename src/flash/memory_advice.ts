import process from "node:process";
import { MADV_HUGEPAGE, MADV_POPULATE_WRITE, SYS_MADVISE } from "./c_abi.ts";
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
  return advise(libc, bytes, MADV_HUGEPAGE);
}

/**
 * Asks the system to have all pages of `bytes` there now; what they hold stays. Else each is made at the first read into it, by the
 * thread that begins the read: zeroed, and on a virtual machine fetched from the host first.
 *
 * Returns whether the system did so: Linux 5.14 and later do.
 */
export function populate(libc: LinuxLibc, bytes: Uint8Array): boolean {
  return advise(libc, bytes, MADV_POPULATE_WRITE);
}

function advise(libc: LinuxLibc, bytes: Uint8Array, advice: number): boolean {
  const number = SYS_MADVISE[process.arch];
  const from = Math.ceil(libc.addressOf(bytes) / PAGE_BYTES) * PAGE_BYTES;
  const to = libc.addressOf(bytes) + bytes.length;
  return number !== undefined && to > from && libc.syscall(number, from, to - from, advice) === 0;
}
