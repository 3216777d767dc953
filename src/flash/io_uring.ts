import { SYS_IO_URING_REGISTER, SYS_IO_URING_SETUP } from "./c_abi.ts";
import type { EnterRing, LinuxLibc, Mapping } from "./c_library.ts";

/**
 * io_uring without native code: two rings that the kernel shares with us, and one system call that submits and waits
 * (man io_uring(7); include/uapi/linux/io_uring.h). One thread makes and uses it.
 *
 *   submission: we write entries (64 bytes) and move `tail`; the kernel moves `head`
 *   completion: the kernel writes { user data, result } (16 bytes) and moves `tail`; we move `head`
 */
const OFFSET_SUBMISSION_RING = 0, OFFSET_ENTRIES = 0x10000000;
const FEATURE_SINGLE_MAP = 1, FEATURE_EXTENDED_ARGUMENT = 1 << 8;
const ENTER_GET_EVENTS = 1, ENTER_EXTENDED_ARGUMENT = 1 << 3;
const REGISTER_BUFFERS = 0, REGISTER_FILES = 2;
const OP_READ_FIXED = 4, OP_READ = 22, ENTRY_FIXED_FILE = 1 << 8;
const ENTRY_WORDS = 16, COMPLETION_WORDS = 4;
const EINTR = 4, EINVAL = 22, ETIME = 62;

/**
 * How the kernel may finish reads, best first; older kernels refuse what they do not know. One thread submits
 * (1 << 12) and finished reads wait until it asks for them (1 << 13), so that no interrupt stops it: Linux 6.1. Or at least no
 * other processor is told to interrupt it (1 << 8): 5.19.
 */
const SETUP_FLAGS = [1 << 12 | 1 << 13, 1 << 8, 0];

/** `struct io_uring_params`: where its fields lie, in 32-bit words. */
const PARAMS_BYTES = 120;
const PARAM_SQ_ENTRIES = 0, PARAM_CQ_ENTRIES = 1, PARAM_FLAGS = 2, PARAM_FEATURES = 5;
const PARAM_SQ_OFFSETS = 10, PARAM_CQ_OFFSETS = 20;
/** Fields of `io_sqring_offsets` and `io_cqring_offsets`, in words from their start. */
const HEAD = 0, TAIL = 1, MASK = 2, SQ_ARRAY = 6, CQ_ENTRIES_AT = 5;
/** Fields of `io_uring_sqe`, in words. */
const ENTRY_OP = 0, ENTRY_FILE = 1, ENTRY_OFFSET = 2, ENTRY_ADDRESS = 4, ENTRY_LENGTH = 6;
const ENTRY_USER_DATA = 8, ENTRY_BUFFER = 10;

/** The kernel takes registered buffers of up to 1 GiB. */
const KERNEL_BUFFER_BYTES_MAX = 2 ** 30;

/** Thrown where the kernel refuses io_uring: an old kernel, seccomp, a sysctl. */
export class IoUringRefusedError extends Error {
  override name = "IoUringRefusedError";
}

export interface IoUringOptions {
  /** Reads in flight, a power of two. */
  depth: number;
  /** The file that is read: the kernel's number. */
  descriptor: number;
  /** The memories that are read to. Addresses count from the beginning of each. */
  memories: Uint8Array[];
  /**
   * The part of one of them that the kernel shall know beforehand, so that it need not look up and hold pages for each read. It stays in
   * RAM from then on. Refused where the user may not lock so much (RLIMIT_MEMLOCK); reads are plain ones then.
   */
  registered?: { arena: number; address: number; byteLength: number };
  /** The longest registered buffer; default (and most): 1 GiB. */
  bufferBytesMax?: number;
  /** `wait` ends after so many ms, whatever has come (Linux 5.11). */
  waitMs: number;
}

/** A read of the file to an address of one of the memories. */
export interface UringRead {
  byteOffset: number;
  byteLength: number;
  arena: number;
  address: number;
}

/** A submission and completion queue for reads of one file. */
export class IoUring {
  readonly #libc: LinuxLibc;
  readonly #descriptor: number;
  readonly #enter: EnterRing;
  /** Kept here, as the kernel has only its address. */
  readonly #waitArgument: Uint8Array<ArrayBuffer> | null;
  readonly #getEvents: number;
  readonly #ringMap: Mapping;
  readonly #entryMap: Mapping;
  readonly #ring: Int32Array;
  readonly #entries: Int32Array;
  readonly #sqTail: number;
  readonly #sqMask: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqEntries: number;
  /** The memories' addresses in the process. */
  readonly #bases: number[];
  /** Word 0 of each entry: the operation, and whether the file is a registered one. */
  readonly #plainRead: number;
  readonly #fixedRead: number;
  /** The registered part: of which memory, and its addresses there. Empty if there is none. */
  readonly #registeredArena: number;
  readonly #registeredBegin: number;
  readonly #registeredEnd: number;
  readonly #bufferBytesMax: number;
  #unsubmitted = 0;
  /** Bytes of the read that `next` named last, or minus the error number. */
  result = 0;

