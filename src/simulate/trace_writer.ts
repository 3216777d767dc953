import { crc32 } from "node:zlib";
import { bitsOf } from "../predict/mask.ts";
import { TRACE_MAGIC, TRACE_PREFIX_BYTES, TRACE_TAGS, TRACE_VERSION } from "./trace_format.ts";
import type { TraceHeader } from "./trace_format.ts";

const FLUSH_BYTES = 1 << 18;

/** Writes a neuron trace token by token; `write` gets its bytes in order, in large pieces. */
export class TraceWriter {
  readonly #write: (bytes: Uint8Array) => void;
  readonly #buffer: Uint8Array;
  readonly #maskBytes: number;
  readonly #indices: Int32Array;
  #length = 0;
  #checksum = 0;
  tokenCount = 0;

  constructor(header: TraceHeader, write: (bytes: Uint8Array) => void) {
    const { intermediateSize: n } = header;
    this.#write = write;
    this.#maskBytes = Math.ceil(n / 8);
    this.#indices = new Int32Array(32 * Math.ceil(n / 32));
    // A set in its longest form fits behind what is flushed.
    this.#buffer = new Uint8Array(FLUSH_BYTES + this.#maskBytes + 16);
    write(prefixOf(header));
  }

  /** The next token's KV cache is empty: it begins a document, or goes on with one that was too long. */
  begin(what: "document" | "chunk"): void {
    this.#byte(TRACE_TAGS[what]);
  }

  /** Begins a token; then come the sets of each layer, in the header's order. */
  beginToken(): void {
    this.#byte(TRACE_TAGS.token);
    this.tokenCount++;
  }

  /** A set of neurons: as gaps between them, or as a mask if that is shorter. */
  addSet(mask: Uint32Array): void {
    const start = this.#length, indices = this.#indices, count = bitsOf(mask, indices);
    this.#varint(count * 2);
    let previous = -1;
    for (let i = 0; i < count; i++) {
      this.#varint(indices[i] - previous - 1);
      previous = indices[i];
      if (this.#length - start > this.#maskBytes) return this.#addMask(start, mask);
    }
    this.#flush(FLUSH_BYTES);
  }

  /** Writes the end. */
  finish(): void {
    this.#flush(0);
    const end = new Uint8Array(9), view = new DataView(end.buffer);
    end[0] = TRACE_TAGS.end;
    view.setUint32(1, this.tokenCount, true);
    view.setUint32(5, this.#checksum, true);
    this.#write(end);
  }

  #addMask(start: number, mask: Uint32Array): void {
    this.#length = start;
    this.#varint(1);
    for (let byte = 0; byte < this.#maskBytes; byte++) {
      this.#byte(mask[byte >> 2] >>> (8 * (byte & 3)) & 255);
    }
    this.#flush(FLUSH_BYTES);
  }

  #byte(value: number): void {
    this.#buffer[this.#length++] = value;
  }

  #varint(value: number): void {
    for (; value >= 128; value >>>= 7) this.#byte(value & 127 | 128);
    this.#byte(value);
  }

  #flush(least: number): void {
    if (this.#length < least || this.#length === 0) return;
    const bytes = this.#buffer.subarray(0, this.#length);
    this.#checksum = crc32(bytes, this.#checksum);
    this.#write(bytes);
    this.#length = 0;
  }
}

function prefixOf(header: TraceHeader): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(TRACE_PREFIX_BYTES + text.byteLength);
  const view = new DataView(bytes.buffer);
  new TextEncoder().encodeInto(TRACE_MAGIC, bytes);
  view.setUint32(8, TRACE_VERSION, true);
  view.setUint32(12, text.byteLength, true);
  view.setUint32(16, crc32(text), true);
  bytes.set(text, TRACE_PREFIX_BYTES);
  return bytes;
}
