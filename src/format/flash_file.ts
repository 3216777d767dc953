import { crc32 } from "node:zlib";
import { setImmediate } from "node:timers/promises";
import { type ByteSource, FileSource, readRange } from "./byte_source.ts";
import { extentsOf, type FlashHeader, type NamedTensor, predictorTensors } from "./header.ts";
import { NeuronOrder } from "./neuron_order.ts";
import { type FoundHeader, type HeaderSlot, readHeader } from "./prelude.ts";

/**
 * An open `.flash` file: its checked header, and ranges of bytes from its sections. The engine's readers open the file
 * by themselves and past the OS cache; this class serves opening, inspecting and tests.
 *
 * ```ts
 * import { FlashFile } from "./flash_file.ts";
 * function embeddingBytes(path: string): Uint8Array {
 *   using file = FlashFile.open(path);
 *   return file.readRange(file.tensor("embedTokens"));
 * }
 * ```
 */
export class FlashFile {
  readonly path: string;
  readonly byteLength: number;
  readonly header: FlashHeader;
  /** The header slot that counts; its generation grows by one with each update. */
  readonly slot: HeaderSlot;
  readonly slotIndex: 0 | 1;
  /** What is wrong with the other header slot: an update that was cut off, or a damaged file; else null. */
  readonly damaged: string | null;
  #source: ByteSource;
  #tensors: ReadonlyMap<string, NamedTensor>;

  constructor(source: ByteSource, { header, slot, slotIndex, damaged }: FoundHeader) {
    this.#source = source;
    this.path = source.path;
    this.byteLength = source.byteLength;
    this.header = header;
    this.slot = slot;
    this.slotIndex = slotIndex;
    this.damaged = damaged;
    this.#tensors = new Map(header.tensors.map((tensor) => [tensor.name, tensor]));
  }

  /**
   * Opens and checks a file (or anything that bytes can be read from). Throws `FlashReadError` if it cannot be read,
   * `ModelFileError` if it is damaged, `UnsupportedModelError` if its architecture is not known.
   */
  static open(file: string | ByteSource): FlashFile {
    const source = typeof file === "string" ? new FileSource(file) : file;
    try {
      return new FlashFile(source, readHeader(source));
    } catch (error) {
      source.close();
      throw error;
    }
  }

  /** A resident tensor by name; throws `RangeError` for a name that the model does not have. */
  tensor(name: string): NamedTensor {
    const tensor = this.#tensors.get(name);
    if (tensor !== undefined) return tensor;
    throw new RangeError(`Cannot find tensor ${name} in ${this.path}`);
  }

  /** Fills `target` from `byteOffset` on. */
  read(target: Uint8Array, byteOffset: number): void {
    this.#source.read(target, byteOffset);
  }

