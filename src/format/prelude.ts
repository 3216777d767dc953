import { crc32 } from "node:zlib";
import { decode, encode } from "@msgpack/msgpack";
import { ModelFileError } from "../errors.ts";
import { type ByteSource, readRange } from "./byte_source.ts";
import { type FlashHeader, PRELUDE_BYTES, SECTION_ALIGNMENT } from "./header.ts";
import { validateHeader } from "./check_header.ts";
import { findMsgpackProblem } from "./msgpack_bounds.ts";

/**
 * The first block of a `.flash` file, which says where the header is. Each slot has a 512-byte sector of its own, so
 * that writing one can never damage the other.
 *
 *   byte 0          8         12      16       512            1024           1536        4096
 *        | FLASHPIP | version | 0     | zeros  | slot 0 | ... | slot 1 | ... | zeros ... |
 *
 *   slot:  0             8                    16                   24            28
 *          | generation  | header byteOffset  | header byteLength  | header CRC  | CRC of bytes 0..27 |
 *            u64           u64                  u64                  u32           u32
 */
export interface HeaderSlot {
  readonly generation: number;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly checksum: number;
}

/** A slot that was read and whose header was read and checked. */
export interface FoundHeader {
  readonly header: FlashHeader;
  readonly slot: HeaderSlot;
  readonly slotIndex: 0 | 1;
  /** What is wrong with the other slot, or null if it is whole or was never written. */
  readonly damaged: string | null;
}

export const FORMAT_VERSION = 1;
/** The tokenizer is by far the largest part of a header: 10 MB at most in models that exist. */
export const HEADER_BYTES_MAX = 64 * 2 ** 20;

const MAGIC = "FLASHPIP";

/** What is said of a slot that has only zeros, as in a file that was never updated. */
const UNUSED = "unused";
const SLOT_BYTES = 32;
const SLOT_OFFSETS = [512, 1024] as const;

/** The first block of a new file: slot 0 is `slot`, slot 1 is empty. */
export function encodePrelude(slot: HeaderSlot): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(PRELUDE_BYTES);
  bytes.set(new TextEncoder().encode(MAGIC));
  new DataView(bytes.buffer).setUint32(8, FORMAT_VERSION, true);
  bytes.set(encodeSlot(slot), SLOT_OFFSETS[0]);
  return bytes;
}

export function slotByteOffset(slotIndex: 0 | 1): number {
  return SLOT_OFFSETS[slotIndex];
}

export function encodeSlot(slot: HeaderSlot): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(SLOT_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(slot.generation), true);
  view.setBigUint64(8, BigInt(slot.byteOffset), true);
  view.setBigUint64(16, BigInt(slot.byteLength), true);
  view.setUint32(24, slot.checksum, true);
  view.setUint32(28, crc32(bytes.subarray(0, 28)), true);
  return bytes;
}

/** Header to bytes. The order of the keys is the object's, so equal headers made alike give equal bytes. */
export function encodeHeader(header: FlashHeader): Uint8Array<ArrayBuffer> {
  return encode(header, { ignoreUndefined: true });
}

/** Finds the slot that counts, and reads and checks its header. */
export function readHeader(source: ByteSource): FoundHeader {
  const { path } = source;
  checkMagic(source);
  const problems: string[] = [];
  const found = ([0, 1] as const).flatMap((slotIndex) => {
    const result = readSlot(source, slotIndex);
    if (typeof result !== "string") return [{ ...result, slotIndex }];
    problems.push(`slot ${slotIndex}: ${result}`);
    return [];
  });
  if (found.length === 0) {
    const place = { path, field: "header slots", byteOffset: SLOT_OFFSETS[0] };
    throw new ModelFileError(`no header slot is whole: ${problems.join("; ")}`, place);
  }
  found.sort((one, other) => other.slot.generation - one.slot.generation);
  const [{ bytes, slot, slotIndex }] = found;
  const damaged = problems.find((problem) => !problem.endsWith(UNUSED)) ?? null;
  return { header: decodeHeader(bytes, slot, source), slot, slotIndex, damaged };
}

function checkMagic(source: ByteSource): void {
  const { path, byteLength } = source;
  if (byteLength < PRELUDE_BYTES) {
    const place = { path, field: "prelude", byteOffset: byteLength };
    throw new ModelFileError(`${byteLength} bytes are too few for a .flash file`, place);
  }
  const start = readRange(source, { byteOffset: 0, byteLength: 16 });
  if (new TextDecoder("latin1").decode(start.subarray(0, 8)) !== MAGIC) {
    throw new ModelFileError("this is not a .flash file", { path, field: "magic", byteOffset: 0 });
  }
  const view = new DataView(start.buffer);
  const version = view.getUint32(8, true);
  if (version !== FORMAT_VERSION || view.getUint32(12, true) !== 0) {
    const problem = `format version ${version} is not known (known: ${FORMAT_VERSION})`;
    throw new ModelFileError(problem, { path, field: "version", byteOffset: 8 });
  }
}

/** A whole slot with its header's bytes, or what is wrong with it. */
function readSlot(
  source: ByteSource,
  slotIndex: 0 | 1,
): { slot: HeaderSlot; bytes: Uint8Array<ArrayBuffer> } | string {
  const range = { byteOffset: SLOT_OFFSETS[slotIndex], byteLength: SLOT_BYTES };
  const slotBytes = readRange(source, range);
  const view = new DataView(slotBytes.buffer);
  if (slotBytes.every((byte) => byte === 0)) return UNUSED;
  if (crc32(slotBytes.subarray(0, 28)) !== view.getUint32(28, true)) return "wrong checksum";
  const [generation, byteOffset, byteLength] = [0, 8, 16].map((at) =>
    Number(view.getBigUint64(at, true))
  );
  const slot = { generation, byteOffset, byteLength, checksum: view.getUint32(24, true) };
  if (![generation, byteOffset, byteLength].every(Number.isSafeInteger)) return "a wild number";
  if (byteOffset < PRELUDE_BYTES || byteOffset % SECTION_ALIGNMENT !== 0) {
    return `header offset ${byteOffset} is not a section's`;
  }
  if (byteOffset + byteLength > source.byteLength) return "the header goes beyond the file's end";
  if (byteLength > HEADER_BYTES_MAX) return `a header of ${byteLength} bytes is too long`;
  const bytes = readRange(source, slot);
  if (crc32(bytes) !== slot.checksum) return "wrong checksum of the header";
  return { slot, bytes };
}

function decodeHeader(
  bytes: Uint8Array<ArrayBuffer>,
  slot: HeaderSlot,
  { path, byteLength: fileByteLength }: ByteSource,
): FlashHeader {
  const fail = (problem: string, inHeader: number, options?: ErrorOptions) => {
    const place = { path, field: "header", byteOffset: slot.byteOffset + inHeader };
    return new ModelFileError(problem, place, options);
  };
  const found = findMsgpackProblem(bytes);
  if (found !== null) throw fail(found.problem, found.byteOffset);
  let value: unknown;
  try {
    value = decode(bytes);
  } catch (cause) {
    throw fail("this is not MessagePack", 0, { cause });
  }
  return validateHeader(value, { path, fileByteLength, header: slot });
}
