import process from "node:process";
import { closeSync, fsyncSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { crc32 } from "node:zlib";
import type { ModelConfig } from "../../models/config.ts";
import { residentTensors } from "../../models/tensors.ts";
import { FlashWriteError } from "../errors.ts";
import { alignUp } from "./align.ts";
import {
  type FlashHeader,
  type LayerBundles,
  type NamedTensor,
  type Predictors,
  PRELUDE_BYTES,
  type Provenance,
  SECTION_ALIGNMENT,
  type StoredTensor,
  TENSOR_ALIGNMENT,
  tensorByteLength,
  type TensorForm,
  type Tokenizer,
} from "./header.ts";
import { validateHeader } from "./check_header.ts";
import { bundleByteLength, type Quantization } from "./layout.ts";
import { encodeHeader, encodePrelude } from "./prelude.ts";
import { PlainWriter } from "./direct_writer.ts";
import { checksumsOf, PartSink, restoreChecksums } from "./part_sink.ts";
import { writeFully } from "./write_whole.ts";

/** Neurons that share one checksum. */
const GROUP_NEURONS = 64;

/** What a file will hold, before any byte of it is written. */
export interface FlashContent {
  readonly architecture: string;
  /** Of resident matrices. */
  readonly quantization: Quantization;
  /** Of bundles. */
  readonly ffnQuantization: Quantization;
  /** Of bundles that are stored without their zeros: see `Capacities`. */
  readonly ffnCapacities?: number[];
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly provenance: Provenance;
}

/** A piece of the file, to be written in this order: a resident tensor, or all bundles of a layer. */
export type FlashPart =
  | {
    readonly kind: "tensor";
    readonly byteOffset: number;
    readonly byteLength: number;
    readonly tensor: NamedTensor;
  }
  | {
    readonly kind: "bundles";
    readonly byteOffset: number;
    readonly byteLength: number;
    readonly layerIndex: number;
    readonly bundles: LayerBundles;
  };

/** Lays the parts of a file out: a function of sizes alone, so that it also tells a model's size beforehand. */
export function planParts(
  { quantization, ffnQuantization, ffnCapacities, config }: Pick<
    FlashContent,
    "quantization" | "ffnQuantization" | "ffnCapacities" | "config"
  >,
): FlashPart[] {
  const parts: FlashPart[] = [];
  let end = PRELUDE_BYTES;
  for (const { name, dtype, layout, shape } of residentTensors(config, quantization)) {
    const byteOffset = alignUp(end, TENSOR_ALIGNMENT);
    const byteLength = tensorByteLength({ dtype, layout, shape: [...shape] });
    const place = { byteOffset, byteLength };
    const tensor = { name, dtype, layout, shape: [...shape], ...place, checksum: 0 };
    parts.push({ kind: "tensor", ...place, tensor });
    end = byteOffset + byteLength;
  }
  const count = config.intermediateSize;
  const { hiddenSize, ffn } = config;
  const bundleBytes = bundleByteLength(ffnQuantization, hiddenSize, ffn.isGated, ffnCapacities);
  for (let layerIndex = 0; layerIndex < config.numLayers; layerIndex++) {
    const byteOffset = alignUp(end, SECTION_ALIGNMENT);
    const bundles = {
      byteOffset,
      bundleByteLength: bundleBytes,
      count,
      order: null,
      groupCount: GROUP_NEURONS,
      checksums: new Uint8Array(4 * Math.ceil(count / GROUP_NEURONS)),
    };
    const byteLength = count * bundleBytes;
    parts.push({ kind: "bundles", byteOffset, byteLength, layerIndex, bundles });
    end = byteOffset + byteLength;
  }
  return parts;
}

/** What a file that can be resumed is called until it is whole. */
export function partialPath(target: string): string {
  return `${target}.partial`;
}

/** Where an appended tensor lies, and its CRC-32. */
export type AppendedPlace = Pick<StoredTensor, "byteOffset" | "byteLength" | "checksum">;

/** A part that is on disk, and its checksums: what another process needs to go on. */
export interface WholePart {
  readonly index: number;
  /** CRC-32 of a tensor, or base64 of those of a layer's groups. */
  readonly checksums: number | string;
}

export interface FlashWriterOptions {
  /** May refuse, told how long the parts are in all; nothing has been written then. */
  beforeWriting?: (byteLength: number) => void;
  /** Write aside as `TARGET.partial`, which stays when it is not finished; those parts of it are whole. */
  resume?: readonly WholePart[];
}

/**
 * Writes a `.flash` file. Whoever packs writes the bytes of `parts`, one part after the other, in pieces of any size: in their order,
 * or in one that `select` chooses. Padding, checksums and the header are the writer's. The file grows aside as `TARGET.tmp-PID`
 * and takes its name only when all of it is on disk: nobody ever sees half a file, whenever the process dies.
 *
 * Disposing of an unfinished writer removes what it wrote, unless it can be resumed.
 */
export class FlashWriter {
  readonly target: string;
  readonly parts: readonly FlashPart[];
  #content: FlashContent;
  #temporary: string;
  #descriptor: number;
  #position = 0;
  #partIndex = 0;
  /** Of the current part, once it is begun. */
  #sink: PartSink | null = null;
  /** Indices of parts that are whole. */
  readonly #whole = new Set<number>();
  readonly #isResumable: boolean;
  #hasAppended = false;

  constructor(
    target: string,
    content: FlashContent,
    { beforeWriting, resume }: FlashWriterOptions = {},
  ) {
    if (statSync(target, { throwIfNoEntry: false })?.isDirectory()) {
      throw new RangeError(`Cannot write a .flash file as ${target} is a folder`);
    }
    this.target = target;
    this.#content = content;
    this.parts = planParts(content);
    beforeWriting?.(this.totalBytes);
    this.#isResumable = resume !== undefined;
    this.#temporary = resume ? partialPath(target) : `${target}.tmp-${process.pid}`;
    this.#descriptor = openSync(this.#temporary, resume && resume.length > 0 ? "r+" : "w");
    try {
      for (const part of resume ?? []) this.#restore(part);
      this.#writeAll(new Uint8Array(PRELUDE_BYTES)); // Overwritten at the end.
      this.#toNextPart();
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Bytes of all parts, without padding and header. */
  get totalBytes(): number {
    return this.parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  isWhole(part: FlashPart): boolean {
    return this.#whole.has(this.parts.indexOf(part));
  }

  /** Parts that are on disk when `sync` has returned. */
  get wholeParts(): WholePart[] {
    return [...this.#whole].map((index) => {
      return { index, checksums: checksumsOf(this.parts[index]) };
    });
  }

  /** Where the file grows, for others that write parts of it. */
  get path(): string {
    return this.#temporary;
  }

  /** Takes a part that somebody else wrote to `path`, wholly. */
  adopt(part: WholePart): void {
    this.#restore(part);
    this.#toNextPart();
  }

  /** What is written next belongs to this part, which is not whole; the one before it is. */
  select(part: FlashPart): void {
    const index = this.parts.indexOf(part);
    if (index < 0 || this.#whole.has(index) || this.#sink?.isBegun) {
      throw new RangeError(`Cannot write part ${index} now: it is whole, or the one before is not`);
    }
    this.#partIndex = index;
    this.#sink = null;
  }

  /** Writes the next bytes of the current part; they must not reach into the part after it. */
  write(bytes: Uint8Array): void {
    const part = this.parts[this.#partIndex];
    if (part === undefined) throw new RangeError("Cannot write more: all parts are whole");
    this.#sink ??= new PartSink(new PlainWriter(this.#descriptor, this.target), part);
    // Between parts, and over those that come later, the system leaves zeros.
    this.#sink.write(bytes);
    if (!this.#sink.isWhole) return;
    this.#whole.add(this.#partIndex);
    this.#toNextPart();
  }

  /** To the first part that is not whole; behind all of them, once they are. */
  #toNextPart(): void {
    const next = this.parts.findIndex((_, index) => !this.#whole.has(index));
    this.#sink = null;
    this.#partIndex = next < 0 ? this.parts.length : next;
    const last = this.parts[this.parts.length - 1];
    if (next < 0) this.#position = last.byteOffset + last.byteLength;
  }

  #restore({ index, checksums }: WholePart): void {
    restoreChecksums(this.parts[index], checksums);
    this.#whole.add(index);
  }

  /** Writes a tensor behind all parts, which must be whole, such as one of a predictor. */
  append<Form extends TensorForm>(tensor: Form, bytes: Uint8Array): Form & AppendedPlace {
    const byteLength = tensorByteLength(tensor);
    if (this.#partIndex < this.parts.length || bytes.byteLength !== byteLength) {
      throw new RangeError(
        `Cannot append a tensor of shape [${tensor.shape}], ${byteLength} bytes: received ` +
          `${bytes.byteLength}, with part ${this.#partIndex} of ${this.parts.length} to be written`,
      );
    }
    this.#padTo(alignUp(this.#position, this.#hasAppended ? TENSOR_ALIGNMENT : SECTION_ALIGNMENT));
    this.#hasAppended = true;
    const byteOffset = this.#position;
    this.#writeAll(bytes);
    return { ...tensor, byteOffset, byteLength, checksum: crc32(bytes) };
  }

  /** Writes header and prelude, waits for the disk, and gives the file its name. Returns the header. */
  finish(predictors: Predictors | null = null): { header: FlashHeader; byteLength: number } {
    if (this.#partIndex < this.parts.length) {
      throw new RangeError(`Cannot finish ${this.target}: part ${this.#partIndex} is not whole`);
    }
    const header = headerOf(this.#content, this.parts, predictors);
    const bytes = encodeHeader(header);
    this.#padTo(alignUp(this.#position, SECTION_ALIGNMENT));
    const slot = {
      generation: 1,
      byteOffset: this.#position,
      byteLength: bytes.byteLength,
      checksum: crc32(bytes),
    };
    this.#writeAll(bytes);
    this.#padTo(alignUp(this.#position, SECTION_ALIGNMENT));
    const byteLength = this.#position;
    validateHeader(header, { path: this.target, fileByteLength: byteLength, header: slot });
    this.#position = 0;
    this.#writeAll(encodePrelude(slot));
    this.sync();
    this.#close();
    renameSync(this.#temporary, this.target);
    syncFolder(dirname(this.target));
    return { header, byteLength };
  }

  /** Gives up: closes the unfinished file, and removes it unless it can be resumed. Does nothing after `finish`. */
  [Symbol.dispose](): void {
    if (this.#descriptor >= 0) this.#close();
    if (!this.#isResumable) rmSync(this.#temporary, { force: true });
  }

  /** Waits until what was written is on disk. Some systems find out only now that there is no room. */
  sync(): void {
    try {
      fsyncSync(this.#descriptor);
    } catch (error) {
      const place = { path: this.target, byteOffset: this.#position };
      throw new FlashWriteError({ ...place, cause: error as Error });
    }
  }

  #close(): void {
    closeSync(this.#descriptor);
    this.#descriptor = -1;
  }

  #padTo(byteOffset: number): void {
    if (byteOffset > this.#position) this.#writeAll(new Uint8Array(byteOffset - this.#position));
  }

  #writeAll(bytes: Uint8Array): void {
    writeFully(this.#descriptor, bytes, { path: this.target, byteOffset: this.#position });
    this.#position += bytes.byteLength;
  }
}

/** Makes a rename durable. Some systems cannot open folders; there the rename is durable soon. */
function syncFolder(folder: string): void {
  let descriptor = -1;
  try {
    descriptor = openSync(folder, "r");
    fsyncSync(descriptor);
  } catch {
    // The file itself is on disk under one of its two names.
  } finally {
    if (descriptor >= 0) closeSync(descriptor);
  }
}

function headerOf(
  content: FlashContent,
  parts: readonly FlashPart[],
  predictors: Predictors | null,
): FlashHeader {
  return {
    architecture: content.architecture,
    quantization: content.quantization,
    ffnQuantization: content.ffnQuantization,
    ...(content.ffnCapacities ? { ffnCapacities: content.ffnCapacities } : {}),
    config: content.config,
    tokenizer: content.tokenizer,
    tensors: parts.flatMap((part) => part.kind === "tensor" ? [part.tensor] : []),
    layers: parts.flatMap((part) => part.kind === "bundles" ? [{ bundles: part.bundles }] : []),
    predictors,
    provenance: content.provenance,
  };
}
