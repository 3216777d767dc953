import type { Libc, LinuxLibc } from "./c_library.ts";
import { cString, MAP_SHARED_POPULATE, PROT_READ_WRITE, SYS_IO_URING_ENTER } from "./c_abi.ts";

/** The C library through Deno's FFI; null if it is not allowed: a question at the terminal would be a surprise. */
export function openDenoLibc(library: string, errnoSymbol: string): Libc | null {
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") return null;
  const long = "isize" as const;
  const { symbols } = Deno.dlopen(library, {
    fcntl: {
      parameters: ["i32", "i32", long, long, long, long, long, long, long],
      result: "i32",
    },
    errnoAt: { name: errnoSymbol, parameters: [], result: "pointer" },
  });
  return {
    fcntl(descriptor, command, argument) {
      const value = BigInt(argument);
      return symbols.fcntl(descriptor, command, value, 0n, 0n, 0n, 0n, 0n, value);
    },
    errno: () => new Deno.UnsafePointerView(symbols.errnoAt()!).getInt32(),
  };
}

/** As `openDenoLibc`, with what io_uring needs. */
export function openDenoLinuxLibc(library: string, errnoSymbol: string): LinuxLibc | null {
  const libc = openDenoLibc(library, errnoSymbol);
  if (!libc) return null;
  const word = "i64" as const;
  const { symbols } = Deno.dlopen(library, {
    syscall: { parameters: [word, word, word, word, word, word, word], result: word },
    enter: {
      name: "syscall",
      parameters: ["i32", "i32", "u32", "u32", "u32", "pointer", "usize"],
      result: "i32",
    },
    mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", word], result: "pointer" },
    munmap: { parameters: ["pointer", "usize"], result: "i32" },
    open: { parameters: ["buffer", "i32", "i32"], result: "i32" },
    close: { parameters: ["i32"], result: "i32" },
  });
  const { UnsafePointer, UnsafePointerView } = Deno;
  return {
    ...libc,
    syscall(number, ...args) {
      const [a = 0n, b = 0n, c = 0n, d = 0n, e = 0n, f = 0n] = args.map(BigInt);
      return Number(symbols.syscall(BigInt(number), a, b, c, d, e, f));
    },
    enterRing(argument) {
      const number = SYS_IO_URING_ENTER, { enter } = symbols;
      const pointer = argument ? UnsafePointer.of(argument) : null;
      const byteLength = BigInt(argument?.length ?? 0);
      return (descriptor, submitCount, completions, flags) =>
        enter(number, descriptor, submitCount, completions, flags, pointer, byteLength);
    },
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
    open: (path, flags) => symbols.open(cString(path), flags, 0),
    close: (descriptor) => symbols.close(descriptor),
  };
}
