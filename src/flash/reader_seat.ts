import { Control } from "../pipeline/control.ts";
import { LandingCounter } from "../pipeline/landing.ts";
import type { Ring } from "../pipeline/ring.ts";
import { checkRunning } from "../pipeline/sequence.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import { READER } from "../pipeline/statistics.ts";
import { sharedClock, Trace } from "../pipeline/trace.ts";
import type { Clock } from "../pipeline/trace.ts";
import type { ReaderOptions } from "./reader_options.ts";
import { PART_WORDS, readTicket } from "./ticket.ts";
import type { Ticket } from "./ticket.ts";

/**
 * A reader's place in the pipeline, whatever its backend: where tickets come from, and what is to be done when a read is done.
 */
export class ReaderSeat {
  /** All of each arena. */
  readonly arenas: Uint8Array[];
  readonly clock: Clock;
  readonly #control: Control;
  readonly #words: Int32Array;
  readonly #late: Ring;
  readonly #early: Ring;
  readonly #doorbell: Sequence;
  readonly #done: Sequence;
  readonly #landings: LandingCounter;
  readonly #statistics: Float64Array;
  readonly #trace?: Trace;
  #rung = 0;

  constructor(options: ReaderOptions) {
    const control = new Control(options.control);
    const { layout, shape } = control;
    const index = options.readerIndex;
    this.arenas = options.arenas.map(({ buffer }) => new Uint8Array(buffer));
    this.clock = sharedClock(options.timeOrigin);
    this.#control = control;
    this.#words = control.words;
    this.#late = control.ticketRing(index, "late");
    this.#early = control.ticketRing(index, "early");
    this.#doorbell = control.sequenceAt(layout.readerDoorbell[index]);
    this.#done = control.sequenceAt(layout.readerDone[index]);
    this.#landings = new LandingCounter(control);
    this.#statistics = control.statistics(shape.laneCount + 1 + index);
    if (options.trace) this.#trace = new Trace(new Float64Array(options.trace));
  }

  /** The bound of a wait in which no read lands, in ms. */
  get waitMsMax(): number {
    return this.#control.style.waitMsMax;
  }

  /** Notes how often the bell has rung, before looking into the rings: see `sleep`. */
  listen(): void {
    this.#rung = this.#doorbell.value;
  }

  /** Waits for a ring of the bell since `listen`. Throws `PipelineStoppedError` when the pipeline stops. */
  sleep(): void {
    this.#doorbell.waitIdle((this.#rung + 1) | 0);
  }

  /** Throws `PipelineStoppedError` if the pipeline has stopped. */
  checkRunning(): void {
    checkRunning(this.#words);
  }

  /**
   * Takes the oldest late ticket, or else the oldest early one, into `ticket`. A reader that has enough early reads in flight asks for
   * late ones only. False if there is none.
   */
  take(ticket: Ticket, isEarlyWelcome = true): boolean {
    return this.#takeFrom(this.#late, ticket, false) ||
      (isEarlyWelcome && this.#takeFrom(this.#early, ticket, true));
  }

  #takeFrom(ring: Ring, ticket: Ticket, isEarly: boolean): boolean {
    const at = ring.peek();
    if (at < 0) return false;
    readTicket(this.#words, at, ticket);
    ticket.isEarly = isEarly;
    ring.release();
    return true;
  }

  /** A read begins: the first one in flight notes when flash became busy ... */
  begin(ticket: Ticket, nowMs: number): void {
    ticket.beganMs = nowMs;
    const inFlight = this.#control.layout.inFlight;
    if (Atomics.add(this.#words, inFlight, 1) === 0) {
      Atomics.store(this.#words, inFlight + 1, Math.round(nowMs * 1000));
    }
  }

  /** ... and the last one adds how long it was (a read that begins just now may cut a few us off). */
  #end(nowMs: number): void {
    const inFlight = this.#control.layout.inFlight;
    const beganUs = Atomics.load(this.#words, inFlight + 1);
    if (Atomics.sub(this.#words, inFlight, 1) !== 1) return;
    const busyUs = (Math.round(nowMs * 1000) - beganUs) | 0;
    if (busyUs > 0) this.#statistics[READER.flashMs] += busyUs / 1000;
  }

  /** The bytes of a ticket are at `address` of its arena: brings them to their slots and raises its flags. `announce` wakes who waits. */
  finish(ticket: Ticket, address: number, nowMs: number): void {
    this.#end(nowMs);
    this.#trace?.span("read", ticket.beganMs, nowMs, ticket.byteLength);
    const statistics = this.#statistics;
    statistics[READER.reads]++;
    statistics[READER.bytes] += ticket.byteLength;
    statistics[READER.busyMs] += nowMs - ticket.beganMs;
    if (ticket.target === 0) {
      const began = this.clock();
      this.#scatter(ticket, address);
      statistics[READER.copyMs] += this.clock() - began;
    } else if (ticket.pieceCount === 0 || this.#isLastPiece(ticket)) this.#land(ticket.flag);
  }

  /** Counts the pieces of a record. The last begins the count anew: nothing else is read to that place before it has landed. */
  #isLastPiece({ flag, pieceCount }: Ticket): boolean {
    const at = this.#control.layout.pieces + flag;
    if (Atomics.add(this.#words, at, 1) + 1 < pieceCount) return false;
    Atomics.store(this.#words, at, 0);
    return true;
  }

  /** Tells everybody that `count` more tickets are finished. */
  announce(count: number): void {
    this.#done.advance(count);
    this.#landings.announce(count);
  }

  /** Copies the parts of a merged read to their slots. */
  #scatter({ arena, parts, partCount }: Ticket, bounce: number): void {
    const bytes = this.arenas[arena];
    for (let part = 0; part < partCount; part++) {
      const from = part * PART_WORDS;
      const source = bounce + parts[from], byteLength = parts[from + 1];
      bytes.copyWithin(parts[from + 2] >>> 0, source, source + byteLength);
      this.#land(parts[from + 3]);
    }
  }

  /** After this the slot's bytes may be used by whoever sees the flag. */
  #land(flag: number): void {
    Atomics.store(this.#words, this.#control.layout.flags + flag, 1);
  }
}
