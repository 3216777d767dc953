import fs from "node:fs";
import process from "node:process";
import { askNotToCache } from "./no_cache.ts";

/** What a file's disk allows, found out by asking it. */
export interface DiskFacts {
  /** Whether readers open the file with O_DIRECT. */
  direct: boolean;
  /** Bytes of a block: offsets and lengths of direct reads are multiples of it. */
  blockByteLength: number;
  /**
   * Whether the cache of the operating system is really bypassed: `yes` if the same block read twice came from the
   * disk twice, `no` if it did not, `asked` where the system was told not to cache (F_NOCACHE) and nobody can check, `unknown`
   * where the system does not count.
   */
  bypassed: "yes" | "no" | "asked" | "unknown";
  /** Why not, in words for the user; empty if `bypassed` is `yes`. */
  reason: string;
}

const O_DIRECT = fs.constants.O_DIRECT as number | undefined;

/**
 * Tries direct reads on the file at `path` (which must have at least 4096 bytes).
 * Throws only if the file cannot be opened or read at all.
 */
export function examineDisk(path: string): DiskFacts {
  const cached = (reason: string): DiskFacts => ({
    direct: false,
    blockByteLength: 512,
    bypassed: "no",
    reason,
  });
  // Whatever is wrong with the file itself is the caller's to hear, not a matter of direct reads.
  const plain = fs.openSync(path, fs.constants.O_RDONLY);
  const isAsked = askNotToCache(plain);
  fs.closeSync(plain);
  if (isAsked) {
    // A part of a file system's block would go through the cache all the same.
    const reason = "the system was asked not to cache (F_NOCACHE)";
    return { direct: false, blockByteLength: 4096, bypassed: "asked", reason };
  }
  if (O_DIRECT === undefined || process.platform !== "linux") {
    return cached(`no direct reads on ${process.platform}: the system's cache is in between`);
  }
  let descriptor: number;
  try {
    descriptor = fs.openSync(path, fs.constants.O_RDONLY | O_DIRECT);
  } catch (error) {
    return cached(`the file system does not allow direct reads (${codeOf(error)})`);
  }
  try {
    const blockByteLength = [512, 4096].find((bytes) => canRead(descriptor, bytes));
    if (blockByteLength === undefined) {
      return cached("the file system does not allow direct reads of 4096 bytes");
    }
    return { direct: true, blockByteLength, ...verifyBypass(descriptor) };
  } finally {
    fs.closeSync(descriptor);
  }
}

/** O_DIRECT asks for aligned memory; that of a WebAssembly.Memory is aligned to its pages. */
let alignedBlock: Uint8Array | undefined;

function alignedMemory(byteLength: number): Uint8Array {
  alignedBlock ??= new Uint8Array(new WebAssembly.Memory({ initial: 1 }).buffer);
  return alignedBlock.subarray(0, byteLength);
}

function canRead(descriptor: number, byteLength: number): boolean {
  try {
    const offset = byteLength === 512 ? 512 : 0;
    return fs.readSync(descriptor, alignedMemory(byteLength), 0, byteLength, offset) > 0;
  } catch {
    return false;
  }
}

/** `fsRead` counts 512-byte units that came from a disk; a read from a cache adds none. */
function verifyBypass(descriptor: number): Pick<DiskFacts, "bypassed" | "reason"> {
  const block = alignedMemory(4096);
  fs.readSync(descriptor, block, 0, 4096, 0);
  const before = process.resourceUsage().fsRead;
  fs.readSync(descriptor, block, 0, 4096, 0);
  const after = process.resourceUsage().fsRead;
  if (after > before) return { bypassed: "yes", reason: "" };
  if (before === 0) {
    return { bypassed: "unknown", reason: "the system counts no disk reads of this file system" };
  }
  return { bypassed: "no", reason: "a second direct read did not reach the disk: it was cached" };
}

function codeOf(error: unknown): string {
  return (error as { code?: string }).code ?? String(error);
}
