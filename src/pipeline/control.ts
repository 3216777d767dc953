import { ticketCapacity, ticketRing } from "../flash/ticket.ts";
import type { TicketCapacity } from "../flash/ticket.ts";
import { Ring, ringWordLength } from "./ring.ts";
import type { RingShape } from "./ring.ts";
import {
  CLOSING_WORD,
  FAULT_WORD,
  LANDED_WORD,
  LINE_WORDS,
  Sequence,
  stopEverybody,
} from "./sequence.ts";
import type { WaitStyle } from "./sequence.ts";

/**
 * The control memory: every word that threads share to agree on what to do, in one SharedArrayBuffer. No
 * weight passes through it.
 *
 *   | fault | closing | landed | sequences, a line each | rings | pass descriptors | step | landing flags | statistics |
 *
 * Who writes what:
 *   - lane 0: layerReady, tokensOut, rowsProduced, step; all lanes: maskArrived, maskReady, passDone, barrier
 *   - predictor: passPublished, poolsReady, pass descriptors, ticket rings, landing flags (to 0), the layers' statistics
 *   - readers: inFlight, readerDone, landed, landing bells, landing flags (to 1)
 *   - main thread: requested, cancelled, rowsConsumed, fault and closing (as may anybody)
 */
export interface ControlShape {
  laneCount: number;
  readerCount: number;
  /** Layers that have statistics of their own; default 0. */
  layerCount?: number;
  /** Tickets that readers' rings hold; default: what a small model needs. */
  tickets?: TicketCapacity;
  /** Landing flags: one a slot, then one a staging chunk. */
  flagCount: number;
  /** Records may come in pieces. Default false. */
  hasPieces?: boolean;
}

/** Records main thread -> lane 0: a request to run (see `request.ts`). */
export const REQUEST_RING: RingShape = { capacity: 4, recordWords: 16 };

/**
 * Records lane 0 -> main thread: { token id, reason }. Few, as every token that lane 0 is ahead of a consumer is
 * computed in vain if that one leaves.
 */
export const TOKEN_RING: RingShape = { capacity: 16, recordWords: 2 };

/** Lists of neurons being computed or prepared at a time; a power of two. */
export const PASS_COUNT = 2;

/** Which of the `PASS_COUNT` lists is pass number `pass`; numbers may have wrapped at 2^32. */
export function passIndex(pass: number): number {
  return pass & (PASS_COUNT - 1);
}

/** Float64s of statistics that each thread owns. */
export const STATISTICS_FLOATS = 16;

/** Float64s of statistics of each layer; the predictor owns them. */
export const LAYER_FLOATS = 4;

/** The numbers as they grow, and as they were when the last request began, had its prompt done, and ended. */
const SNAPSHOT_NAMES = ["live", "begin", "prompt", "end"] as const;
export type Snapshot = (typeof SNAPSHOT_NAMES)[number];
const SNAPSHOTS = SNAPSHOT_NAMES.length;

function threadCountOf({ laneCount, readerCount }: ControlShape): number {
  return laneCount + 1 + readerCount;
}

/** Float64s of one snapshot of everybody's statistics: lanes, predictor, readers, then layers. */
function snapshotFloats(shape: ControlShape): number {
  return threadCountOf(shape) * STATISTICS_FLOATS + (shape.layerCount ?? 0) * LAYER_FLOATS;
}

const SEQUENCES = [
  "layerReady",
  "maskReady",
  "passPublished",
  "poolsReady",
  "stepStarted",
  "requested",
  "masksGiven",
  "tokensOut",
  "rowsProduced",
  "rowsConsumed",
  "tokensTaken",
] as const;
type SequenceName = "landed" | (typeof SEQUENCES)[number];

/** Word offsets of everything in the control memory; the same for all threads, derived from the shape. */
export interface ControlLayout {
  sequences: Record<SequenceName, number>;
  maskArrived: number;
  cancelled: number;
  /** Reads in flight, and since when (us) at least one has been. */
  inFlight: number;
  barrier: number;
  passDone: number[];
  readerDoorbell: number[];
  readerDone: number[];
  /** One of each lane; see `landing.ts`. */
  landingBells: number[];
  /** Words up to here belong to sequences: what `stop` wakes. */
  sequenceWords: number;
  requests: number;
  tokens: number;
  tickets: TicketCapacity;
  lateRings: number[];
  earlyRings: number[];
  passes: number;
  step: number;
  flags: number;
  /** Of each landing flag, if records may come in pieces: how many have landed. Readers count. */
  pieces: number;
  /** First word of the statistics (even): live, then the snapshots; in each lanes, predictor, readers, layers. */
  statistics: number;
  wordLength: number;
}

