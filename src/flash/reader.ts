import { openDisk, readFully } from "./disk.ts";
import type { DiskOptions, FlashDisk } from "./disk.ts";
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
} from "./ticket.ts";
import { Control } from "../pipeline/control.ts";
import type { ControlShare } from "../pipeline/control.ts";
import { LandingCounter } from "../pipeline/landing.ts";
import type { Ring } from "../pipeline/ring.ts";
import { checkRunning } from "../pipeline/sequence.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import { READER } from "../pipeline/statistics.ts";
import { sharedClock, Trace } from "../pipeline/trace.ts";
import type { Clock } from "../pipeline/trace.ts";

/** What a reader worker is started with. */
export interface ReaderOptions {
  readerIndex: number;
  control: ControlShare;
  arena: WebAssembly.Memory;
  disk: DiskOptions;
  /** The reader's own bounce buffer in the arena, for merged reads. */
  bounce: { address: number; byteLength: number };
  trace?: SharedArrayBuffer;
  timeOrigin: number;
}

/**
 * A flash reader: takes tickets, reads, raises landing flags. It has no policy but one: late tickets
 * overtake early ones. Portable backend: one `pread` in flight a reader, so there are many readers.
 */
export class Reader {
  readonly #control: Control;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #options: ReaderOptions;
  readonly #disk: FlashDisk;
  readonly #late: Ring;
  readonly #early: Ring;
  readonly #doorbell: Sequence;
  readonly #done: Sequence;
  readonly #landings: LandingCounter;
  readonly #statistics: Float64Array;
  readonly #clock: Clock;
  readonly #trace?: Trace;

  constructor(options: ReaderOptions) {
    const control = new Control(options.control);
    const { layout, shape } = control;
    const index = options.readerIndex;
    this.#options = options;
    this.#control = control;
    this.#words = control.words;
    this.#bytes = new Uint8Array(options.arena.buffer);
    this.#late = control.ring(layout.lateRings[index], LATE_RING);
    this.#early = control.ring(layout.earlyRings[index], EARLY_RING);
    this.#doorbell = control.sequenceAt(layout.readerDoorbell[index]);
    this.#done = control.sequenceAt(layout.readerDone[index]);
    this.#landings = new LandingCounter(control);
    this.#statistics = control.statistics(shape.laneCount + 1 + index);
    this.#clock = sharedClock(options.timeOrigin);
    if (options.trace) this.#trace = new Trace(new Float64Array(options.trace));
    this.#disk = openDisk(options.disk);
  }

  /** Reads until the pipeline closes (then `PipelineStoppedError`) or the disk fails (`FlashReadError`). */
  run(): void {
    try {
      for (;;) {
        const rung = this.#doorbell.value;
        while (this.#serve(this.#late) || this.#serve(this.#early)) checkRunning(this.#words);
        this.#doorbell.waitIdle((rung + 1) | 0);
      }
    } finally {
      this.#disk.close();
    }
  }

  /** Does the oldest ticket of a ring; false if there is none. */
  #serve(ring: Ring): boolean {
    const at = ring.peek();
    if (at < 0) return false;
    const words = this.#words;
    const low = words[at + TICKET_OFFSET_LOW] >>> 0;
    const byteOffset = words[at + TICKET_OFFSET_HIGH] * 4294967296 + low;
    const byteLength = words[at + TICKET_BYTE_LENGTH];
    const target = words[at + TICKET_TARGET] >>> 0;
    const address = target === 0 ? this.#options.bounce.address : target;
    const began = this.#clock();
    this.#enterFlash(began);
    const view = this.#bytes.subarray(address, address + byteLength);
    readFully(this.#disk, this.#options.disk.path, view, byteOffset);
    const ended = this.#clock();
    this.#leaveFlash(ended);
    this.#trace?.span("read", began, ended, byteLength);
    const statistics = this.#statistics;
    statistics[READER.reads]++;
    statistics[READER.bytes] += byteLength;
    statistics[READER.busyMs] += ended - began;
    if (target === 0) this.#scatter(at, address);
    else this.#land(words[at + TICKET_FLAG]);
    ring.release();
    this.#done.advance();
    this.#landings.announce();
    return true;
  }

  /** The first read in flight notes when flash became busy ... */
  #enterFlash(nowMs: number): void {
    const inFlight = this.#control.layout.inFlight;
    if (Atomics.add(this.#words, inFlight, 1) === 0) {
      Atomics.store(this.#words, inFlight + 1, Math.round(nowMs * 1000));
    }
  }

  /** ... and the last one adds how long it was (a read that begins just now may cut a few us off). */
  #leaveFlash(nowMs: number): void {
    const inFlight = this.#control.layout.inFlight;
    const beganUs = Atomics.load(this.#words, inFlight + 1);
    if (Atomics.sub(this.#words, inFlight, 1) !== 1) return;
    const busyUs = (Math.round(nowMs * 1000) - beganUs) | 0;
    if (busyUs > 0) this.#statistics[READER.flashMs] += busyUs / 1000;
  }

  /** Copies the parts of a merged read to their slots. */
  #scatter(at: number, bounce: number): void {
    const words = this.#words;
    const count = words[at + TICKET_PART_COUNT];
    for (let part = 0; part < count; part++) {
      const from = at + TICKET_PARTS + part * PART_WORDS;
      const source = bounce + words[from], byteLength = words[from + 1];
      this.#bytes.copyWithin(words[from + 2] >>> 0, source, source + byteLength);
      this.#land(words[from + 3]);
    }
  }

  /** After this the slot's bytes may be used by whoever sees the flag. */
  #land(flag: number): void {
    Atomics.store(this.#words, this.#control.layout.flags + flag, 1);
  }
}
