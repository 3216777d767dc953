import {
  EARLY_RING,
  LATE_RING,
  PART_WORDS,
  TICKET_BYTE_LENGTH,
  TICKET_FLAG,
  TICKET_OFFSET_HIGH,
  TICKET_OFFSET_LOW,
  TICKET_PART_COUNT,
  TICKET_PARTS,
  TICKET_TARGET,
} from "../src/flash/ticket.ts";
import type { Control } from "../src/pipeline/control.ts";

/** A ticket in plain words. */
export interface Ticket {
  reader: number;
  byteOffset: number;
  byteLength: number;
  /** Where a single record goes; 0 if the read goes to a bounce buffer. */
  target: number;
  parts: { offset: number; byteLength: number; target: number; flag: number }[];
}

/** Takes all tickets of one priority out of the readers' rings, in the place of the readers. */
export function takeTickets(control: Control, priority: "late" | "early"): Ticket[] {
  const { lateRings, earlyRings } = control.layout;
  const rings = priority === "late" ? lateRings : earlyRings;
  const shape = priority === "late" ? LATE_RING : EARLY_RING;
  return rings.flatMap((index, reader) => {
    const ring = control.ring(index, shape);
    const tickets: Ticket[] = [];
    for (let at; (at = ring.peek()) >= 0;) {
      tickets.push(readTicket(control.words, at, reader));
      ring.release();
      control.sequenceAt(control.layout.readerDone[reader]).advance();
      control.sequence("landed").advance();
    }
    return tickets;
  });
}

function readTicket(words: Int32Array, at: number, reader: number): Ticket {
  const low = words[at + TICKET_OFFSET_LOW] >>> 0;
  const target = words[at + TICKET_TARGET] >>> 0;
  const byteLength = words[at + TICKET_BYTE_LENGTH];
  const count = words[at + TICKET_PART_COUNT];
  const parts = target !== 0
    ? [{ offset: 0, byteLength, target, flag: words[at + TICKET_FLAG] }]
    : Array.from({ length: count }, (_, part) => {
      const from = at + TICKET_PARTS + part * PART_WORDS;
      const [offset, byteLength, target, flag] = words.subarray(from, from + PART_WORDS);
      return { offset, byteLength, target: target >>> 0, flag };
    });
  const byteOffset = words[at + TICKET_OFFSET_HIGH] * 2 ** 32 + low;
  return { reader, byteOffset, byteLength, target, parts };
}
