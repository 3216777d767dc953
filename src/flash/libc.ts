import process from "node:process";
import { RUNTIME } from "../runtime.ts";
import { openBunLibc, openBunLinuxLibc } from "./libc_bun.ts";
import { openDenoLibc, openDenoLinuxLibc } from "./libc_deno.ts";
import type { Libc, LinuxLibc } from "./c_library.ts";

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
