import assert from "node:assert/strict";
import { test } from "node:test";
import { formatBytes, parseByteSize, parseShare } from "../src/byte_size.ts";

test("parseByteSize() reads sizes as people write them", () => {
  const sizes: [string | number, number][] = [
    ["512MiB", 512 * 2 ** 20],
    ["3.5GiB", 3.5 * 2 ** 30],
    ["3.5 gib", 3.5 * 2 ** 30],
    ["2GB", 2e9],
    ["2G", 2 * 2 ** 30],
    ["64k", 65536],
    ["1.5KiB", 1536],
    [" 100 ", 100],
    ["100B", 100],
    ["0.5KB", 500],
    ["1TiB", 2 ** 40],
    [4096, 4096],
  ];
  for (const [text, bytes] of sizes) assert.equal(parseByteSize(text), bytes, String(text));
});

test("parseByteSize() refuses what is no size, and repeats it", () => {
  const wrong = [
    "",
    "GiB",
    "3.5XB",
    "-1",
    "0",
    "0.2B",
    "1e9",
    "1,5GiB",
    "1.GiB",
    ".5GiB",
    "9999999TiB",
  ];
  for (const text of [...wrong, NaN, Infinity, -5, "constructor", "1constructor", "1__proto__"]) {
    assert.throws(() => parseByteSize(text), {
      name: "RangeError",
      message: `Cannot read a size such as 512MiB or 3.5GiB: received "${text}"`,
    });
  }
});

test("parseShare() reads percentages and shares", () => {
  const shares: [string | number, number][] = [
    ["20%", 0.2],
    ["12.5 %", 0.125],
    ["0.2", 0.2],
    [0.2, 0.2],
    ["0", 0],
    ["100%", 1],
    [1, 1],
  ];
  for (const [text, share] of shares) assert.equal(parseShare(text), share, String(text));
});

test("parseShare() refuses what is no share from 0 to 1, and repeats it", () => {
  for (const text of ["", "%", "101%", "20", 1.01, "-1%", "half", NaN, Infinity, "20%%"]) {
    assert.throws(() => parseShare(text), {
      name: "RangeError",
      message: `Cannot read a share such as 20% or 0.2: received "${text}"`,
    });
  }
});

test("formatBytes() keeps about three digits", () => {
  const texts: [number, string][] = [
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1.00 KiB"],
    [10 * 1024, "10.0 KiB"],
    [11.8 * 2 ** 20, "11.8 MiB"],
    [512 * 2 ** 20, "512 MiB"],
    [3.5 * 2 ** 30, "3.50 GiB"],
    [2 ** 50, "1024 TiB"],
    [-2048, "-2.00 KiB"],
  ];
  for (const [bytes, text] of texts) assert.equal(formatBytes(bytes), text);
});
