import fs from "node:fs";
import { SLICE_MS, WaitTimeoutError } from "../pipeline/sequence.ts";
import { openDisk, readFully } from "./disk.ts";
import type { FlashDisk } from "./disk.ts";
import { IoUring, IoUringRefusedError } from "./io_uring.ts";
import { openLinuxLibc } from "./libc.ts";
import type { LinuxLibc } from "./c_library.ts";
import type { Reader, ReaderOptions } from "./reader_options.ts";
import { ReaderSeat } from "./reader_seat.ts";
import { emptyTicket } from "./ticket.ts";
import type { Ticket } from "./ticket.ts";

/** Reads that `pump` waits for: some 80 us. */
const PUMPED = 4;

/**
 * Many reads in flight in one thread. Early reads take at most three quarters of the places, so that
 * late ones always find one.
 */
export class UringReader implements Reader {
  readonly #seat: ReaderSeat;
  readonly #options: ReaderOptions;
  readonly #libc: LinuxLibc;
  readonly #ring: IoUring;
  /** The kernel's own number of the open file. */
  readonly #descriptor: number;
  /** For what is left of a short read, and to say what is wrong with a failed one. */
  readonly #disk: FlashDisk;
  readonly #tickets;
  /** Places that are free: a stack of `#freeCount`. */
  readonly #free: Int32Array;
  #freeCount: number;
  #earlyCount = 0;
  /** What is queued next: reused, so that a read allocates nothing. */
  readonly #read = { byteOffset: 0, byteLength: 0, arena: 0, address: 0 };
  /** How long no read has come back, in ms. */
  #waitedMs = 0;

  /** Throws `IoUringRefusedError`, or what the system says of the file. */
  constructor(options: ReaderOptions) {
    const libc = openLinuxLibc();
    if (!libc) throw new IoUringRefusedError("no FFI here");
    const { depth, registered } = options;
    const seat = new ReaderSeat(options);
    this.#seat = seat;
    this.#options = options;
    this.#libc = libc;
    this.#disk = openDisk(options.disk);
    const { path, direct } = options.disk;
    const flags = fs.constants.O_RDONLY | (direct ? fs.constants.O_DIRECT : 0);
    const descriptor = libc.open(path, flags);
    if (descriptor < 0) throw new IoUringRefusedError(`cannot open ${path}`);
    this.#descriptor = descriptor;
    const memories = seat.arenas, waitMs = SLICE_MS;
    this.#ring = new IoUring(libc, { depth, descriptor, memories, registered, waitMs });
    this.#tickets = Array.from({ length: depth }, emptyTicket);
    this.#free = Int32Array.from({ length: depth }, (_, place) => place);
    this.#freeCount = depth;
  }

  /** Whether the kernel holds the memory of its reads beforehand. */
  get isRegistered(): boolean {
    return this.#ring.isRegistered;
  }

  run(): void {
    const seat = this.#seat;
    try {
      for (;;) {
        seat.listen();
        this.drain();
        seat.sleep();
      }
    } finally {
      this.close();
    }
  }

  /** Begins the reads of all tickets that find a place; waits for none. */
  submit(): void {
    this.#queue();
    this.#ring.submit();
  }

  /** Does all tickets, and waits until the last read has landed. */
  drain(): void {
    while (this.turn());
  }

