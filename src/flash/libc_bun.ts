import { createRequire } from "node:module";
import { cString, MAP_SHARED_POPULATE, PROT_READ_WRITE, SYS_IO_URING_ENTER } from "./c_abi.ts";
import type { Libc, LinuxLibc } from "./c_library.ts";

/** What we use of `bun:ffi`. */
interface BunFfi {
  dlopen(name: string, symbols: object): {
    // deno-lint-ignore no-explicit-any
    symbols: Record<string, (...args: any[]) => number>;
  };
  toArrayBuffer(pointer: number, byteOffset: number, byteLength: number): ArrayBuffer;
  ptr(view: Uint8Array): number;
  read: { i32(pointer: number, byteOffset: number): number };
}

const WORD = "i64_fast";

function loadFfi(): BunFfi {
  return createRequire(import.meta.url)("bun:ffi") as BunFfi;
}

/** The C library through Bun's FFI. */
export function openBunLibc(library: string, errnoSymbol: string): Libc {
  const ffi = loadFfi();
  const { symbols } = ffi.dlopen(library, {
    fcntl: { args: ["i32", "i32", WORD, WORD, WORD, WORD, WORD, WORD, WORD], returns: "i32" },
    [errnoSymbol]: { args: [], returns: "ptr" },
  });
  return {
    fcntl: (descriptor, command, argument) =>
      symbols.fcntl(descriptor, command, argument, 0, 0, 0, 0, 0, argument),
    errno: () => ffi.read.i32(symbols[errnoSymbol](), 0),
  };
}

/** As `openBunLibc`, with what io_uring needs. */
export function openBunLinuxLibc(library: string, errnoSymbol: string): LinuxLibc {
  const ffi = loadFfi();
  const { symbols } = ffi.dlopen(library, {
    syscall: { args: [WORD, WORD, WORD, WORD, WORD, WORD, WORD], returns: WORD },
    mmap: { args: ["ptr", "u64_fast", "i32", "i32", "i32", WORD], returns: WORD },
    munmap: { args: [WORD, "u64_fast"], returns: "i32" },
    open: { args: ["ptr", "i32", "i32"], returns: "i32" },
    close: { args: ["i32"], returns: "i32" },
  });
  return {
    ...openBunLibc(library, errnoSymbol),
    syscall: (number, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0) =>
      Number(symbols.syscall(number, a, b, c, d, e, f)),
    enterRing(argument) {
      // A library opened once more, as a symbol has one signature. The last one lies on the stack, where all of its 64 bits count.
      const { syscall } = ffi.dlopen(library, {
        syscall: { args: ["i32", "i32", "u32", "u32", "u32", "ptr", "u64_fast"], returns: "i32" },
      }).symbols;
      const number = SYS_IO_URING_ENTER, byteLength = argument?.length ?? 0;
      const pointer = argument ? ffi.ptr(argument) : null;
      return (descriptor, submitCount, completions, flags) =>
        syscall(number, descriptor, submitCount, completions, flags, pointer, byteLength);
    },
    map(descriptor, byteLength, offset) {
      const flags = MAP_SHARED_POPULATE;
      const pointer = Number(
        symbols.mmap(null, byteLength, PROT_READ_WRITE, flags, descriptor, offset),
      );
      if (pointer <= 0) return null;
      return {
        buffer: ffi.toArrayBuffer(pointer, 0, byteLength),
        unmap: () => symbols.munmap(pointer, byteLength),
      };
    },
    addressOf: (view) => ffi.ptr(view),
    open: (path, flags) => symbols.open(cString(path), flags, 0),
    close: (descriptor) => symbols.close(descriptor),
  };
}