  /** Reads a range, such as a tensor's, into a new array. */
  readRange(range: { byteOffset: number; byteLength: number }): Uint8Array<ArrayBuffer> {
    return readRange(this.#source, range);
  }

  /** Reads a tensor of f32, such as a bias. Throws `RangeError` if there is none of this name and kind. */
  floats(name: string): Float32Array<ArrayBuffer> {
    const tensor = this.tensor(name);
    if (tensor.dtype !== "f32" || tensor.layout !== "rows") {
      throw new RangeError(
        `Cannot read ${name} as rows of f32: it is ${tensor.layout} of ${tensor.dtype}`,
      );
    }
    return new Float32Array(this.readRange(tensor).buffer);
  }

  /** Reads the bundle of one neuron. */
  readBundle(layerIndex: number, neuronIndex: number): Uint8Array<ArrayBuffer> {
    const layer = this.header.layers[layerIndex];
    if (layer === undefined || !(neuronIndex >= 0 && neuronIndex < layer.bundles.count)) {
      throw new RangeError(`Cannot read bundle ${neuronIndex} of layer ${layerIndex}`);
    }
    const { byteOffset, bundleByteLength: byteLength } = layer.bundles;
    const position = NeuronOrder.of(layer.bundles).positionOf[neuronIndex];
    return this.readRange({ byteOffset: byteOffset + position * byteLength, byteLength });
  }

  /** Reads the bundles of `count` neurons from `first` on, side by side in the order of the neurons. */
  readBundles(
    layerIndex: number,
    { first, count }: { first: number; count: number },
  ): Uint8Array<ArrayBuffer> {
    const { bundles } = this.header.layers[layerIndex];
    const { byteOffset, bundleByteLength: stride } = bundles;
    if (bundles.order === null) {
      return this.readRange({
        byteOffset: byteOffset + first * stride,
        byteLength: count * stride,
      });
    }
    const { positionOf } = NeuronOrder.of(bundles);
    const bytes = new Uint8Array(count * stride);
    for (let i = 0; i < count; i++) {
      const target = bytes.subarray(i * stride, (i + 1) * stride);
      this.read(target, byteOffset + positionOf[first + i] * stride);
    }
    return bytes;
  }

  /**
   * Reads all bundles of a layer in runs of at most `byteLengthMax` bytes (but one at least), as they lie: `use` gets the run's bytes
   * and the neurons in it.
   */
  eachBundleRun(
    layerIndex: number,
    byteLengthMax: number,
    use: (run: Uint8Array<ArrayBuffer>, neurons: Int32Array) => void,
  ): void {
    const { bundles } = this.header.layers[layerIndex];
    const { byteOffset, bundleByteLength: stride, count } = bundles;
    const { neuronAt } = NeuronOrder.of(bundles);
    const perRun = Math.max(1, Math.floor(byteLengthMax / stride));
    for (let first = 0; first < count; first += perRun) {
      const neurons = neuronAt.subarray(first, first + perRun);
      const range = {
        byteOffset: byteOffset + first * stride,
        byteLength: neurons.length * stride,
      };
      use(this.readRange(range), neurons);
    }
  }

  /** Reads every section and compares checksums; never throws for a wrong one, but lists it. */
  async verify(options: VerifyOptions = {}): Promise<VerifyResult> {
    const buffer = new Uint8Array(Math.min(CHUNK_BYTES, this.byteLength));
    const pieces = checkedPieces(this.header);
    const totalBytes = extentsOf(this.header).reduce((sum, { byteLength }) => sum + byteLength, 0);
    const failures: VerifyFailure[] = [];
    let checkedBytes = 0;
    for (const { field, byteOffset, byteLength, checksum } of pieces) {
      let found = 0;
      for (let done = 0; done < byteLength;) {
        options.signal?.throwIfAborted();
        const chunk = buffer.subarray(0, Math.min(CHUNK_BYTES, byteLength - done));
        this.read(chunk, byteOffset + done);
        found = crc32(chunk, found);
        done += chunk.byteLength;
        checkedBytes += chunk.byteLength;
      }
      if (found !== checksum) failures.push({ field, byteOffset, byteLength });
      options.onProgress?.({ doneBytes: checkedBytes, totalBytes });
      await setImmediate();
    }
    return { ok: failures.length === 0, checkedBytes, failures };
  }

  close(): void {
    this.#source.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

export interface VerifyOptions {
  onProgress?: (progress: { doneBytes: number; totalBytes: number }) => void;
  signal?: AbortSignal;
}

export interface VerifyFailure {
  /** `embedTokens`, or `layers.3.bundles 64..127`. */
  readonly field: string;
  readonly byteOffset: number;
  readonly byteLength: number;
}

export interface VerifyResult {
  readonly ok: boolean;
  readonly checkedBytes: number;
  readonly failures: readonly VerifyFailure[];
}

const CHUNK_BYTES = 1 << 20;

/** Everything that has a checksum: tensors, predictors' tensors, groups of bundles. */
function* checkedPieces(header: FlashHeader): Generator<VerifyFailure & { checksum: number }> {
  for (const { name, byteOffset, byteLength, checksum } of header.tensors) {
    yield { field: name, byteOffset, byteLength, checksum };
  }
  for (const [index, layer] of (header.predictors?.layers ?? []).entries()) {
    for (const [name, { byteOffset, byteLength, checksum }] of predictorTensors(layer)) {
      yield { field: `predictors.layers.${index}.${name}`, byteOffset, byteLength, checksum };
    }
  }
  for (const [index, { bundles }] of header.layers.entries()) {
    const { byteOffset, bundleByteLength, count, groupCount, checksums } = bundles;
    const view = new DataView(checksums.buffer, checksums.byteOffset, checksums.byteLength);
    for (let from = 0; from < count; from += groupCount) {
      const to = Math.min(count, from + groupCount);
      yield {
        field: `layers.${index}.bundles ${from}..${to - 1}`,
        byteOffset: byteOffset + from * bundleByteLength,
        byteLength: (to - from) * bundleByteLength,
        checksum: view.getUint32(from / groupCount * 4, true),
      };
    }
  }
}