  /** Throws `IoUringRefusedError`. */
  constructor(libc: LinuxLibc, options: IoUringOptions) {
    this.#libc = libc;
    const { descriptor, params } = setUp(libc, options.depth);
    this.#descriptor = descriptor;
    const hasArgument = (params[PARAM_FEATURES] & FEATURE_EXTENDED_ARGUMENT) !== 0;
    this.#waitArgument = hasArgument ? waitArgument(libc, options.waitMs) : null;
    this.#enter = libc.enterRing(this.#waitArgument);
    this.#getEvents = ENTER_GET_EVENTS | (hasArgument ? ENTER_EXTENDED_ARGUMENT : 0);
    const sq = params.subarray(PARAM_SQ_OFFSETS), cq = params.subarray(PARAM_CQ_OFFSETS);
    const entryCount = params[PARAM_SQ_ENTRIES];
    const ringBytes = Math.max(
      sq[SQ_ARRAY] + 4 * entryCount,
      cq[CQ_ENTRIES_AT] + 4 * COMPLETION_WORDS * params[PARAM_CQ_ENTRIES],
    );
    const ringMap = (params[PARAM_FEATURES] & FEATURE_SINGLE_MAP) !== 0
      ? libc.map(descriptor, ringBytes, OFFSET_SUBMISSION_RING)
      : null;
    const entryMap = libc.map(descriptor, 4 * ENTRY_WORDS * entryCount, OFFSET_ENTRIES);
    if (!ringMap || !entryMap) {
      ringMap?.unmap();
      entryMap?.unmap();
      libc.close(descriptor);
      throw new IoUringRefusedError("its rings cannot be mapped");
    }
    this.#ringMap = ringMap;
    this.#entryMap = entryMap;
    this.#ring = new Int32Array(ringMap.buffer, 0, ringBytes >> 2);
    this.#entries = new Int32Array(entryMap.buffer, 0, ENTRY_WORDS * entryCount);
    this.#sqTail = sq[TAIL] >> 2;
    this.#sqMask = this.#ring[sq[MASK] >> 2];
    this.#cqHead = cq[HEAD] >> 2;
    this.#cqTail = cq[TAIL] >> 2;
    this.#cqMask = this.#ring[cq[MASK] >> 2];
    this.#cqEntries = cq[CQ_ENTRIES_AT] >> 2;
    // Entry i is always at place i of the ring.
    for (let i = 0; i < entryCount; i++) this.#ring[(sq[SQ_ARRAY] >> 2) + i] = i;
    const file = this.#registerFile(options.descriptor)
      ? { flag: ENTRY_FIXED_FILE, number: 0 }
      : { flag: 0, number: options.descriptor };
    for (let at = 0; at < this.#entries.length; at += ENTRY_WORDS) {
      this.#entries[at + ENTRY_FILE] = file.number;
    }
    this.#plainRead = OP_READ | file.flag;
    this.#fixedRead = OP_READ_FIXED | file.flag;
    this.#bufferBytesMax = options.bufferBytesMax ?? KERNEL_BUFFER_BYTES_MAX;
    this.#bases = options.memories.map((memory) => libc.addressOf(memory));
    const none = { arena: 0, address: 0, byteLength: 0 };
    const { arena, address, byteLength } = options.registered ?? none;
    const isRegistered = byteLength > 0 &&
      this.#registerBuffers(this.#bases[arena] + address, byteLength);
    this.#registeredArena = arena;
    this.#registeredBegin = address;
    this.#registeredEnd = isRegistered ? address + byteLength : address;
  }

  /** Whether the kernel has taken the memory beforehand. */
  get isRegistered(): boolean {
    return this.#registeredEnd > this.#registeredBegin;
  }

