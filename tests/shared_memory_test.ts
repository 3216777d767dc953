import assert from "node:assert/strict";
import fs from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { MADV_HUGEPAGE, SYS_MADVISE } from "../src/flash/c_abi.ts";
import type { LinuxLibc } from "../src/flash/c_library.ts";
import { adviseHugePages, populate } from "../src/flash/memory_advice.ts";
import { openLinuxLibc } from "../src/flash/libc.ts";
import { createSharedMemory, populateMemory } from "../src/shared_memory.ts";

const libc = openLinuxLibc();

/** Whether the kernel has huge pages and lets us look; Deno wants `--allow-all` for it. */
function canLook(): boolean {
  try {
    return libc !== null && fs.existsSync("/sys/kernel/mm/transparent_hugepage/enabled") &&
      fs.readFileSync("/proc/self/smaps").length > 0;
  } catch {
    return false;
  }
}
const skip = canLook() ? false : "no FFI to Linux, no huge pages, or no permission to look at them";

/** What the kernel says of the memory that `bytes` lie in. */
function areaOf(bytes: Uint8Array): string {
  const address = libc!.addressOf(bytes);
  const areas = fs.readFileSync("/proc/self/smaps", "utf8").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  return areas.find((text) => {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) /.exec(text) ?? [];
    return from !== undefined && parseInt(from, 16) <= address && address < parseInt(to, 16);
  }) ?? "";
}

function flagsOf(bytes: Uint8Array): string[] {
  return /^VmFlags: (.*)$/m.exec(areaOf(bytes))?.[1].trim().split(" ") ?? [];
}

/** Bytes of the area that are there. */
function residentBytesOf(bytes: Uint8Array): number {
  return 1024 * Number(/^Rss: +(\d+) kB$/m.exec(areaOf(bytes))?.[1]);
}

/** A libc where all bytes lie at `address`, and each call has this result. */
function fakeLibc(address: number, result: number, calls: number[][] = []): LinuxLibc {
  const syscall = (...call: number[]) => (calls.push(call), result);
  return { addressOf: () => address, syscall } as unknown as LinuxLibc;
}

test("createSharedMemory() makes a shared memory of whole pages", () => {
  const { buffer } = createSharedMemory(65_537);
  assert.equal(buffer.byteLength, 131_072);
  assert.ok(buffer instanceof SharedArrayBuffer);
  assert.throws(() => createSharedMemory(2 ** 40), RangeError);
});

test("createSharedMemory() asks for huge pages, unless told otherwise", { skip }, () => {
  const huge = createSharedMemory(2 ** 24),
    small = createSharedMemory(2 ** 24, { hugePages: false });
  assert.ok(flagsOf(new Uint8Array(huge.buffer)).includes("hg"));
  assert.ok(!flagsOf(new Uint8Array(small.buffer)).includes("hg"));
});

test("adviseHugePages() asks for whole pages, and says whether the system agreed", () => {
  const bytes = new Uint8Array(1), calls: number[][] = [];
  const fake = (address: number, result: number) => fakeLibc(address, result, calls);
  const range = { length: 10_000 } as Uint8Array;
  assert.equal(adviseHugePages(fake(4097, 0), range), true);
  assert.deepEqual(calls, [[SYS_MADVISE[process.arch]!, 8192, 14_097 - 8192, MADV_HUGEPAGE]]);
  assert.equal(adviseHugePages(fake(4096, -1), range), false, "refused");
  assert.equal(adviseHugePages(fake(4097, 0), bytes), false, "less than a page");
  assert.equal(calls.length, 2);
});

const skipFfi = libc ? false : "no FFI to Linux here";

test("what is asked for huge pages keeps its bytes", { skip: skipFfi }, () => {
  const bytes = new Uint8Array(createSharedMemory(2 ** 22, { hugePages: false }).buffer);
  bytes.fill(7);
  adviseHugePages(libc!, bytes);
  assert.ok(bytes.every((byte) => byte === 7));
});

test("populateMemory() has all pages there, and what they hold stays", { skip }, async () => {
  const memory = createSharedMemory(3 * 2 ** 27), bytes = new Uint8Array(memory.buffer);
  bytes[12_345] = 7;
  assert.ok(residentBytesOf(bytes) < bytes.length / 2);
  await populateMemory(memory);
  assert.ok(residentBytesOf(bytes) >= bytes.length);
  assert.equal(bytes[12_345], 7);
  assert.equal(bytes.at(-1), 0);
});

test("populateMemory() stops when it is told to", { skip: skipFfi }, async () => {
  const memory = createSharedMemory(2 ** 16);
  await assert.rejects(populateMemory(memory, AbortSignal.abort()), { name: "AbortError" });
});

test("populate() says whether the system did so", () => {
  const range = { length: 8192 } as Uint8Array;
  assert.equal(populate(fakeLibc(4096, 0), range), true);
  assert.equal(populate(fakeLibc(4096, -1), range), false);
});
