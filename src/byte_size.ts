const UNITS: Record<string, number> = {
  "": 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 1024,
  MIB: 1024 ** 2,
  GIB: 1024 ** 3,
  TIB: 1024 ** 4,
  K: 1024,
  M: 1024 ** 2,
  G: 1024 ** 3,
};

/**
 * Reads a size such as `512MiB`, `3.5GiB`, `2GB` or a number of bytes. Throws `RangeError` for anything else.
 *
 * ```ts
 * import { parseByteSize } from "./byte_size.ts";
 * import assert from "node:assert/strict";
 * assert.equal(parseByteSize("1.5KiB"), 1536);
 * ```
 */
export function parseByteSize(text: string | number): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$/.exec(String(text));
  const unit = match && UNITS[match[2].toUpperCase()];
  const bytes = match && unit ? Math.floor(Number(match[1]) * unit) : NaN;
  if (!(bytes > 0) || !Number.isSafeInteger(bytes)) {
    throw new RangeError(`Cannot read a size such as 512MiB or 3.5GiB: received "${text}"`);
  }
  return bytes;
}

/** Reads a share such as `20%` or `0.2` into a number from 0 to 1. Throws `RangeError` for anything else. */
export function parseShare(text: string | number): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(%?)\s*$/.exec(String(text));
  const share = match ? Number(match[1]) / (match[2] ? 100 : 1) : NaN;
  if (!(share >= 0 && share <= 1)) {
    throw new RangeError(`Cannot read a share such as 20% or 0.2: received "${text}"`);
  }
  return share;
}

/** A size for people: "11.8 MB", "3.50 GiB" style is left to units of 1024. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (Math.abs(bytes) >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  const digits = unit === 0 || bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2;
  return `${bytes.toFixed(digits)} ${units[unit]}`;
}
