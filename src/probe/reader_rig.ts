import process from "node:process";
import { ReadPlan } from "../cache/read_plan.ts";
import type { ReaderBackend, ReaderOptions } from "../flash/reader_options.ts";
import { ticketCapacity } from "../flash/ticket.ts";
import { UringReader } from "../flash/uring_reader.ts";
import { Control } from "../pipeline/control.ts";
import type { ControlShare } from "../pipeline/control.ts";
import { Crew } from "../pipeline/crew.ts";
import { LandingBell } from "../pipeline/landing.ts";
import { seededRandom } from "../random.ts";
import { createSharedMemory } from "../shared_memory.ts";

/** Readers to measure, and what they may read. */
export interface RigOptions {
  path: string;
  /** Bytes of the file, from its beginning, that reads are spread over. */
  fileBytes: number;
  direct: boolean;
  blockByteLength: number;
  backend: ReaderBackend;
  /** `pread`: workers, each with one read in flight. `io_uring`: 1 reads in this thread, as the predictor does; more are workers. */
  readerCount: number;
  /** Reads in flight of all readers together. */
  depth: number;
  /** The largest read that will be asked for, in bytes. */
  readBytesMax: number;
  /** Where reads go, of `rigByteLength` at least; default: a memory of its own. */
  memory?: WebAssembly.Memory;
}

/** Reads to do. */
export interface ReadsWish {
  readBytes: number;
  seconds: number;
  /** Block after block, instead of anywhere. */
  isSequential?: boolean;
  seed?: number;
}

/** What came of them. */
export interface ReadRate {
  readCount: number;
  readsPerSecond: number;
  bytesPerSecond: number;
  /** CPU time of the whole process a read, in us: user and system. */
  cpuUsPerRead: number;
  /** Sum of a byte of each read: so that nobody reads nothing. */
  checksum: number;
}

/** Where the slots begin in the arena. */
const SLOTS_AT = 65536;

/** Tickets that wait in a reader's ring: at most half of it, so that the plan never waits for an empty queue. */
const WAITING = ticketCapacity(0, 1).late / 2;

/** Reads in flight, and others waiting in rings, which must not run dry: this thread would be woken for each read. */
function slotCountOf({ backend, readerCount, depth }: Omit<RigOptions, "memory">): number {
  return depth + (backend === "pread" ? Math.min(3 * depth, WAITING) : readerCount * WAITING);
}

/** Memory that a rig takes, in bytes. */
export function rigByteLength(options: Omit<RigOptions, "memory">): number {
  return SLOTS_AT + slotCountOf(options) * options.readBytesMax;
}

/**
 * The engine's own readers with real tickets, asked for reads of any size as fast as they can: the same rings, doorbells and landing
 * counter as in the pipeline. What has landed is looked at, and its slot used again.
 */
export class ReaderRig {
  readonly #options: RigOptions;
  readonly #share: ControlShare;
  readonly #control: Control;
  readonly #arena: WebAssembly.Memory;
  readonly #bytes: Uint8Array;
  readonly #slotCount: number;
  readonly #bell: LandingBell;
  readonly #plan: ReadPlan;
  readonly #crew: Crew;
  /** The reader in this thread, if there is one. */
  readonly #inline?: UringReader;
  #issued = 0;
  #checksum = 0;

