import type { InlineReader } from "../cache/read_plan.ts";
import { emptyTicket, PART_WORDS, readTicket } from "../flash/ticket.ts";
import type { Control } from "../pipeline/control.ts";
import type { Ring } from "../pipeline/ring.ts";
import type { Sequence } from "../pipeline/sequence.ts";

/**
 * A reader that reads nothing: it counts tickets and raises their flags. It stands for the lanes too, which are done with
 * every pass that was published by the time its reads have landed.
 */
export class SimulatedReader implements InlineReader {
  readonly #words: Int32Array;
  readonly #flagBase: number;
  readonly #rings: Ring[];
  readonly #landed: Sequence;
  readonly #readerDone: Sequence;
  readonly #passPublished: Sequence;
  readonly #passDone: Sequence[];
  readonly #ticket = emptyTicket();
  readonly #onRead?: (byteOffset: number, byteLength: number) => void;
  reads = 0;
  bytes = 0;

  /** @param onRead gets each read, in order */
  constructor(control: Control, onRead?: (byteOffset: number, byteLength: number) => void) {
    this.#onRead = onRead;
    const { layout } = control;
    this.#words = control.words;
    this.#flagBase = layout.flags;
    this.#rings = [
      ...layout.lateRings.map((_, i) => control.ticketRing(i, "late")),
      ...layout.earlyRings.map((_, i) => control.ticketRing(i, "early")),
    ];
    this.#landed = control.sequence("landed");
    this.#readerDone = control.sequenceAt(layout.readerDone[0]);
    this.#passPublished = control.sequence("passPublished");
    this.#passDone = layout.passDone.map((at) => control.sequenceAt(at));
  }

  /** Nothing lands yet: what an early look began may not be evicted before the late look. */
  submit(): void {}

  poll(): void {}

  pump(): boolean {
    return false;
  }

  drain(): void {
    for (const ring of this.#rings) {
      for (let at; (at = ring.peek()) >= 0; ring.release()) this.#land(at);
    }
    const published = this.#passPublished.value;
    for (const done of this.#passDone) done.advance((published - done.value) | 0);
  }

  turn(): boolean {
    this.drain();
    return false;
  }

  #land(at: number): void {
    const ticket = this.#ticket;
    readTicket(this.#words, at, ticket);
    this.reads++;
    this.bytes += ticket.byteLength;
    this.#onRead?.(ticket.byteOffset, ticket.byteLength);
    if (ticket.target !== 0) this.#raise(ticket.flag);
    else {
      for (let part = 0; part < ticket.partCount; part++) {
        this.#raise(ticket.parts[part * PART_WORDS + 3]);
      }
    }
    this.#landed.advance();
    this.#readerDone.advance();
  }

  #raise(flag: number): void {
    Atomics.store(this.#words, this.#flagBase + flag, 1);
  }
}
