import {
  PART_WORDS,
  TICKET_ARENA,
  TICKET_BYTE_LENGTH,
  TICKET_FLAG,
  TICKET_OFFSET_HIGH,
  TICKET_OFFSET_LOW,
  TICKET_PART_COUNT,
  TICKET_PARTS,
  TICKET_PARTS_MAX,
  TICKET_PIECE_COUNT,
  TICKET_TARGET,
} from "../flash/ticket.ts";
import type { Control } from "../pipeline/control.ts";
import type { Ring } from "../pipeline/ring.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import type { Clock } from "../pipeline/trace.ts";

/** What the read plan may do. */
export interface ReadPlanOptions {
  blockByteLength: number;
  /** Reads whose gap is at most this are merged: reading over it is cheaper than another read. Bytes. */
  gapBytesMax: number;
  /** The longest merged read, in bytes: the size of a reader's bounce buffer. */
  mergedBytesMax: number;
}

/** A reader in the predictor's own thread, which is not woken but called. */
export interface InlineReader {
  /** Begins the reads of all tickets that find a place; waits for none. */
  submit(): void;
  /** Begins what finds a place, and lands what is done; waits for nothing. */
  poll(): void;
  /** Begins what finds a place, and lands some reads, waiting for them; false if none is in flight. */
  pump(): boolean;
  /** Does all tickets, and waits until the last read has landed. */
  drain(): void;
  /** Waits until some of the reads in flight have landed, and begins others. False if none is in flight. */
  turn(): boolean;
}

/**
 * Makes tickets of wanted records and hands them to readers: neighbours merged, each ticket to the reader with the least
 * in hand. Late tickets always find a place in the end; early ones only while there is room, so their number in flight is bounded.
 * Records are added in ascending file order; `finish` hands out the last one, `ring` rings the doorbells.
 */
export class ReadPlan {
  readonly #words: Int32Array;
  readonly #inline?: InlineReader;
  readonly #clock: Clock;
  readonly #options: ReadPlanOptions;
  readonly #lateRings: Ring[];
  readonly #earlyRings: Ring[];
  readonly #earlyCapacity: number;
  readonly #doorbells: Sequence[];
  readonly #done: Sequence[];
  readonly #landed: Sequence;
  /** Tickets ever handed out: what `landed` will be when all have landed. */
  ticketCount = 0;
  /** Time in which tickets were handed over: readers woken, or reads of this thread begun and landed without waiting. */
  submitMs = 0;
  /** Time in which this thread read, or waited for a reader, and did nothing else. */
  settleMs = 0;
  /** Tickets ever given to each reader. */
  readonly #issued: Int32Array;
  readonly #rung: Uint8Array;
  #isEarly = false;
  #arena = 0;
  /** The ticket being put together: covering blocks, and its parts (absolute record offset, length, target, flag). */
  #begin = 0;
  #end = 0;
  #partCount = 0;
  /** Tickets in which the record comes, if it is more than one. */
  #pieceCount = 0;
  readonly #parts = new Float64Array(TICKET_PARTS_MAX * PART_WORDS);
  /** What is added as a piece: reused, so that a read allocates nothing. */
  readonly #piece = { byteOffset: 0, byteLength: 0 };
  /** Where a single record's covering blocks go. */
  #slotAddress = 0;

  /** @param inline the only reader, if it is not a worker of its own */
  constructor(
    control: Control,
    options: ReadPlanOptions,
    inline?: InlineReader,
    clock: Clock = () => performance.now(),
  ) {
    const { layout, shape } = control;
    this.#clock = clock;
    this.#words = control.words;
    this.#inline = inline;
    this.#options = options;
    this.#lateRings = layout.lateRings.map((_, i) => control.ticketRing(i, "late"));
    this.#earlyRings = layout.earlyRings.map((_, i) => control.ticketRing(i, "early"));
    this.#earlyCapacity = layout.tickets.early;
    this.#doorbells = layout.readerDoorbell.map((at) => control.sequenceAt(at));
    this.#done = layout.readerDone.map((at) => control.sequenceAt(at));
    this.#landed = control.sequence("landed");
    this.#issued = new Int32Array(shape.readerCount);
    this.#rung = new Uint8Array(shape.readerCount);
  }

  /** Begins a batch of late or early reads to arena `arena`. */
  begin(priority: "late" | "early", arena: number): void {
    this.#isEarly = priority === "early";
    this.#arena = arena;
    this.#partCount = 0;
  }