  /** Begins what finds a place and lands what is done; waits for nothing. */
  poll(): void {
    this.#queue();
    this.#ring.submit();
    this.#ring.wait(0);
    if (this.#reap() > 0) this.#waitedMs = 0;
  }

  /** The same, waiting for few reads only, as the caller waits for something else, too. */
  pump(): boolean {
    return this.turn(PUMPED);
  }

  /** Begins what finds a place and lands what is done, waiting for some. False if nothing is in flight. */
  turn(completionsMax = Infinity): boolean {
    this.#queue();
    const inFlight = this.#options.depth - this.#freeCount;
    if (inFlight === 0) return false;
    const completions = Math.min(completionsMax, this.#completionsWorthWaking(inFlight));
    const isInTime = this.#ring.wait(completions);
    if (this.#reap() > 0) this.#waitedMs = 0;
    else if (!isInTime) this.#countSlice(inFlight);
    this.#seat.checkRunning();
    return true;
  }

  close(): void {
    this.#ring.close();
    this.#libc.close(this.#descriptor);
    this.#disk.close();
  }

  /**
   * Some at a time, so that a list of many misses does not wake this thread for each; fewer where more tickets wait, as a place
   * that is free is a read not begun. But early reads alone must not hold up late tickets that may come.
   */
  #completionsWorthWaking(inFlight: number): number {
    if (this.#earlyCount === inFlight) return 1;
    return Math.max(1, inFlight >> (this.#freeCount === 0 ? 3 : 2));
  }

  /**
   * Queues reads for the tickets that wait, as far as there are places. A quarter of the depth begins while the next is being
   * queued: one call for all would keep the disk waiting, one for each costs more than it gains (bench/readers.ts).
   */
  #queue(): void {
    const { depth } = this.#options, seat = this.#seat;
    const batch = Math.max(1, depth >> 2);
    let now = -1, queued = 0;
    while (this.#freeCount > 0) {
      const place = this.#free[this.#freeCount - 1], ticket = this.#tickets[place];
      if (!seat.take(ticket, this.#earlyCount < depth - (depth >> 2))) return;
      this.#freeCount--;
      if (ticket.isEarly) this.#earlyCount++;
      if (now < 0) now = seat.clock();
      seat.begin(ticket, now);
      const read = this.#read;
      read.byteOffset = ticket.byteOffset;
      read.byteLength = ticket.byteLength;
      read.arena = ticket.arena;
      read.address = this.#addressOf(ticket, place);
      if (queued++ === batch) {
        this.#ring.submit();
        queued = 1;
      }
      this.#ring.queueRead(read, place);
    }
  }

  /** Lands the reads that are done; returns how many. */
  #reap(): number {
    const ring = this.#ring;
    let count = 0, now = 0;
    for (let place = ring.next(); place >= 0; place = ring.next()) {
      if (count++ === 0) now = this.#seat.clock();
      this.#finish(place, ring.result, now);
    }
    if (count > 0) this.#seat.announce(count);
    return count;
  }

  #finish(place: number, result: number, now: number): void {
    const { disk } = this.#options;
    const ticket = this.#tickets[place], address = this.#addressOf(ticket, place);
    if (result < ticket.byteLength) {
      // Short or failed: the plain way reads the rest, or throws with file and offset.
      const done = Math.max(0, result);
      const bytes = this.#seat.arenas[ticket.arena];
      const rest = bytes.subarray(address + done, address + ticket.byteLength);
      readFully(this.#disk, disk.path, rest, ticket.byteOffset + done);
    }
    if (ticket.isEarly) this.#earlyCount--;
    this.#free[this.#freeCount++] = place;
    this.#seat.finish(ticket, address, now);
  }

  /** Where a ticket's read goes: to its slot, or to the bounce buffer of its place. */
  #addressOf({ arena, target }: Ticket, place: number): number {
    if (target !== 0) return target;
    const { addresses, byteLength } = this.#options.bounce;
    return addresses[arena] + place * byteLength;
  }

  /** Slices, not the clock: a process that was stopped for a minute (Ctrl-Z) has not waited for a minute. */
  #countSlice(inFlight: number): void {
    this.#waitedMs += SLICE_MS;
    if (this.#waitedMs <= this.#seat.waitMsMax) return;
    throw new WaitTimeoutError(
      `Waited ${this.#waitedMs} ms for ${inFlight} reads of ${this.#options.disk.path}`,
    );
  }
}

/** Whether io_uring can be used here: tries it. Never asks the user for a permission. */
export function canUseUring(): boolean {
  const libc = openLinuxLibc();
  if (!libc) return false;
  try {
    const memories = [new Uint8Array(new WebAssembly.Memory({ initial: 1 }).buffer)];
    new IoUring(libc, { depth: 2, descriptor: 0, memories, waitMs: SLICE_MS }).close();
    return true;
  } catch {
    return false;
  }
}