  /** Queues a read; it begins with the next `submit` or `wait`. `id` comes back with its result. */
  queueRead({ byteOffset, byteLength, arena, address }: UringRead, id: number): void {
    const tail = this.#ring[this.#sqTail];
    const at = (tail & this.#sqMask) * ENTRY_WORDS, entries = this.#entries;
    const inPart = address - this.#registeredBegin;
    const buffer = Math.floor(inPart / this.#bufferBytesMax);
    // One that lies across the border of two buffers is a plain read.
    const isFixed = arena === this.#registeredArena && inPart >= 0 &&
      address + byteLength <= this.#registeredEnd &&
      inPart + byteLength <= (buffer + 1) * this.#bufferBytesMax;
    const target = this.#bases[arena] + address;
    entries[at + ENTRY_OP] = isFixed ? this.#fixedRead : this.#plainRead;
    entries[at + ENTRY_OFFSET] = byteOffset;
    entries[at + ENTRY_OFFSET + 1] = byteOffset / 4294967296;
    entries[at + ENTRY_ADDRESS] = target;
    entries[at + ENTRY_ADDRESS + 1] = target / 4294967296;
    entries[at + ENTRY_LENGTH] = byteLength;
    entries[at + ENTRY_USER_DATA] = id;
    entries[at + ENTRY_BUFFER] = isFixed ? buffer : 0;
    Atomics.store(this.#ring, this.#sqTail, (tail + 1) | 0);
    this.#unsubmitted++;
  }

  /** Begins the reads that are queued. */
  submit(): void {
    if (this.#unsubmitted > 0) this.#call(0, 0);
  }

  /** Begins what is queued and waits until `completions` reads are done; false if `waitMs` have gone by. */
  wait(completions: number): boolean {
    return this.#call(completions, this.#getEvents);
  }

  #call(completions: number, flags: number): boolean {
    const count = this.#enter(this.#descriptor, this.#unsubmitted, completions, flags);
    if (count >= 0) {
      this.#unsubmitted -= count;
      return true;
    }
    const errno = this.#libc.errno();
    if (errno === ETIME) return false;
    if (errno !== EINTR) throw new Error(`io_uring_enter failed with errno ${errno}`);
    return true;
  }

  /** The id of the next read that is done, or -1; `result` says how it went. */
  next(): number {
    const ring = this.#ring, head = ring[this.#cqHead];
    if (Atomics.load(ring, this.#cqTail) === head) return -1;
    const at = this.#cqEntries + (head & this.#cqMask) * COMPLETION_WORDS;
    const id = ring[at];
    this.result = ring[at + 2];
    Atomics.store(ring, this.#cqHead, (head + 1) | 0);
    return id;
  }

  close(): void {
    this.#ringMap.unmap();
    this.#entryMap.unmap();
    this.#libc.close(this.#descriptor);
  }

  #registerFile(descriptor: number): boolean {
    return this.#register(REGISTER_FILES, new Int32Array(new ArrayBuffer(4)).fill(descriptor), 1);
  }

  /** @param address in the process */
  #registerBuffers(address: number, byteLength: number): boolean {
    const most = this.#bufferBytesMax, count = Math.ceil(byteLength / most);
    // struct iovec { address, length }
    const vectors = new BigUint64Array(new ArrayBuffer(16 * count));
    for (let i = 0; i < count; i++) {
      const at = i * most;
      vectors[2 * i] = BigInt(address + at);
      vectors[2 * i + 1] = BigInt(Math.min(most, byteLength - at));
    }
    return this.#register(REGISTER_BUFFERS, vectors, count);
  }

  #register(what: number, list: Int32Array | BigUint64Array, count: number): boolean {
    const address = this.#libc.addressOf(new Uint8Array(list.buffer as ArrayBuffer));
    return this.#libc.syscall(SYS_IO_URING_REGISTER, this.#descriptor, what, address, count) >= 0;
  }
}

/** Makes the rings, with the best flags that this kernel takes. */
function setUp(libc: LinuxLibc, depth: number): { descriptor: number; params: Int32Array } {
  for (const flags of SETUP_FLAGS) {
    const params = new Int32Array(new ArrayBuffer(PARAMS_BYTES));
    params[PARAM_FLAGS] = flags;
    const address = libc.addressOf(new Uint8Array(params.buffer));
    const descriptor = libc.syscall(SYS_IO_URING_SETUP, depth, address);
    if (descriptor >= 0) return { descriptor, params };
    if (libc.errno() !== EINVAL) break;
  }
  throw new IoUringRefusedError(`the kernel refused it (errno ${libc.errno()})`);
}

/** `struct io_uring_getevents_arg`, whose last word is the address of the `timespec` behind it. */
function waitArgument(libc: LinuxLibc, waitMs: number): Uint8Array<ArrayBuffer> {
  const buffer = new ArrayBuffer(40), words = new BigInt64Array(buffer);
  words[2] = BigInt(libc.addressOf(new Uint8Array(buffer, 24)));
  words[3] = BigInt(Math.floor(waitMs / 1000));
  words[4] = BigInt(waitMs % 1000) * 1_000_000n;
  return new Uint8Array(buffer, 0, 24);
}