/** Lays the control memory out. */
export function layoutControl(shape: ControlShape): ControlLayout {
  let next = LANDED_WORD + LINE_WORDS;
  const take = (words: number): number => {
    const at = next;
    next += Math.ceil(words / LINE_WORDS) * LINE_WORDS;
    return at;
  };
  const each = (count: number, words: number) => Array.from({ length: count }, () => take(words));
  const sequences = Object.fromEntries([
    ["landed", LANDED_WORD],
    ...SEQUENCES.map((name) => [name, take(LINE_WORDS)]),
  ]) as Record<SequenceName, number>;
  const { laneCount, readerCount, flagCount, tickets = ticketCapacity(0, 1) } = shape;
  const layout = {
    sequences,
    maskArrived: take(LINE_WORDS),
    cancelled: take(LINE_WORDS),
    inFlight: take(LINE_WORDS),
    barrier: take(2 * LINE_WORDS),
    passDone: each(laneCount, LINE_WORDS),
    readerDoorbell: each(readerCount, LINE_WORDS),
    readerDone: each(readerCount, LINE_WORDS),
    landingBells: each(laneCount, LINE_WORDS),
    sequenceWords: next,
    requests: take(ringWordLength(REQUEST_RING)),
    tokens: take(ringWordLength(TOKEN_RING)),
    tickets,
    lateRings: each(readerCount, ringWordLength(ticketRing(tickets.late))),
    earlyRings: each(readerCount, ringWordLength(ticketRing(tickets.early))),
    passes: take(PASS_COUNT * LINE_WORDS),
    step: take(LINE_WORDS),
    flags: take(flagCount),
    pieces: take(shape.hasPieces ? flagCount : 0),
    statistics: take(SNAPSHOTS * snapshotFloats(shape) * 2),
  };
  return { ...layout, wordLength: next };
}

/** What a thread gets to join the control memory. */
export interface ControlShare {
  buffer: SharedArrayBuffer;
  shape: ControlShape;
  style: WaitStyle;
}

/** A thread's view of the control memory. */
export class Control {
  readonly words: Int32Array;
  readonly layout: ControlLayout;
  readonly shape: ControlShape;
  readonly style: WaitStyle;

  constructor({ buffer, shape, style }: ControlShare) {
    this.words = new Int32Array(buffer);
    this.layout = layoutControl(shape);
    this.shape = shape;
    this.style = style;
  }

  /** Makes the shared memory of a new pipeline. */
  static create(shape: ControlShape, style: WaitStyle): ControlShare {
    const { wordLength } = layoutControl(shape);
    return { buffer: new SharedArrayBuffer(4 * wordLength), shape, style };
  }

  sequence(name: SequenceName): Sequence {
    return new Sequence(this.words, this.layout.sequences[name], this.style);
  }

  sequenceAt(index: number): Sequence {
    return new Sequence(this.words, index, this.style);
  }

  ring(index: number, shape: RingShape): Ring {
    return new Ring(this.words, index, shape);
  }

  /** The ring of tickets that reader `reader` takes first, and that of early reads. */
  ticketRing(reader: number, priority: "late" | "early"): Ring {
    const { lateRings, earlyRings, tickets } = this.layout;
    const at = priority === "late" ? lateRings[reader] : earlyRings[reader];
    return this.ring(at, ticketRing(tickets[priority]));
  }

  /** Statistics of thread `thread` (lanes 0.., then the predictor, then the readers), live or as of a snapshot. */
  statistics(thread: number, snapshot: Snapshot = "live"): Float64Array {
    return this.#statistics(snapshot).subarray(
      thread * STATISTICS_FLOATS,
      (thread + 1) * STATISTICS_FLOATS,
    );
  }

  /** Statistics of layer `layer`, live or as of a snapshot. */
  layerStatistics(layer: number, snapshot: Snapshot = "live"): Float64Array {
    const at = this.threadCount * STATISTICS_FLOATS + layer * LAYER_FLOATS;
    return this.#statistics(snapshot).subarray(at, at + LAYER_FLOATS);
  }

  #statistics(snapshot: Snapshot): Float64Array {
    const floats = snapshotFloats(this.shape);
    const byteOffset = 4 * this.layout.statistics +
      SNAPSHOT_NAMES.indexOf(snapshot) * floats * 8;
    return new Float64Array(this.words.buffer, byteOffset, floats);
  }

  get threadCount(): number {
    return threadCountOf(this.shape);
  }

  /** Lane 0 copies everybody's live numbers at the borders of a request (others' may be a moment old). */
  takeSnapshot(snapshot: Snapshot): void {
    this.#statistics(snapshot).set(this.#statistics("live"));
  }

  /** Word offset of the descriptor of pass number `pass`. */
  passAt(pass: number): number {
    return this.layout.passes + passIndex(pass) * LINE_WORDS;
  }

  /** Reports a failure: everybody who waits stops. */
  fail(): void {
    stopEverybody(this.words, FAULT_WORD, this.layout.sequenceWords);
  }

  /** Asks all threads to end. */
  close(): void {
    stopEverybody(this.words, CLOSING_WORD, this.layout.sequenceWords);
  }
}
