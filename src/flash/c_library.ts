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
