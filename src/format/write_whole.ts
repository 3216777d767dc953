import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { FlashWriteError } from "../errors.ts";

/**
 * Writes a small file that is there wholly or not at all, whenever the process dies or the machine does: aside, to the disk, renamed.
 * Throws `FlashWriteError`, which names the file, when the system refuses its bytes; the file is then as it was.
 *
 * @param aside where it is written; who is not the only one to write the file gives a path of their own
 */
export function writeWhole(path: string, bytes: Uint8Array, aside = `${path}.part`): void {
  const descriptor = openSync(aside, "w");
  try {
    try {
      writeFully(descriptor, bytes, { path, byteOffset: 0 });
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(aside, path);
  } catch (error) {
    rmSync(aside, { force: true });
    throw error;
  }
}

/**
 * Writes all of `bytes` at `byteOffset`: short writes continue. Throws `FlashWriteError`, which names the file, when the system
 * refuses.
 */
export function writeFully(
  descriptor: number,
  bytes: Uint8Array,
  { path, byteOffset }: { path: string; byteOffset: number },
): void {
  let done = 0;
  while (done < bytes.byteLength) {
    const at = byteOffset + done;
    try {
      done += writeSync(descriptor, bytes, done, bytes.byteLength - done, at);
    } catch (error) {
      throw new FlashWriteError({ path, byteOffset: at, cause: error as Error });
    }
  }
}