  /** Early tickets that there is room for now. */
  get earlyRoom(): number {
    let room = 0;
    for (const ring of this.#earlyRings) room += this.#earlyCapacity - ring.length;
    return room;
  }

  /**
   * Adds a record. `slotAddress` is where its first covering block would go if read alone (block-aligned); within
   * it the record lies at its offset in the block.
   */
  add(record: { byteOffset: number; byteLength: number }, slotAddress: number, flag: number): void {
    const { blockByteLength, gapBytesMax, mergedBytesMax } = this.#options;
    const begin = Math.floor(record.byteOffset / blockByteLength) * blockByteLength;
    const end = Math.ceil((record.byteOffset + record.byteLength) / blockByteLength) *
      blockByteLength;
    const joins = this.#partCount > 0 && this.#partCount < TICKET_PARTS_MAX &&
      begin >= this.#begin && begin - this.#end <= gapBytesMax &&
      end - this.#begin <= mergedBytesMax;
    if (!joins) {
      this.#push();
      this.#begin = begin;
      this.#slotAddress = slotAddress;
    }
    this.#end = end;
    const part = this.#partCount++ * PART_WORDS;
    this.#parts[part] = record.byteOffset;
    this.#parts[part + 1] = record.byteLength;
    this.#parts[part + 2] = slotAddress + (record.byteOffset - begin);
    this.#parts[part + 3] = flag;
  }

  /**
   * Adds a record that comes in equal pieces, each a read that is merged with no other, as if they lay apart. The flag is raised
   * when all have landed. A block that two need is read twice, to the same place.
   */
  addPieces(
    { byteOffset, byteLength }: { byteOffset: number; byteLength: number },
    slotAddress: number,
    flag: number,
    pieceCount: number,
  ): void {
    const { blockByteLength } = this.#options, piece = this.#piece;
    const begin = Math.floor(byteOffset / blockByteLength) * blockByteLength;
    piece.byteLength = byteLength / pieceCount;
    piece.byteOffset = byteOffset;
    for (let index = 0; index < pieceCount; index++, piece.byteOffset += piece.byteLength) {
      this.#push();
      const from = Math.floor(piece.byteOffset / blockByteLength) * blockByteLength;
      this.add(piece, slotAddress + from - begin, flag);
      this.#pieceCount = pieceCount;
      this.#push();
    }
  }

  /** Hands out what is left. Readers that sleep are not woken yet: see `ring`. */
  finish(): void {
    this.#push();
  }

  /** Wakes the readers that got something. Takes some microseconds a sleeper, so lanes get their list first. */
  ring(): void {
    const began = this.#clock();
    if (this.#inline) this.#inline.submit();
    else this.#ringBells();
    this.submitMs += this.#clock() - began;
  }

  #ringBells(): void {
    for (let reader = 0; reader < this.#rung.length; reader++) {
      if (this.#rung[reader] === 0) continue;
      this.#rung[reader] = 0;
      this.#doorbells[reader].advance();
    }
  }

  /** With a reader in this thread: keeps it busy while something else is waited for. False if it has nothing to do. */
  pump(): boolean {
    if (this.#inline === undefined) return false;
    const began = this.#clock();
    const isReading = this.#inline.pump();
    this.settleMs += this.#clock() - began;
    return isReading;
  }

  /** With a reader in this thread: keeps it busy in the middle of something else. */
  poll(): void {
    if (this.#inline === undefined) return;
    const began = this.#clock();
    this.#inline.poll();
    this.submitMs += this.#clock() - began;
  }

  /** With a reader in this thread: waits until all reads have landed, and says true. Workers read by themselves: false. */
  settle(): boolean {
    if (this.#inline === undefined) return false;
    const began = this.#clock();
    this.#inline.drain();
    this.settleMs += this.#clock() - began;
    return true;
  }

  /** Tickets handed out that have not landed. */
  get underWay(): number {
    return (this.ticketCount - this.#landed.value) | 0;
  }

  /** Waits until another ticket has landed; returns at once if none is under way. For loops that look for what they want. */
  awaitLanding(): void {
    const landed = this.#landed.value;
    if (this.#inline?.turn() || this.underWay === 0) return;
    this.#landed.waitFor((landed + 1) | 0, "a read to land");
  }

  #push(): void {
    if (this.#partCount === 0) return;
    const rings = this.#isEarly ? this.#earlyRings : this.#lateRings;
    const reader = this.#reserveReader(rings);
    const at = rings[reader].reserve();
    this.#write(at);
    rings[reader].publish();
    this.#issued[reader]++;
    this.ticketCount = (this.ticketCount + 1) | 0;
    this.#rung[reader] = 1;
    this.#partCount = 0;
    this.#pieceCount = 0;
  }

  /** The reader with the least in hand whose ring has room; waits for one if there is none. */
  #reserveReader(rings: Ring[]): number {
    for (;;) {
      const landed = this.#landed.value;
      let best = -1, least = Infinity;
      for (let reader = 0; reader < rings.length; reader++) {
        const inHand = (this.#issued[reader] - this.#done[reader].value) | 0;
        if (inHand < least && rings[reader].reserve() >= 0) {
          best = reader;
          least = inHand;
        }
      }
      if (best >= 0) return best;
      if (this.settle()) continue;
      this.ring();
      const began = this.#clock();
      this.#landed.waitFor((landed + 1) | 0, "a reader to have room for a ticket");
      this.settleMs += this.#clock() - began;
    }
  }

  #write(at: number): void {
    const words = this.#words, parts = this.#parts, count = this.#partCount;
    words[at + TICKET_OFFSET_LOW] = this.#begin;
    words[at + TICKET_OFFSET_HIGH] = Math.floor(this.#begin / 4294967296);
    words[at + TICKET_BYTE_LENGTH] = this.#end - this.#begin;
    words[at + TICKET_PART_COUNT] = count;
    words[at + TICKET_ARENA] = this.#arena;
    words[at + TICKET_PIECE_COUNT] = this.#pieceCount;
    if (count === 1) {
      words[at + TICKET_TARGET] = this.#slotAddress;
      words[at + TICKET_FLAG] = parts[3];
      return;
    }
    words[at + TICKET_TARGET] = 0;
    for (let part = 0; part < count; part++) {
      const from = part * PART_WORDS, to = at + TICKET_PARTS + from;
      words[to] = parts[from] - this.#begin;
      words[to + 1] = parts[from + 1];
      words[to + 2] = parts[from + 2];
      words[to + 3] = parts[from + 3];
    }
  }
}