  private constructor(options: RigOptions) {
    const { readerCount, backend, blockByteLength } = options;
    this.#options = options;
    this.#slotCount = slotCountOf(options);
    this.#arena = options.memory ?? createSharedMemory(rigByteLength(options));
    this.#bytes = new Uint8Array(this.#arena.buffer);
    const style = { spins: 100, flashSpins: 100, waitMsMax: 30_000 };
    const shape = { laneCount: 1, readerCount, flagCount: this.#slotCount };
    this.#share = Control.create(shape, style);
    this.#control = new Control(this.#share);
    this.#bell = new LandingBell(this.#control, 0);
    this.#crew = new Crew(this.#control);
    if (backend === "io_uring" && readerCount === 1) {
      this.#inline = new UringReader(this.#readerOptions(0));
    }
    // Nothing is merged: each record is a read.
    const reads = { blockByteLength, gapBytesMax: -1, mergedBytesMax: 0 };
    this.#plan = new ReadPlan(this.#control, reads, this.#inline);
  }

  /** Starts the readers. Throws what they throw, such as `IoUringRefusedError`. */
  static async start(options: RigOptions): Promise<ReaderRig> {
    const rig = new ReaderRig(options);
    if (!rig.#inline) {
      await rig.#crew.start(Array.from({ length: options.readerCount }, (_, index) => ({
        name: `reader ${index}`,
        file: "reader" as const,
        options: rig.#readerOptions(index),
      })));
    }
    return rig;
  }

  #readerOptions(readerIndex: number): ReaderOptions {
    const { path, direct, backend, depth, readerCount, readBytesMax } = this.#options;
    return {
      readerIndex,
      backend,
      depth: backend === "pread" ? 1 : depth / readerCount,
      control: this.#share,
      arenas: [this.#arena],
      disk: { path, direct },
      bounce: { addresses: [SLOTS_AT], byteLength: readBytesMax },
      registered: {
        arena: 0,
        address: SLOTS_AT,
        byteLength: this.#slotCount * readBytesMax,
      },
      timeOrigin: performance.timeOrigin,
    };
  }

  /** Reads for so long. Blocks this thread, as the lanes do. */
  measure(wish: ReadsWish): ReadRate {
    const { readBytes, seconds } = wish, inline = this.#inline, first = this.#issued;
    const { readerCount, depth } = this.#options;
    const slotCount = this.#slotCount, next = this.#places(wish);
    this.#checksum = 0;
    const cpuBefore = process.cpuUsage(), began = performance.now();
    const until = began + seconds * 1000;
    while (performance.now() < until) {
      if (inline) {
        const room = this.#bell.landed + slotCount - this.#issued;
        this.#issue(Math.min(room, WAITING), readBytes, next);
        inline.turn();
      } else {
        this.#bell.waitFor((this.#issued - slotCount + depth) | 0, "reads to land");
        this.#issue(this.#bell.landed + slotCount - this.#issued, readBytes, next);
        this.#plan.ring();
      }
    }
    if (inline) inline.drain();
    else this.#bell.waitFor(this.#issued, `the last reads of ${readerCount} readers to land`);
    const elapsed = (performance.now() - began) / 1000;
    const { user, system } = process.cpuUsage(cpuBefore), readCount = this.#issued - first;
    return {
      readCount,
      readsPerSecond: readCount / elapsed,
      bytesPerSecond: readCount * readBytes / elapsed,
      cpuUsPerRead: (user + system) / readCount,
      checksum: this.#checksum,
    };
  }

  /** Ends the readers. */
  async close(): Promise<void> {
    this.#inline?.close();
    await this.#crew.close();
  }

  /** Byte offsets of the reads. */
  #places({ readBytes, isSequential, seed = 0 }: ReadsWish): () => number {
    const count = Math.max(1, Math.floor(this.#options.fileBytes / readBytes));
    const random = seededRandom(seed);
    let at = Math.floor(random() * count);
    if (isSequential) return () => (at = (at + 1) % count) * readBytes;
    return () => Math.floor(random() * count) * readBytes;
  }

  /** Adds so many reads, at most one for each slot, so that the clock is looked at now and then. */
  #issue(count: number, readBytes: number, next: () => number): void {
    const plan = this.#plan, slotCount = this.#slotCount;
    plan.begin("late", 0);
    for (let k = Math.min(count, slotCount); k > 0; k--) {
      const slot = this.#issued++ % slotCount, address = SLOTS_AT + slot * readBytes;
      this.#checksum = (this.#checksum + this.#bytes[address]) >>> 0;
      plan.add({ byteOffset: next(), byteLength: readBytes }, address, slot);
    }
    plan.finish();
  }
}
