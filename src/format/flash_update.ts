import { closeSync, fsyncSync, openSync } from "node:fs";
import { crc32 } from "node:zlib";
import { alignUp } from "./align.ts";
import { FlashFile } from "./flash_file.ts";
import {
  type FlashHeader,
  SECTION_ALIGNMENT,
  type StoredTensor,
  TENSOR_ALIGNMENT,
  tensorByteLength,
  type TensorForm,
} from "./header.ts";
import { validateHeader } from "./check_header.ts";
import { encodeHeader, encodeSlot, slotByteOffset } from "./prelude.ts";
import { writeFully } from "./write_whole.ts";

/** Appends a tensor to the file and says where it is. `bytes` are laid out as in layout.ts. */
export type AppendTensor = <Form extends TensorForm>(
  tensor: Form,
  bytes: Uint8Array,
) => Form & Pick<StoredTensor, "byteOffset" | "byteLength" | "checksum">;

/**
 * Gives a `.flash` file a new header, and appended tensors that it refers to, such as predictors. Atomic: sections and
 * header go behind the end of the file; when they are on disk, the header slot that does not count is overwritten, and
 * then counts. A crash before leaves the old header in force, and some unused bytes at the end of the file.
 *
 * One process may update a file at a time. Those that have it open keep the header they read.
 *
 * Returns the new header. Throws what `FlashFile.open` throws, and `ModelFileError` for a header that is not sound.
 *
 * ```ts
 * import { updateFlash } from "./flash_update.ts";
 * function forgetPredictors(path: string) {
 *   updateFlash(path, ({ header }) => ({ ...header, predictors: null }));
 * }
 * ```
 */
export function updateFlash(
  path: string,
  change: (tools: { header: FlashHeader; append: AppendTensor }) => FlashHeader,
): FlashHeader {
  using file = FlashFile.open(path);
  const descriptor = openSync(path, "r+");
  try {
    let end = alignUp(file.byteLength, SECTION_ALIGNMENT);
    const append: AppendTensor = (tensor, bytes) => {
      const byteLength = tensorByteLength(tensor);
      if (bytes.byteLength !== byteLength) {
        throw new RangeError(
          `Cannot append a tensor of shape [${tensor.shape}]: expected ${byteLength} bytes, ` +
            `received ${bytes.byteLength}`,
        );
      }
      const byteOffset = alignUp(end, TENSOR_ALIGNMENT);
      writeFully(descriptor, bytes, { path, byteOffset });
      end = byteOffset + byteLength;
      return { ...tensor, byteOffset, byteLength, checksum: crc32(bytes) };
    };
    const header = change({ header: file.header, append });
    commitHeader({ file, header, descriptor, byteOffset: alignUp(end, SECTION_ALIGNMENT) });
    return header;
  } finally {
    closeSync(descriptor);
  }
}

/** Writes the header, waits for the disk, and only then lets the other slot point to it. */
function commitHeader({ file, header, descriptor, byteOffset }: {
  file: FlashFile;
  header: FlashHeader;
  descriptor: number;
  byteOffset: number;
}): void {
  const bytes = encodeHeader(header);
  const byteLength = bytes.byteLength;
  const fileByteLength = alignUp(byteOffset + byteLength, SECTION_ALIGNMENT);
  const place = { path: file.path, fileByteLength, header: { byteOffset, byteLength } };
  validateHeader(header, place);
  const padded = new Uint8Array(fileByteLength - byteOffset);
  padded.set(bytes);
  const { path } = file;
  writeFully(descriptor, padded, { path, byteOffset });
  fsyncSync(descriptor);
  const generation = file.slot.generation + 1;
  const slot = encodeSlot({ generation, byteOffset, byteLength, checksum: crc32(bytes) });
  const slotAt = slotByteOffset(file.slotIndex === 0 ? 1 : 0);
  writeFully(descriptor, slot, { path, byteOffset: slotAt });
  fsyncSync(descriptor);
}
