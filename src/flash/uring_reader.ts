import fs from "node:fs";
import { openDisk, readFully } from "./disk.ts";
import type { FlashDisk } from "./disk.ts";
import { IoUring, IoUringRefusedError } from "./io_uring.ts";
import { openLibc } from "./libc.ts";
import type { Libc } from "./libc.ts";
import type { Reader, ReaderOptions } from "./reader.ts";
import { ReaderSeat } from "./reader_seat.ts";
import { emptyTicket } from "./ticket.ts";

/**
 * Many reads in flight in one worker. Early reads take at most half of the places, so that late
 * ones always find one.
 */
export class UringReader implements Reader {
  readonly #seat: ReaderSeat;
  readonly #options: ReaderOptions;
  readonly #libc: Libc;
  readonly #ring: IoUring;
  /** The kernel's own number of the open file. */
  readonly #descriptor: number;
  /** The arena's address in the process. */
  readonly #arenaAddress: number;
  /** For what is left of a short read, and to say what is wrong with a failed one. */
  readonly #disk: FlashDisk;
  readonly #tickets;
  /** Places that are free: a stack. */
  readonly #free: number[];
  #earlyCount = 0;
  readonly #reap = (place: number, result: number) => this.#finish(place, result);

  constructor(options: ReaderOptions) {
    const libc = openLibc();
    if (!libc) throw new IoUringRefusedError("no FFI here");
    this.#seat = new ReaderSeat(options);
    this.#options = options;
    this.#libc = libc;
    this.#ring = new IoUring(libc, options.depth);
    this.#disk = openDisk(options.disk);
    const { path, direct } = options.disk;
    const flags = fs.constants.O_RDONLY | (direct ? fs.constants.O_DIRECT : 0);
    this.#descriptor = libc.open(path, flags);
    if (this.#descriptor < 0) throw new IoUringRefusedError(`cannot open ${path}`);
    this.#arenaAddress = libc.addressOf(this.#seat.bytes);
    this.#tickets = Array.from({ length: options.depth }, emptyTicket);
    this.#free = Array.from({ length: options.depth }, (_, place) => place);
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
    const before = this.#free.length;
    while (this.#begin());
    if (this.#free.length < before) this.#ring.enter(0);
  }

  /** Does all tickets, and waits until the last read has landed. */
  drain(): void {
    for (;;) {
      while (this.#begin());
      const inFlight = this.#options.depth - this.#free.length;
      if (inFlight === 0) return;
      this.#ring.enter(this.#completionsWorthWaking(inFlight));
      this.#ring.reap(this.#reap);
      this.#seat.checkRunning();
    }
  }

  close(): void {
    this.#ring.close();
    this.#libc.close(this.#descriptor);
    this.#disk.close();
  }

  /**
   * A quarter at a time, so that a list of many misses does not wake this thread for each. But where more tickets wait, a
   * place that is free is a read not begun; and early reads alone must not hold up late tickets that may come.
   */
  #completionsWorthWaking(inFlight: number): number {
    if (this.#free.length === 0 || this.#earlyCount === inFlight) return 1;
    return Math.max(1, inFlight >> 2);
  }

  /** Queues the next ticket's read; false if there is no ticket or no place. */
  #begin(): boolean {
    const { depth, bounce } = this.#options;
    if (this.#free.length === 0) return false;
    const place = this.#free[this.#free.length - 1], ticket = this.#tickets[place];
    if (!this.#seat.take(ticket, this.#earlyCount < depth >> 1)) return false;
    this.#free.pop();
    if (ticket.isEarly) this.#earlyCount++;
    this.#seat.begin(ticket);
    this.#ring.queueRead({
      descriptor: this.#descriptor,
      byteOffset: ticket.byteOffset,
      byteLength: ticket.byteLength,
      address: this.#arenaAddress +
        (ticket.target === 0 ? bounce.address + place * bounce.byteLength : ticket.target),
    }, place);
    return true;
  }

  #finish(place: number, result: number): void {
    const { bounce, disk } = this.#options;
    const ticket = this.#tickets[place];
    const address = ticket.target === 0
      ? bounce.address + place * bounce.byteLength
      : ticket.target;
    if (result < ticket.byteLength) {
      // Short or failed: the plain way reads the rest, or throws with file and offset.
      const done = Math.max(0, result);
      const rest = this.#seat.bytes.subarray(address + done, address + ticket.byteLength);
      readFully(this.#disk, disk.path, rest, ticket.byteOffset + done);
    }
    if (ticket.isEarly) this.#earlyCount--;
    this.#free.push(place);
    this.#seat.finish(ticket, address);
  }
}

/** Whether io_uring can be used here: tries it. Never asks the user for a permission. */
export function canUseUring(): boolean {
  const libc = openLibc();
  if (!libc) return false;
  try {
    new IoUring(libc, 2).close();
    return true;
  } catch {
    return false;
  }
}
