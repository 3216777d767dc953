import fs from "node:fs";
import { writeFully } from "./write_whole.ts";

/** Bytes that are written at a time; long enough for any disk's full speed. */
const BLOCK_BYTES = 4 * 2 ** 20;
/** Direct writes begin and end at multiples of this, on the disk and in memory. */
const ALIGNMENT = 4096;

const { O_WRONLY, O_DIRECT } = fs.constants as { O_WRONLY: number; O_DIRECT?: number };

/** Where pieces of a file go; several may write to different parts of it. */
export interface PieceWriter {
  /** Takes bytes for this place, mostly those behind the bytes before. They may be used again at once. */
  write(bytes: Uint8Array, byteOffset: number): void;
  /** All that was taken is written. */
  flush(): void;
}

/**
 * Writes a file that is there already in long pieces past the system's cache, where that can be: copying there takes a core at
 * 1 GB/s, and what lay in the cache is lost. Edges of pieces that share a page with others go through the cache. What the system refuses
 * is thrown as `FlashWriteError`.
 *
 *   | edge | direct, direct, ... | edge |        the block: a place in it is a place on the disk, modulo 4096
 */
export class DirectWriter implements PieceWriter {
  readonly #path: string;
  readonly #cached: number;
  #direct: number | null;
  readonly #block = new Uint8Array(new WebAssembly.Memory({ initial: BLOCK_BYTES / 65536 }).buffer);
  /** Where the bytes belong that wait in the block, and how many there are. */
  #byteOffset = 0;
  #length = 0;

  /** @param target what the file is called in messages */
  constructor(path: string, target: string) {
    this.#path = target;
    this.#cached = fs.openSync(path, "r+");
    this.#direct = openDirect(path);
  }

  write(bytes: Uint8Array, byteOffset: number): void {
    if (byteOffset !== this.#byteOffset + this.#length) {
      this.flush();
      this.#byteOffset = byteOffset;
    }
    for (let done = 0; done < bytes.byteLength;) {
      const at = this.#byteOffset % ALIGNMENT + this.#length;
      const count = Math.min(BLOCK_BYTES - at, bytes.byteLength - done);
      this.#block.set(bytes.subarray(done, done + count), at);
      this.#length += count;
      done += count;
      if (at + count === BLOCK_BYTES) this.flush();
    }
  }

  flush(): void {
    const from = this.#byteOffset, to = from + this.#length;
    const first = Math.ceil(from / ALIGNMENT) * ALIGNMENT;
    const last = Math.max(first, Math.floor(to / ALIGNMENT) * ALIGNMENT);
    if (last === first) this.#writeCached(from, to);
    else {
      this.#writeCached(from, first);
      this.#writeCached(this.#writeDirect(first, last), to);
    }
    this.#byteOffset = to;
    this.#length = 0;
  }

  close(): void {
    fs.closeSync(this.#cached);
    if (this.#direct !== null) fs.closeSync(this.#direct);
  }

  /** The bytes that wait for places from .. to. */
  #piece(from: number, to: number): Uint8Array {
    const base = this.#byteOffset - this.#byteOffset % ALIGNMENT;
    return this.#block.subarray(from - base, to - base);
  }

  #writeCached(from: number, to: number): void {
    if (to <= from) return;
    writeFully(this.#cached, this.#piece(from, to), { path: this.#path, byteOffset: from });
  }

  /** Writes as much as the system takes; returns where the rest begins. Whatever it refuses is tried through its cache, which says why. */
  #writeDirect(from: number, to: number): number {
    if (this.#direct === null) return from;
    for (let at = from; at < to;) {
      const piece = this.#piece(at, to);
      let count = 0;
      try {
        count = fs.writeSync(this.#direct, piece, 0, piece.byteLength, at);
      } catch {
        // Such as a file system that allows direct files but no direct writes.
      }
      if (count === 0 || count % ALIGNMENT !== 0) return at;
      at += count;
    }
    return to;
  }
}

/** Null where files cannot be written past the cache. */
function openDirect(path: string): number | null {
  if (O_DIRECT === undefined) return null;
  try {
    return fs.openSync(path, O_WRONLY | O_DIRECT);
  } catch {
    return null;
  }
}

/** Writes as the system likes. */
export class PlainWriter implements PieceWriter {
  readonly #descriptor: number;
  readonly #path: string;

  constructor(descriptor: number, path: string) {
    this.#descriptor = descriptor;
    this.#path = path;
  }

  write(bytes: Uint8Array, byteOffset: number): void {
    writeFully(this.#descriptor, bytes, { path: this.#path, byteOffset });
  }

  flush(): void {}
}
