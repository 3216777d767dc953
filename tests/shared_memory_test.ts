import assert from "node:assert/strict";
import fs from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { MADV_HUGEPAGE, SYS_MADVISE } from "../src/flash/c_abi.ts";
import type { LinuxLibc } from "../src/flash/c_library.ts";
import { adviseHugePages } from "../src/flash/huge_pages.ts";
import { openLinuxLibc } from "../src/flash/libc.ts";
import { createSharedMemory } from "../src/shared_memory.ts";

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

/** The kernel's flags of the memory that `bytes` lie in. */
function flagsOf(bytes: Uint8Array): string[] {
  const address = libc!.addressOf(bytes);
  const areas = fs.readFileSync("/proc/self/smaps", "utf8").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const area = areas.find((text) => {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) /.exec(text) ?? [];
    return from !== undefined && parseInt(from, 16) <= address && address < parseInt(to, 16);
  });
  return /^VmFlags: (.*)$/m.exec(area ?? "")?.[1].trim().split(" ") ?? [];
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
  const fake = (address: number, result: number) =>
    ({
      addressOf: () => address,
      syscall: (...call: number[]) => (calls.push(call), result),
    }) as unknown as LinuxLibc;
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
