import type { Buffer } from "node:buffer";
import { fromRandomAccessReader, RandomAccessReader } from "yauzl";
import type { Entry, ZipFile } from "yauzl";
import { HubError, messageOf, ModelFileError } from "../errors.ts";
import { type ByteRange, type ByteSource, loadRange } from "../format/byte_source.ts";
import { isKind, parsePickle, PickleError } from "./pickle.ts";
import type { PickleValue, TensorView } from "./pickle.ts";
import { DTYPE_BYTES } from "./safetensors.ts";
import type { SourceTensor } from "./source_tensor.ts";

/**
 * Reads the headers of a file that `torch.save` wrote: a zip archive whose entries are stored as they are,
 *
 *   archive/data.pkl     a pickle: names, types, shapes, and which storage
 *   archive/data/0       a storage: numbers
 *   archive/byteorder    "little", where it is told
 *
 * so that each tensor is a range of the file, as in safetensors. (torch/serialization.py; before version 1.6 of PyTorch there
 * was no archive.)
 */
export async function readTorchHeader(source: ByteSource): Promise<SourceTensor[]> {
  await checkMagic(source);
  using archive = await Archive.open(source);
  const name = archive.names.find((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (name === undefined) fail(source, "data.pkl", "the archive has no data.pkl");
  const prefix = name.slice(0, -"data.pkl".length);
  await checkByteOrder(source, await archive.find(`${prefix}byteorder`));
  const pickle = (await archive.find(name))!;
  if (pickle.byteLength > PICKLE_BYTES_MAX) {
    fail(source, "data.pkl", `a pickle of ${pickle.byteLength} bytes is too long`);
  }
  const views = tensorsIn(await readPickle(source, pickle));
  if (views === null) fail(source, "data.pkl", "it is no dictionary of tensors");
  const storageOf = ({ storage }: TensorView) => `${prefix}data/${storage.key}`;
  await archive.prepare(Array.from(views.values(), storageOf));
  const tensors: SourceTensor[] = [];
  for (const [name, view] of views) {
    const entry = await archive.find(storageOf(view));
    tensors.push(placeOf(source, name, view, entry));
  }
  return tensors;
}

/** Pickles of real models are below 10 MiB. */
const PICKLE_BYTES_MAX = 16 * 2 ** 20;
const ENTRIES_MAX = 2 ** 16;

interface Stored {
  readonly name: string;
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** What is got at once from a source that is far away: lists of entries are read a few bytes at a time. */
const WINDOW_BYTES = 2 ** 18;

/** Of each entry the file has a header of its own. Those with no more between them are got together, so many requests at a time. */
const HEADER_GAP_BYTES = 2 ** 14, HEADER_BYTES = 30, REQUESTS = 8;

/** Bytes of a source that are here. */
interface Window {
  readonly from: number;
  readonly bytes: Uint8Array;
}

/** A `ByteSource` as yauzl wants it. */
class SourceReader extends RandomAccessReader {
  readonly #source: ByteSource;
  readonly #prepared: Window[] = [];
  #window: Window = { from: 0, bytes: new Uint8Array(0) };

  constructor(source: ByteSource) {
    super();
    this.#source = source;
  }

  /** Gets what will be read, where that is far away. */
  async prepare(range: ByteRange): Promise<void> {
    if (this.#source.load === undefined) return;
    this.#prepared.push({ from: range.byteOffset, bytes: await loadRange(this.#source, range) });
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null, bytesRead?: number) => void,
  ): void {
    const byteLength = Math.max(0, Math.min(length, this.#source.byteLength - position));
    this.#bytes({ byteOffset: position, byteLength }).then((bytes) => {
      buffer.set(bytes, offset);
      callback(null, byteLength);
    }, callback);
  }

  async #bytes({ byteOffset, byteLength }: ByteRange): Promise<Uint8Array> {
    const { byteLength: all, load } = this.#source, end = byteOffset + byteLength;
    if (load === undefined) return await loadRange(this.#source, { byteOffset, byteLength });
    let window = [this.#window, ...this.#prepared].find(({ from, bytes }) =>
      byteOffset >= from && end <= from + bytes.byteLength
    );
    if (window === undefined) {
      const length = Math.min(all - byteOffset, Math.max(byteLength, WINDOW_BYTES));
      const bytes = await loadRange(this.#source, { byteOffset, byteLength: length });
      window = this.#window = { from: byteOffset, bytes };
    }
    const from = byteOffset - window.from;
    return window.bytes.subarray(from, from + byteLength);
  }
}

async function checkMagic(source: ByteSource): Promise<void> {
  const length = Math.min(4, source.byteLength);
  const [p, k, three, four] = await loadRange(source, { byteOffset: 0, byteLength: length });
  if (p === 0x50 && k === 0x4b && three === 3 && four === 4) return;
  const old = p === 0x80 ? "; PyTorch before 1.6 wrote such files: load and save it again" : "";
  fail(source, "file", `this is no zip archive${old}`);
}

/** A zip archive whose entries are stored as they are. Where an entry's bytes begin is looked up when it is asked for. */
class Archive {
  readonly #source: ByteSource;
  readonly #reader: SourceReader;
  readonly #zip: ZipFile;
  readonly #entries: ReadonlyMap<string, Entry>;
  readonly #found = new Map<string, Stored>();

  private constructor(
    source: ByteSource,
    { reader, zip, entries }: {
      reader: SourceReader;
      zip: ZipFile;
      entries: ReadonlyMap<string, Entry>;
    },
  ) {
    this.#source = source;
    this.#reader = reader;
    this.#zip = zip;
    this.#entries = entries;
  }

  /** Throws `ModelFileError`. */
  static open(source: ByteSource): Promise<Archive> {
    return readable(source, async () => {
      const reader = new SourceReader(source), entries = new Map<string, Entry>();
      const zip = await openZip(reader, source.byteLength);
      try {
        for (let entry = await nextEntry(zip); entry !== null; entry = await nextEntry(zip)) {
          if (entry.compressionMethod !== 0 || entry.isEncrypted()) {
            throw new Error(`${entry.fileName} is not stored as it is`);
          }
          if (entries.has(entry.fileName)) throw new Error(`${entry.fileName} stands twice`);
          if (entries.size === ENTRIES_MAX) throw new Error(`it has over ${ENTRIES_MAX} entries`);
          entries.set(entry.fileName, entry);
        }
      } catch (error) {
        zip.close();
        throw error;
      }
      return new Archive(source, { reader, zip, entries });
    });
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  /** Gets the headers of entries that will be looked for, some at a time: one by one, each would wait for a request. */
  async prepare(names: readonly string[]): Promise<void> {
    const offsets = names.map((name) => this.#entries.get(name)?.relativeOffsetOfLocalHeader)
      .filter((offset) => offset !== undefined).sort((a, b) => a - b);
    const ranges: { byteOffset: number; byteLength: number }[] = [];
    for (const offset of offsets) {
      const end = Math.min(offset + HEADER_BYTES, this.#source.byteLength), last = ranges.at(-1);
      if (offset >= end) continue; // Whoever looks for it says what is wrong.
      if (last && offset - (last.byteOffset + last.byteLength) <= HEADER_GAP_BYTES) {
        last.byteLength = end - last.byteOffset;
      } else ranges.push({ byteOffset: offset, byteLength: end - offset });
    }
    const left = ranges.values();
    const getSome = async () => {
      for (const range of left) await this.#reader.prepare(range);
    };
    await Promise.all(Array.from({ length: REQUESTS }, getSome));
  }

  async find(name: string): Promise<Stored | undefined> {
    const known = this.#found.get(name), entry = this.#entries.get(name);
    if (known !== undefined || entry === undefined) return known;
    const stored = await readable(this.#source, () => storedAt(this.#zip, entry));
    this.#found.set(name, stored);
    return stored;
  }

  [Symbol.dispose](): void {
    this.#zip.close();
  }
}

/** Errors of reading an archive name the file. */
async function readable<T>(source: ByteSource, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    if (cause instanceof HubError) throw cause;
    const problem = messageOf(cause);
    const place = { path: source.path, field: "archive", byteOffset: 0 };
    throw new ModelFileError(`the zip archive cannot be read: ${problem}`, place, { cause });
  }
}

function openZip(reader: SourceReader, byteLength: number): Promise<ZipFile> {
  const { promise, resolve, reject } = Promise.withResolvers<ZipFile>();
  const options = { lazyEntries: true, autoClose: false };
  fromRandomAccessReader(reader, byteLength, options, (error, zip) => {
    if (error) reject(error);
    else resolve(zip);
  });
  return promise;
}

/** Null after the last. */
function nextEntry(zip: ZipFile): Promise<Entry | null> {
  return new Promise((resolve, reject) => {
    const settle = (then: () => void) => {
      zip.removeAllListeners();
      then();
    };
    zip.once("entry", (entry: Entry) => settle(() => resolve(entry)));
    zip.once("end", () => settle(() => resolve(null)));
    zip.once("error", (error: Error) => settle(() => reject(error)));
    zip.readEntry();
  });
}

function storedAt(zip: ZipFile, entry: Entry): Promise<Stored> {
  return new Promise((resolve, reject) => {
    zip.readLocalFileHeader(entry, { minimal: true }, (error, header) => {
      if (error) return reject(error);
      const { fileName: name, uncompressedSize: byteLength } = entry;
      resolve({ name, byteOffset: header.fileDataStart, byteLength });
    });
  });
}

async function checkByteOrder(source: ByteSource, entry: Stored | undefined): Promise<void> {
  if (entry === undefined || entry.byteLength > 16) return;
  const order = new TextDecoder().decode(await loadRange(source, entry));
  if (order !== "little") fail(source, "byteorder", `numbers are ${order}-endian`);
}

async function readPickle(source: ByteSource, pickle: Stored): Promise<PickleValue> {
  try {
    return parsePickle(await loadRange(source, pickle));
  } catch (error) {
    if (!(error instanceof PickleError)) throw error;
    const byteOffset = pickle.byteOffset + error.byteOffset;
    throw new ModelFileError(`its pickle is refused: ${error.message}`, {
      path: source.path,
      field: "data.pkl",
      byteOffset,
    }, { cause: error });
  }
}

/** What training frameworks put the weights under. */
const WRAPPERS = ["state_dict", "model", "module"];

/** Tensors by name; null where there are none. */
function tensorsIn(value: PickleValue): Map<string, TensorView> | null {
  if (!(value instanceof Map)) return null;
  const views = new Map<string, TensorView>();
  for (const [name, item] of value) {
    if (typeof name === "string" && isKind(item, "tensor")) views.set(name, item);
  }
  if (views.size > 0) return views;
  for (const wrapper of WRAPPERS) {
    const inner = value.get(wrapper);
    // One deep: a dictionary may hold itself.
    if (!(inner instanceof Map)) continue;
    for (const [name, item] of inner) {
      if (typeof name === "string" && isKind(item, "tensor")) views.set(name, item);
    }
    if (views.size > 0) return views;
  }
  return null;
}

function placeOf(
  source: ByteSource,
  name: string,
  { storage, offset, shape, stride }: TensorView,
  entry: Stored | undefined,
): SourceTensor {
  const { dtype, key } = storage, size = DTYPE_BYTES[dtype];
  const length = shape.reduce((product, size) => product * size, 1);
  if (entry === undefined) fail(source, name, `its storage ${key} is not in the archive`);
  if (storage.length * size !== entry.byteLength) {
    const found = `the archive has ${entry.byteLength}`;
    fail(source, name, `its storage of ${storage.length} ${dtype} takes other bytes: ${found}`);
  }
  if (!Number.isSafeInteger(length) || offset + length > storage.length) {
    fail(source, name, `its shape [${shape}] goes beyond its storage`);
  }
  if (entry.byteOffset + entry.byteLength > source.byteLength) {
    fail(source, name, "its storage ends after the file");
  }
  const unreadable = isDense(shape, stride)
    ? undefined
    : `its numbers do not lie side by side: strides [${stride}] of shape [${shape}]`;
  const byteOffset = entry.byteOffset + offset * size, byteLength = length * size;
  return { name, dtype, shape, length, byteOffset, byteLength, source, unreadable };
}

/** Whether the numbers lie as those of a C array do. */
function isDense(shape: readonly number[], stride: readonly number[]): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && stride[axis] !== expected) return false;
    expected *= shape[axis];
  }
  return true;
}

function fail(source: ByteSource, field: string, problem: string): never {
  throw new ModelFileError(problem, { path: source.path, field, byteOffset: 0 });
}
