import { createRequire } from "node:module";
import process from "node:process";
import { RUNTIME } from "../runtime.ts";

/**
 * The small door to the C library, for what runtimes do not offer: raw system calls. Deno needs `--allow-ffi`; Bun has `bun:ffi`; Node has
 * nothing without a flag. Linux on x86-64 and arm64 only, whose numbers of io_uring's calls are the same.
 */
export interface Libc {
  /** Returns what the kernel returns; on failure -1, and `errno()` says why. */
  syscall(number: number, ...args: number[]): number;
  /** Maps `byteLength` bytes of a descriptor at `offset`, shared, for reading and writing. Null if it cannot. */
  map(descriptor: number, byteLength: number, offset: number): Mapping | null;
  /** The address of a view's first byte. The view must stay alive. */
  addressOf(view: Uint8Array): number;
  errno(): number;
  /** Opens a file; -1 on failure. The descriptor is the kernel's, which runtimes may hide. */
  open(path: string, flags: number): number;
  close(descriptor: number): void;
}

/** Memory that the kernel shares with us. */
export interface Mapping {
  buffer: ArrayBuffer;
  unmap(): void;
}

const LIBRARY = "libc.so.6";
const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x8001;

/** Opens the C library, or says null: another system, no permission, no FFI in this runtime. Never asks the user. */
export function openLibc(): Libc | null {
  if (process.platform !== "linux" || !["x64", "arm64"].includes(process.arch)) return null;
  try {
    if (RUNTIME === "deno") return openInDeno();
    if (RUNTIME === "bun") return openInBun();
  } catch {
    // No such library, or not allowed: readers go on with pread.
  }
  return null;
}

function openInDeno(): Libc | null {
  // A question at the terminal would be a surprise: only a permission that is there counts.
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") return null;
  const word = "i64" as const;
  const { symbols } = Deno.dlopen(LIBRARY, {
    syscall: { parameters: [word, word, word, word, word, word, word], result: word },
    mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", word], result: "pointer" },
    munmap: { parameters: ["pointer", "usize"], result: "i32" },
    __errno_location: { parameters: [], result: "pointer" },
    open: { parameters: ["buffer", "i32", "i32"], result: "i32" },
    close: { parameters: ["i32"], result: "i32" },
  });
  const { UnsafePointer, UnsafePointerView } = Deno;
  return {
    syscall: (number, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0) =>
      Number(
        symbols.syscall(
          BigInt(number),
          BigInt(a),
          BigInt(b),
          BigInt(c),
          BigInt(d),
          BigInt(e),
          BigInt(f),
        ),
      ),
    map(descriptor, byteLength, offset) {
      const pointer = symbols.mmap(
        null,
        BigInt(byteLength),
        PROT_READ_WRITE,
        MAP_SHARED_POPULATE,
        descriptor,
        BigInt(offset),
      );
      if (pointer === null || BigInt.asIntN(64, UnsafePointer.value(pointer)) === -1n) return null;
      return {
        buffer: UnsafePointerView.getArrayBuffer(pointer, byteLength),
        unmap: () => symbols.munmap(pointer, BigInt(byteLength)),
      };
    },
    addressOf: (view) =>
      Number(UnsafePointer.value(UnsafePointer.of(view as Uint8Array<ArrayBuffer>))),
    errno: () => new UnsafePointerView(symbols.__errno_location()!).getInt32(),
    open: (path, flags) => symbols.open(cString(path), flags, 0),
    close: (descriptor) => symbols.close(descriptor),
  };
}

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

function openInBun(): Libc | null {
  const ffi = createRequire(import.meta.url)("bun:ffi") as BunFfi;
  const word = "i64_fast";
  const { symbols } = ffi.dlopen(LIBRARY, {
    syscall: { args: [word, word, word, word, word, word, word], returns: word },
    mmap: { args: ["ptr", "u64_fast", "i32", "i32", "i32", word], returns: word },
    munmap: { args: [word, "u64_fast"], returns: "i32" },
    __errno_location: { args: [], returns: "ptr" },
    open: { args: ["ptr", "i32", "i32"], returns: "i32" },
    close: { args: ["i32"], returns: "i32" },
  });
  return {
    syscall: (number, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0) =>
      Number(symbols.syscall(number, a, b, c, d, e, f)),
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
    errno: () => ffi.read.i32(symbols.__errno_location(), 0),
    open: (path, flags) => symbols.open(cString(path), flags, 0),
    close: (descriptor) => symbols.close(descriptor),
  };
}

function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}
