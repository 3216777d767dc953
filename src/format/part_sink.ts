import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import type { PieceWriter } from "./direct_writer.ts";
import type { FlashPart, WholePart } from "./flash_writer.ts";
import type { LayerBundles } from "./header.ts";

/** Writes the bytes of one part to their place in the file, in pieces of any size, and sums them up in the part's checksums. */
export class PartSink {
  readonly #file: PieceWriter;
  readonly #part: FlashPart;
  #done = 0;
  /** Of the group that is being written. */
  #checksum = 0;

  constructor(file: PieceWriter, part: FlashPart) {
    this.#file = file;
    this.#part = part;
  }

  get isBegun(): boolean {
    return this.#done > 0;
  }

  get isWhole(): boolean {
    return this.#done === this.#part.byteLength;
  }

  /**
   * Writes the next bytes. Throws `RangeError` for more than the part has, `FlashWriteError`, which names the file, when the system
   * refuses them.
   */
  write(bytes: Uint8Array): void {
    const part = this.#part;
    if (this.#done + bytes.byteLength > part.byteLength) {
      throw new RangeError(`Cannot write ${bytes.byteLength} bytes: the part ends before`);
    }
    if (part.kind === "tensor") part.tensor.checksum = crc32(bytes, part.tensor.checksum);
    else this.#sumGroups(part.bundles, bytes);
    this.#file.write(bytes, part.byteOffset + this.#done);
    this.#done += bytes.byteLength;
    if (this.isWhole) this.#file.flush();
  }

  /** Adds bytes to the checksum of their group, or groups. */
  #sumGroups({ groupCount, bundleByteLength, checksums }: LayerBundles, bytes: Uint8Array): void {
    const groupBytes = groupCount * bundleByteLength;
    const view = new DataView(checksums.buffer, checksums.byteOffset);
    for (let done = 0; done < bytes.byteLength;) {
      const at = this.#done + done;
      const length = Math.min(groupBytes - at % groupBytes, bytes.byteLength - done);
      const before = at % groupBytes === 0 ? 0 : this.#checksum;
      this.#checksum = crc32(bytes.subarray(done, done + length), before);
      view.setUint32(Math.floor(at / groupBytes) * 4, this.#checksum, true);
      done += length;
    }
  }
}

/** The checksums of a part that is whole, for who goes on with its file. */
export function checksumsOf(part: FlashPart): WholePart["checksums"] {
  return part.kind === "tensor"
    ? part.tensor.checksum
    : Buffer.from(part.bundles.checksums).toString("base64");
}

/** What `checksumsOf` gave becomes the part's again. */
export function restoreChecksums(part: FlashPart, checksums: WholePart["checksums"]): void {
  if (part.kind === "tensor") part.tensor.checksum = Number(checksums);
  else part.bundles.checksums.set(Buffer.from(String(checksums), "base64"));
}
