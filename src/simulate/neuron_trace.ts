import { crc32 } from "node:zlib";
import { ModelFileError } from "../errors.ts";
import { bitsOf } from "../predict/mask.ts";
import {
  TRACE_HEADER_BYTES_MAX,
  TRACE_MAGIC,
  TRACE_PREFIX_BYTES,
  TRACE_TAGS,
  TRACE_VERSION,
  traceHeaderSchema,
} from "./trace_format.ts";
import type { SetName, TraceHeader } from "./trace_format.ts";

/** A trace in memory: one mask for each set of each layer of each token. */
export class NeuronTrace {
  readonly header: TraceHeader;
  readonly tokenCount: number;
  /** Tokens with which a document begins, and those with which the KV cache was emptied within one. */
  readonly documents: readonly number[];
  readonly chunks: readonly number[];
  /** u32 words of a mask. */
  readonly wordCount: number;
  /** By set: u32[token][layer][word]. */
  readonly #masks: Map<SetName, Uint32Array>;

  constructor(
    header: TraceHeader,
    masks: Map<SetName, Uint32Array>,
    borders: { tokenCount: number; documents: number[]; chunks: number[] },
  ) {
    this.header = header;
    this.tokenCount = borders.tokenCount;
    this.documents = borders.documents;
    this.chunks = borders.chunks;
    this.wordCount = Math.ceil(header.intermediateSize / 32);
    this.#masks = masks;
  }

  has(set: SetName): boolean {
    return this.#masks.has(set);
  }

  /** What the engine would compute: what the late look named, or without predictors what was active. */
  get listed(): SetName {
    return this.has("predicted") ? "predicted" : "active";
  }

  /** The set as a mask, a view. Throws `RangeError` if the trace does not have it. */
  mask(set: SetName, token: number, layer: number): Uint32Array {
    const masks = this.#masks.get(set);
    if (!masks) throw new RangeError(`Cannot replay the set "${set}": the trace does not have it`);
    const from = (token * this.header.numLayers + layer) * this.wordCount;
    return masks.subarray(from, from + this.wordCount);
  }

  /** The neurons of a set, ascending. */
  neurons(set: SetName, token: number, layer: number): Int32Array {
    const indices = new Int32Array(32 * this.wordCount);
    return indices.subarray(0, bitsOf(this.mask(set, token, layer), indices));
  }

  /** Neurons of a set over all tokens and layers. */
  count(set: SetName): number {
    let count = 0;
    for (const word of this.#masks.get(set) ?? []) count += popCount(word);
    return count;
  }

  /** The same tokens with some fields of the header changed: another disk, another division of slots. */
  withHeader(changes: Partial<TraceHeader>): NeuronTrace {
    return this.#with({ ...this.header, ...changes }, this.#masks);
  }

  /** The trace of a predictor that names the active neurons and no other: what no predictor can pass. */
  perfectlyPredicted(): NeuronTrace {
    const active = this.#masks.get("active")!;
    const masks = new Map<SetName, Uint32Array>([["active", active], ["predicted", active]]);
    return this.#with({ ...this.header, sets: ["active", "predicted"] }, masks);
  }

  #with(header: TraceHeader, masks: Map<SetName, Uint32Array>): NeuronTrace {
    const { tokenCount, documents, chunks } = this;
    const borders = { tokenCount, documents: [...documents], chunks: [...chunks] };
    return new NeuronTrace(header, masks, borders);
  }

  /** Reads a trace from its bytes; throws `ModelFileError` if they are not a whole and sound one. */
  static parse(bytes: Uint8Array, path: string): NeuronTrace {
    return new TraceParser(bytes, path).parse();
  }
}

