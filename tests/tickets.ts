import { emptyTicket, PART_WORDS, readTicket } from "../src/flash/ticket.ts";
import type { Control } from "../src/pipeline/control.ts";

/** A ticket in plain words. */
export interface Ticket {
  reader: number;
  byteOffset: number;
  byteLength: number;
  /** Where a single record goes; 0 if the read goes to a bounce buffer. */
  target: number;
  pieceCount: number;
  parts: { offset: number; byteLength: number; target: number; flag: number }[];
}

/** Takes all tickets of one priority out of the readers' rings, in the place of the readers. */
export function takeTickets(control: Control, priority: "late" | "early"): Ticket[] {
  return control.layout.lateRings.flatMap((_, reader) => {
    const ring = control.ticketRing(reader, priority);
    const tickets: Ticket[] = [];
    for (let at; (at = ring.peek()) >= 0;) {
      tickets.push(plainTicket(control.words, at, reader));
      ring.release();
      control.sequenceAt(control.layout.readerDone[reader]).advance();
      control.sequence("landed").advance();
    }
    return tickets;
  });
}

function plainTicket(words: Int32Array, at: number, reader: number): Ticket {
  const ticket = emptyTicket();
  readTicket(words, at, ticket);
  const { byteOffset, byteLength, target, pieceCount, flag } = ticket;
  const parts = target !== 0
    ? [{ offset: 0, byteLength, target, flag }]
    : Array.from({ length: ticket.partCount }, (_, part) => {
      const from = part * PART_WORDS;
      const [offset, byteLength, target, flag] = ticket.parts.subarray(from, from + PART_WORDS);
      return { offset, byteLength, target: target >>> 0, flag };
    });
  return { reader, byteOffset, byteLength, target, pieceCount, parts };
}
