import process from "node:process";
import { RUNTIME } from "../runtime.ts";
import { openBunLibc, openBunLinuxLibc } from "./libc_bun.ts";
import { openDenoLibc, openDenoLinuxLibc } from "./libc_deno.ts";

/**
 * The small door to the C library, for what runtimes do not offer. Deno needs `--allow-ffi`; Bun has `bun:ffi`; Node has nothing
 * without a flag.
 */
export interface Libc {
  /** Returns what the function returns; on failure -1, and `errno()` says why. */
  fcntl(descriptor: number, command: number, argument: number): number;
  errno(): number;
}

/** What io_uring needs besides. Linux on x86-64 and arm64 only, whose numbers of io_uring's calls are the same. */
export interface LinuxLibc extends Libc {
  /** Any system call; returns what the kernel returns; on failure -1, and `errno()` says why. */
  syscall(number: number, ...args: number[]): number;
  /**
   * `io_uring_enter`, once or more a list of reads, so that it has a way of its own: 32-bit numbers, which runtimes pass
   * without BigInt. `argument` is a `struct io_uring_getevents_arg`, or null.
   */
  enterRing(argument: Uint8Array<ArrayBuffer> | null): EnterRing;
  /** Maps `byteLength` bytes of a descriptor at `offset`, shared, for reading and writing. Null if it cannot. */
  map(descriptor: number, byteLength: number, offset: number): Mapping | null;
  /** The address of a view's first byte. The view must stay alive. */
  addressOf(view: Uint8Array): number;
  /** Opens a file; -1 on failure. The descriptor is the kernel's, whatever the runtime counts by. */
  open(path: string, flags: number): number;
  close(descriptor: number): void;
}

/** Submits `submitCount` entries and waits for `completions`; as `syscall`, it returns -1 on failure. */
export type EnterRing = (
  descriptor: number,
  submitCount: number,
  completions: number,
  flags: number,
) => number;

/** Memory that the kernel shares with us. */
export interface Mapping {
  buffer: ArrayBuffer;
  unmap(): void;
}

/**
 * Opens the C library, or says null: another system, no permission, no FFI in this runtime. Never asks the user.
 *
 * `fcntl` is variadic. On Apple's arm64 the first variadic argument is looked for in the first place of the stack, where the
 * ninth integer of an ordinary call goes, as eight have registers; elsewhere in the third register. So it is declared with
 * nine integers and gets its argument twice; nobody looks at the others.
 */
export function openLibc(): Libc | null {
  if (process.platform === "linux") return openLinuxLibc();
  if (process.platform !== "darwin") return null;
  return attempt({
    deno: () => openDenoLibc("libSystem.B.dylib", "__error"),
    bun: () => openBunLibc("libSystem.B.dylib", "__error"),
  });
}

/** As `openLibc`, with what io_uring needs; null on other systems than Linux on x86-64 and arm64. */
export function openLinuxLibc(): LinuxLibc | null {
  if (process.platform !== "linux" || !["x64", "arm64"].includes(process.arch)) return null;
  return attempt({
    deno: () => openDenoLinuxLibc("libc.so.6", "__errno_location"),
    bun: () => openBunLinuxLibc("libc.so.6", "__errno_location"),
  });
}

function attempt<T>(ways: Record<"deno" | "bun", () => T | null>): T | null {
  try {
    return RUNTIME === "node" ? null : ways[RUNTIME]();
  } catch {
    // No such library, or not allowed: readers go on with pread.
    return null;
  }
}
