import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { FlashReadError, messageOf } from "../errors.ts";

/** Bytes of a file. */
export interface ByteRange {
  readonly byteOffset: number;
  readonly byteLength: number;
}

/**
 * Something that bytes can be read from by range: the one door through which the format's readers see files, so that
 * tests can stand in for a disk. Reads are synchronous: these are the sequential reads of opening and packing, where a
 * promise per range would cost more than the range.
 */
export interface ByteSource {
  /** The file's name in messages. */
  readonly path: string;
  readonly byteLength: number;
  /** Fills `target` with the bytes from `byteOffset` on. Throws `FlashReadError` when it cannot fill all of it. */
  read(target: Uint8Array, byteOffset: number): void;
  /** Of sources that are far away: gets a range, which can be read from then on, until it is released. */
  load?(range: ByteRange): Promise<void>;
  release?(range: ByteRange): void;
  close(): void;
}

/** A file as a `ByteSource`. Opening follows symbolic links, which model caches are made of. */
export class FileSource implements ByteSource {
  readonly path: string;
  readonly byteLength: number;
  #descriptor: number;

  constructor(path: string) {
    this.path = path;
    try {
      this.#descriptor = openSync(path, "r");
    } catch (cause) {
      throw new FlashReadError(messageOf(cause), { path, byteOffset: 0, byteLength: 0 }, { cause });
    }
    const stat = fstatSync(this.#descriptor);
    if (!stat.isFile()) {
      closeSync(this.#descriptor);
      throw new FlashReadError("it is not a file", { path, byteOffset: 0, byteLength: 0 });
    }
    this.byteLength = stat.size;
  }

  read(target: Uint8Array, byteOffset: number): void {
    checkRange(this, target, byteOffset);
    let done = 0;
    while (done < target.byteLength) {
      const count = this.#readSome(target, done, byteOffset + done);
      if (count === 0) {
        throw new FlashReadError("the file ended early", rangeOf(this.path, target, byteOffset));
      }
      done += count; // Short reads continue.
    }
  }

  close(): void {
    if (this.#descriptor >= 0) closeSync(this.#descriptor);
    this.#descriptor = -1;
  }

  #readSome(target: Uint8Array, from: number, position: number): number {
    try {
      return readSync(this.#descriptor, target, from, target.byteLength - from, position);
    } catch (cause) {
      const range = rangeOf(this.path, target, position - from);
      throw new FlashReadError(messageOf(cause), range, { cause });
    }
  }
}

/** Bytes in memory as a `ByteSource`, for tests. */
export class MemorySource implements ByteSource {
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly byteLength: number;

  constructor(bytes: Uint8Array, path = "memory") {
    this.bytes = bytes;
    this.byteLength = bytes.byteLength;
    this.path = path;
  }

  read(target: Uint8Array, byteOffset: number): void {
    checkRange(this, target, byteOffset);
    target.set(this.bytes.subarray(byteOffset, byteOffset + target.byteLength));
  }

  close(): void {}
}

/** Reads a whole range into a new array, at most as long as the source. */
export function readRange(
  source: ByteSource,
  { byteOffset, byteLength }: ByteRange,
): Uint8Array<ArrayBuffer> {
  const outside = !Number.isSafeInteger(byteOffset) || !Number.isSafeInteger(byteLength) ||
    byteOffset < 0 || byteLength < 0 || byteOffset + byteLength > source.byteLength;
  if (outside) { // Checked before allocation: a wild length must not cost memory.
    const range = { path: source.path, byteOffset, byteLength };
    throw new FlashReadError(`the file has ${source.byteLength} bytes`, range);
  }
  const target = new Uint8Array(byteLength);
  source.read(target, byteOffset);
  return target;
}

/** As `readRange`, of any source. What was loaded for it is released. */
export async function loadRange(
  source: ByteSource,
  range: ByteRange,
): Promise<Uint8Array<ArrayBuffer>> {
  const inside = range.byteOffset >= 0 && range.byteOffset + range.byteLength <= source.byteLength;
  if (inside) await source.load?.(range); // Else `readRange` says what is wrong.
  const bytes = readRange(source, range);
  source.release?.(range);
  return bytes;
}

function checkRange(source: ByteSource, target: Uint8Array, byteOffset: number): void {
  const inside = Number.isSafeInteger(byteOffset) && byteOffset >= 0 &&
    byteOffset + target.byteLength <= source.byteLength;
  if (inside) return;
  const range = rangeOf(source.path, target, byteOffset);
  throw new FlashReadError(`the file has ${source.byteLength} bytes`, range);
}

function rangeOf(path: string, target: Uint8Array, byteOffset: number) {
  return { path, byteOffset, byteLength: target.byteLength };
}
