import process from "node:process";
import { openLibc } from "./libc.ts";

/** Command of macOS' `fcntl` (sys/fcntl.h): with 1 as its argument, reads of this open file bypass the cache. */
const F_NOCACHE = 48;

/**
 * Asks macOS, which has no O_DIRECT, not to keep what is read through `descriptor`, a number of node:fs (the system's own in
 * all runtimes). False on other systems, and where FFI is missing or not allowed. A block that is in the cache for another's sake is still
 * taken from there, so this is a wish and no proof.
 *
 * Runs on no machine that tests this; what can be tested elsewhere is the call (tests/libc_test.ts).
 */
export function askNotToCache(descriptor: number): boolean {
  if (process.platform !== "darwin") return false;
  const libc = openLibc();
  return libc !== null && libc.fcntl(descriptor, F_NOCACHE, 1) !== -1;
}
