/**
 * A ticket is one read to do, as a record of 64 words in a reader's ring. The predictor writes it, one
 * reader reads it. A ticket carries no data and no policy.
 *
 *   word 0, 1   byteOffset in the file, low and high 32 bits
 *        2      byteLength (whole blocks)
 *        3      target: address in the arena, or 0: read to the reader's bounce buffer, then scatter
 *        4      flag: index of the landing flag to raise (when target is not 0)
 *        5      number of parts (when target is 0)
 *        6      arena that target and parts lie in
 *        7      tickets in which the record comes, if it is more than one, else 0: the last to land raises the flag
 *        8..63  parts, 4 words each: { byte offset within the read, byteLength, target, flag }
 *
 * Parts are how a merged read of neighbours reaches slots that do not lie side by side.
 */
import type { RingShape } from "../pipeline/ring.ts";

export const TICKET_OFFSET_LOW = 0;
export const TICKET_OFFSET_HIGH = 1;
export const TICKET_BYTE_LENGTH = 2;
export const TICKET_TARGET = 3;
export const TICKET_FLAG = 4;
export const TICKET_PART_COUNT = 5;
export const TICKET_ARENA = 6;
export const TICKET_PIECE_COUNT = 7;
export const TICKET_PARTS = 8;
export const PART_WORDS = 4;

/** Most neurons that one merged read may serve. */
export const TICKET_PARTS_MAX = 14;

const TICKET_WORDS = TICKET_PARTS + TICKET_PARTS_MAX * PART_WORDS;

/** Tickets that a reader's rings hold, powers of two. */
export interface TicketCapacity {
  /** Late misses: enough for a list to be handed out at once, so that lanes get it without waiting for reads. */
  late: number;
  /** Early reads are bounded by the size of their ring; what does not fit is dropped. */
  early: number;
}

/** What models of a thousand neurons a layer do best with (bench/tokens.ts). */
const FEW: TicketCapacity = { late: 32, early: 8 };
const LATE_MAX = 2048, NEURONS_FEW = 2048;

/** What rings of a model with so many neurons a layer hold, one of `readerCount` readers'. */
export function ticketCapacity(neuronCount: number, readerCount: number): TicketCapacity {
  if (neuronCount <= NEURONS_FEW) return FEW;
  // A sixteenth of a layer is read for a token at most, unless the cache is very small.
  const share = neuronCount / 16 / readerCount;
  const late = Math.min(LATE_MAX, Math.max(FEW.late, 2 ** Math.ceil(Math.log2(share))));
  return { late, early: late / 2 };
}

/** The ring of so many tickets. */
export function ticketRing(capacity: number): RingShape {
  return { capacity, recordWords: TICKET_WORDS };
}

/** A ticket taken out of its ring; reused, so that a read allocates nothing. */
export interface Ticket {
  isEarly: boolean;
  byteOffset: number;
  byteLength: number;
  /** Index of the arena that it goes to. */
  arena: number;
  /** Where the read goes; 0: to a bounce buffer, then to its parts. */
  target: number;
  flag: number;
  /** Tickets in which the record comes; 0: just this one. */
  pieceCount: number;
  partCount: number;
  parts: Int32Array;
  beganMs: number;
}

/** A ticket to be filled by `readTicket`. */
export function emptyTicket(): Ticket {
  return {
    isEarly: false,
    byteOffset: 0,
    byteLength: 0,
    arena: 0,
    target: 0,
    flag: 0,
    pieceCount: 0,
    partCount: 0,
    parts: new Int32Array(TICKET_PARTS_MAX * PART_WORDS),
    beganMs: 0,
  };
}

/** Reads the ticket at word `at` of its ring into `ticket`; `isEarly` and `beganMs` are for the reader to set. */
export function readTicket(words: Int32Array, at: number, ticket: Ticket): void {
  ticket.byteOffset = words[at + TICKET_OFFSET_HIGH] * 4294967296 +
    (words[at + TICKET_OFFSET_LOW] >>> 0);
  ticket.byteLength = words[at + TICKET_BYTE_LENGTH];
  ticket.arena = words[at + TICKET_ARENA];
  ticket.target = words[at + TICKET_TARGET] >>> 0;
  ticket.flag = words[at + TICKET_FLAG];
  ticket.pieceCount = words[at + TICKET_PIECE_COUNT];
  ticket.partCount = words[at + TICKET_PART_COUNT];
  if (ticket.target !== 0) return;
  const from = at + TICKET_PARTS;
  for (let word = 0; word < ticket.partCount * PART_WORDS; word++) {
    ticket.parts[word] = words[from + word];
  }
}
