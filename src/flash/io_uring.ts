import type { Libc, Mapping } from "./libc.ts";

/**
 * io_uring without native code: two rings that the kernel shares with us, and one system call that submits and waits
 * (man io_uring(7); include/uapi/linux/io_uring.h). One thread uses it.
 *
 *   submission: we write entries (64 bytes) and move `tail`; the kernel moves `head`
 *   completion: the kernel writes { user data, result } (16 bytes) and moves `tail`; we move `head`
 */
const SYS_SETUP = 425, SYS_ENTER = 426;
const OFFSET_SUBMISSION_RING = 0, OFFSET_ENTRIES = 0x10000000;
const FEATURE_SINGLE_MAP = 1;
const ENTER_GET_EVENTS = 1;
const OP_READ = 22;
const ENTRY_BYTES = 64, COMPLETION_BYTES = 16;
const EINTR = 4;

/** `struct io_uring_params`: where its fields lie, in 32-bit words. */
const PARAMS_BYTES = 120;
const PARAM_SQ_ENTRIES = 0, PARAM_CQ_ENTRIES = 1, PARAM_FEATURES = 5;
const PARAM_SQ_OFFSETS = 10, PARAM_CQ_OFFSETS = 20;
/** Fields of `io_sqring_offsets` and `io_cqring_offsets`, in words from their start. */
const HEAD = 0, TAIL = 1, MASK = 2, SQ_ARRAY = 6, CQ_ENTRIES_AT = 5;

/** Thrown where the kernel refuses io_uring: an old kernel, seccomp, a sysctl. */
export class IoUringRefusedError extends Error {
  override name = "IoUringRefusedError";
}

/** A submission and completion queue for reads of `depth` at a time. */
export class IoUring {
  readonly #libc: Libc;
  readonly #descriptor: number;
  readonly #ringMap: Mapping;
  readonly #entryMap: Mapping;
  readonly #ring: Int32Array;
  readonly #entries: DataView;
  readonly #sqTail: number;
  readonly #sqMask: number;
  readonly #sqArray: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqEntries: number;
  #unsubmitted = 0;

  /** @param depth reads in flight, a power of two. Throws `IoUringRefusedError`. */
  constructor(libc: Libc, depth: number) {
    const params = new Int32Array(new ArrayBuffer(PARAMS_BYTES));
    const bytes = new Uint8Array(params.buffer);
    const descriptor = libc.syscall(SYS_SETUP, depth, libc.addressOf(bytes));
    if (descriptor < 0) {
      throw new IoUringRefusedError(`the kernel refused it (errno ${libc.errno()})`);
    }
    const sq = params.subarray(PARAM_SQ_OFFSETS), cq = params.subarray(PARAM_CQ_OFFSETS);
    const ringBytes = Math.max(
      sq[SQ_ARRAY] + 4 * params[PARAM_SQ_ENTRIES],
      cq[CQ_ENTRIES_AT] + COMPLETION_BYTES * params[PARAM_CQ_ENTRIES],
    );
    const entryBytes = ENTRY_BYTES * params[PARAM_SQ_ENTRIES];
    const ringMap = (params[PARAM_FEATURES] & FEATURE_SINGLE_MAP) !== 0
      ? libc.map(descriptor, ringBytes, OFFSET_SUBMISSION_RING)
      : null;
    const entryMap = libc.map(descriptor, entryBytes, OFFSET_ENTRIES);
    if (!ringMap || !entryMap) throw new IoUringRefusedError("its rings cannot be mapped");
    this.#libc = libc;
    this.#descriptor = descriptor;
    this.#ringMap = ringMap;
    this.#entryMap = entryMap;
    this.#ring = new Int32Array(ringMap.buffer, 0, ringBytes >> 2);
    this.#entries = new DataView(entryMap.buffer);
    this.#sqTail = sq[TAIL] >> 2;
    this.#sqMask = this.#ring[sq[MASK] >> 2];
    this.#sqArray = sq[SQ_ARRAY] >> 2;
    this.#cqHead = cq[HEAD] >> 2;
    this.#cqTail = cq[TAIL] >> 2;
    this.#cqMask = this.#ring[cq[MASK] >> 2];
    this.#cqEntries = cq[CQ_ENTRIES_AT] >> 2;
  }

  /** Queues a read; it begins with the next `enter`. `id` comes back with its result. */
  queueRead(
    read: { descriptor: number; byteOffset: number; byteLength: number; address: number },
    id: number,
  ): void {
    const tail = this.#ring[this.#sqTail];
    const index = tail & this.#sqMask, at = index * ENTRY_BYTES, entries = this.#entries;
    entries.setInt32(at, OP_READ, true);
    entries.setInt32(at + 4, read.descriptor, true);
    setUint64(entries, at + 8, read.byteOffset);
    setUint64(entries, at + 16, read.address);
    entries.setInt32(at + 24, read.byteLength, true);
    entries.setInt32(at + 28, 0, true);
    setUint64(entries, at + 32, id);
    for (let word = 40; word < ENTRY_BYTES; word += 4) entries.setInt32(at + word, 0, true);
    this.#ring[this.#sqArray + index] = index;
    Atomics.store(this.#ring, this.#sqTail, (tail + 1) | 0);
    this.#unsubmitted++;
  }

  /** Submits what is queued and waits until `completions` reads are done. */
  enter(completions: number): void {
    const { syscall } = this.#libc;
    const count = syscall(
      SYS_ENTER,
      this.#descriptor,
      this.#unsubmitted,
      completions,
      completions > 0 ? ENTER_GET_EVENTS : 0,
    );
    if (count >= 0) this.#unsubmitted -= count;
    else if (this.#libc.errno() !== EINTR) {
      throw new Error(`io_uring_enter failed with errno ${this.#libc.errno()}`);
    }
  }

  /** Hands out each read that is done: its id, and the bytes read or minus the error number. */
  reap(use: (id: number, result: number) => void): void {
    let head = this.#ring[this.#cqHead];
    const tail = Atomics.load(this.#ring, this.#cqTail);
    for (; head !== tail; head = (head + 1) | 0) {
      const at = this.#cqEntries + (head & this.#cqMask) * (COMPLETION_BYTES >> 2);
      use(this.#ring[at], this.#ring[at + 2]);
    }
    Atomics.store(this.#ring, this.#cqHead, head);
  }

  close(): void {
    this.#ringMap.unmap();
    this.#entryMap.unmap();
    this.#libc.close(this.#descriptor);
  }
}

function setUint64(view: DataView, byteOffset: number, value: number): void {
  view.setUint32(byteOffset, value >>> 0, true);
  view.setUint32(byteOffset + 4, Math.floor(value / 4294967296), true);
}