function popCount(word: number): number {
  word -= word >>> 1 & 0x55555555;
  word = (word & 0x33333333) + (word >>> 2 & 0x33333333);
  return Math.imul(word + (word >>> 4) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** One walk over the bytes; checks before it believes. */
class TraceParser {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #path: string;
  #at = 0;

  constructor(bytes: Uint8Array, path: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#path = path;
  }

  parse(): NeuronTrace {
    const header = this.#parseHeader(), recordsFrom = this.#at;
    const { intermediateSize: n, numLayers, sets } = header;
    const tokenCount = this.#checkEnd(recordsFrom);
    const wordCount = Math.ceil(n / 32), wordsPerToken = numLayers * wordCount;
    // Each set takes a byte at least: a token count that the file is too short for is refused before anything is allocated.
    if (tokenCount * numLayers * sets.length > this.#bytes.byteLength) {
      throw this.#error("more tokens than there are bytes for", "end.tokenCount");
    }
    const masks = new Map(
      sets.map((set) => [set, new Uint32Array(tokenCount * wordsPerToken)]),
    );
    const documents: number[] = [], chunks: number[] = [];
    let token = 0;
    for (;;) {
      const tag = this.#byte();
      if (tag === TRACE_TAGS.end) break;
      if (tag === TRACE_TAGS.document) documents.push(token);
      else if (tag === TRACE_TAGS.chunk) chunks.push(token);
      else if (tag === TRACE_TAGS.token && token < tokenCount) {
        for (let layer = 0; layer < numLayers; layer++) {
          const from = token * wordsPerToken + layer * wordCount;
          for (const all of masks.values()) this.#parseSet(all.subarray(from, from + wordCount), n);
        }
        token++;
      } else throw this.#error(`unknown record ${tag}`, "records");
    }
    if (token !== tokenCount || this.#at + 8 !== this.#bytes.byteLength) {
      throw this.#error(`${token} tokens where the end counts ${tokenCount}`, "end.tokenCount");
    }
    return new NeuronTrace(header, masks, { tokenCount, documents, chunks });
  }

  #parseHeader(): TraceHeader {
    const bytes = this.#bytes;
    const magic = new TextDecoder().decode(bytes.subarray(0, TRACE_MAGIC.length));
    if (magic !== TRACE_MAGIC) throw this.#error("not a neuron trace", "magic");
    if (bytes.byteLength < TRACE_PREFIX_BYTES) throw this.#error("ends too early", "prefix");
    const version = this.#view.getUint32(8, true), byteLength = this.#view.getUint32(12, true);
    if (version !== TRACE_VERSION) {
      throw this.#error(`version ${version}, expected ${TRACE_VERSION}`, "version");
    }
    this.#at = TRACE_PREFIX_BYTES;
    if (byteLength > TRACE_HEADER_BYTES_MAX || this.#at + byteLength > bytes.byteLength) {
      throw this.#error("ends too early", "header");
    }
    const text = bytes.subarray(this.#at, this.#at + byteLength);
    if (crc32(text) !== this.#view.getUint32(16, true)) {
      throw this.#error("wrong checksum", "header");
    }
    const parsed = traceHeaderSchema.safeParse(jsonOf(text));
    if (!parsed.success) {
      const { path, message } = parsed.error.issues[0];
      throw this.#error(message, `header.${path.join(".")}`);
    }
    const header = parsed.data, { numLayers } = header;
    for (const field of ["layerByteOffsets", "orders", "missCurves", "predictedShares"] as const) {
      const { length } = header[field];
      if (length !== numLayers && (length !== 0 || field === "layerByteOffsets")) {
        throw this.#error(`${length} entries for ${numLayers} layers`, `header.${field}`);
      }
    }
    for (const [layer, order] of header.orders.entries()) {
      if (!isOrderOf(order, header.intermediateSize)) {
        throw this.#error("not every neuron once", `header.orders.${layer}`);
      }
    }
    if (new Set(header.sets).size !== header.sets.length || !header.sets.includes("active")) {
      throw this.#error("each set once, `active` among them", "header.sets");
    }
    this.#at += byteLength;
    return header;
  }

  /** Checks the last nine bytes and the checksum that they hold; returns the token count. */
  #checkEnd(recordsFrom: number): number {
    const at = this.#bytes.byteLength - 9;
    if (at < recordsFrom || this.#bytes[at] !== TRACE_TAGS.end) {
      throw this.#error("its end is missing: it was cut off", "end");
    }
    if (crc32(this.#bytes.subarray(recordsFrom, at)) !== this.#view.getUint32(at + 5, true)) {
      throw this.#error("wrong checksum: damaged or cut off", "records");
    }
    return this.#view.getUint32(at + 1, true);
  }

  #parseSet(mask: Uint32Array, n: number): void {
    const head = this.#varint();
    if (head === 1) {
      for (let byte = 0; byte < Math.ceil(n / 8); byte++) {
        mask[byte >> 2] |= this.#byte() << (8 * (byte & 3));
      }
      if (n % 32 !== 0 && mask[mask.length - 1] >>> n % 32 !== 0) {
        throw this.#error(`a neuron past ${n - 1}`, "records");
      }
      return;
    }
    if (head % 2 !== 0) throw this.#error("a set of no known form", "records");
    let neuron = -1;
    for (let left = head / 2; left > 0; left--) {
      neuron += 1 + this.#varint();
      if (neuron >= n) throw this.#error(`neuron ${neuron} of ${n}`, "records");
      mask[neuron >> 5] |= 1 << (neuron & 31);
    }
  }

  #byte(): number {
    if (this.#at >= this.#bytes.byteLength) throw this.#error("ends too early", "records");
    return this.#bytes[this.#at++];
  }

  #varint(): number {
    let value = 0;
    for (let shift = 0; shift <= 21; shift += 7) {
      const byte = this.#byte();
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw this.#error("a number of more than 28 bits", "records");
  }

  #error(problem: string, field: string): ModelFileError {
    return new ModelFileError(problem, { path: this.#path, field, byteOffset: this.#at });
  }
}

function isOrderOf(order: number[], neuronCount: number): boolean {
  const seen = new Set(order);
  return order.length === neuronCount && seen.size === neuronCount &&
    order.every((neuron) => neuron < neuronCount);
}

function jsonOf(text: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(text));
  } catch {
    return undefined;
  }
}
