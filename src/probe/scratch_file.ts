import fs from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { seededRandom } from "../random.ts";

const NAME = /^\.flashpipe-probe-(\d+)\.tmp$/;
/** A file of a process that was killed is taken away when it is so old. */
const STALE_MS = 60_000;

/**
 * A file of pseudo-random bytes to be read, for where there is no model file: `.flashpipe-probe-PID.tmp` in the folder. It goes
 * with `Symbol.dispose`; one that a killed process left goes when the next is made.
 */
export class ScratchFile {
  readonly path: string;

  /** Throws what the system says if the folder cannot be written or the disk is full; nothing stays behind. */
  constructor(folder: string, byteLength: number) {
    removeStale(folder);
    this.path = join(folder, `.flashpipe-probe-${process.pid}.tmp`);
    try {
      makeFile(this.path, byteLength);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    fs.rmSync(this.path, { force: true });
  }
}

function removeStale(folder: string): void {
  for (const name of fs.readdirSync(folder)) {
    if (!NAME.test(name)) continue;
    const path = join(folder, name), stat = fs.statSync(path, { throwIfNoEntry: false });
    if (stat && Date.now() - stat.mtimeMs > STALE_MS) fs.rmSync(path, { force: true });
  }
}

/** A file of pseudo-random bytes, on the disk and out of the page cache as far as we can have it. */
export function makeFile(file: string, byteLength: number): void {
  const block = new Uint8Array(new WebAssembly.Memory({ initial: 16 }).buffer);
  const random = seededRandom(1);
  for (let i = 0; i < block.length; i++) block[i] = random() * 256;
  const descriptor = openUncached(file);
  try {
    for (let at = 0; at < byteLength;) {
      at += fs.writeSync(descriptor, block, 0, Math.min(block.length, byteLength - at));
    }
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}

/** Opens for writing past the page cache where that can be: else its growth could not be told from this file's. */
export function openUncached(file: string): number {
  const { O_WRONLY, O_CREAT, O_TRUNC, O_DIRECT = 0 } = fs.constants;
  try {
    return fs.openSync(file, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0o600);
  } catch {
    return fs.openSync(file, "w");
  }
}
