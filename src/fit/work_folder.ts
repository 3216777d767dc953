import { decode, encode } from "@msgpack/msgpack";
import {
  closeSync,
  existsSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { writeFully, writeWhole } from "../format/write_whole.ts";

/** Bytes of a record's checksum. */
const CHECKSUM_BYTES = 4;

/**
 * The folder beside a `.flash` file that an unfinished calibration leaves. It has two kinds of files:
 *
 * - **records**: small, written whole or not at all (`writeWhole`), with a checksum;
 * - **tables**: large, of rows of one length, written and read in place. A record says up to where they count.
 *
 * So a run may be killed at any moment: what no record vouches for is done again.
 */
export class WorkFolder {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  /** Makes the folder if there is none. */
  create(): void {
    mkdirSync(this.path, { recursive: true });
  }

  get exists(): boolean {
    return existsSync(this.path);
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }

  /** Writes a record of plain values and byte arrays. */
  writeRecord(name: string, value: unknown): void {
    const bytes = encode(value);
    const whole = new Uint8Array(CHECKSUM_BYTES + bytes.byteLength);
    new DataView(whole.buffer).setUint32(0, crc32(bytes), true);
    whole.set(bytes, CHECKSUM_BYTES);
    writeWhole(join(this.path, name), whole);
  }

  /** A record, or undefined if it is not there or not whole. */
  readRecord(name: string): unknown {
    const path = join(this.path, name);
    if (!existsSync(path)) return undefined;
    const whole = readFileSync(path);
    const bytes = whole.subarray(CHECKSUM_BYTES);
    if (whole.byteLength < CHECKSUM_BYTES || crc32(bytes) !== whole.readUInt32LE(0)) {
      return undefined;
    }
    return decode(bytes);
  }

  forget(name: string): void {
    rmSync(join(this.path, name), { force: true });
  }

  /** Opens a table; makes it, with `rowCount` rows of zeros, if it is not there. */
  openTable(name: string, { rowByteLength, rowCount }: TableShape): Table {
    return new Table(join(this.path, name), { rowByteLength, rowCount });
  }
}

export interface TableShape {
  rowByteLength: number;
  rowCount: number;
}

/** Rows in a file. Threads and processes may write different rows at the same time. */
export class Table {
  readonly #path: string;
  readonly #descriptor: number;
  readonly #shape: TableShape;

  constructor(path: string, shape: TableShape) {
    this.#path = path;
    this.#shape = shape;
    this.#descriptor = openSync(path, existsSync(path) ? "r+" : "w+");
    ftruncateSync(this.#descriptor, shape.rowByteLength * shape.rowCount);
  }

  get rowCount(): number {
    return this.#shape.rowCount;
  }

  /** Writes whole rows from `firstRow` on. */
  write(rows: ArrayBufferView, firstRow: number): void {
    const bytes = new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength);
    const byteOffset = firstRow * this.#shape.rowByteLength;
    writeFully(this.#descriptor, bytes, { path: this.#path, byteOffset });
  }

  /** Fills `target` with whole rows from `firstRow` on. */
  read(target: ArrayBufferView, firstRow: number): void {
    const bytes = new Uint8Array(target.buffer, target.byteOffset, target.byteLength);
    const from = firstRow * this.#shape.rowByteLength;
    for (let done = 0; done < bytes.byteLength;) {
      const count = readSync(
        this.#descriptor,
        bytes,
        done,
        bytes.byteLength - done,
        from + done,
      );
      if (count === 0) throw new Error(`Cannot read ${this.#path}: it ends at ${from + done}`);
      done += count;
    }
  }

  /** Waits until all rows are on the disk. */
  sync(): void {
    fsyncSync(this.#descriptor);
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
