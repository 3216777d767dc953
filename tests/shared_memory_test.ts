import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { adviseHugePages } from "../src/flash/huge_pages.ts";
import { openLinuxLibc } from "../src/flash/libc.ts";
import { createSharedMemory } from "../src/shared_memory.ts";

const MADE = "/sys/kernel/mm/transparent_hugepage/enabled";
const libc = openLinuxLibc();
const skip = libc && fs.existsSync(MADE) ? false : "no FFI to Linux, or a Linux without huge pages";

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

test("adviseHugePages() says whether the system agreed", { skip }, () => {
  const bytes = new Uint8Array(createSharedMemory(2 ** 22, { hugePages: false }).buffer);
  assert.equal(adviseHugePages(libc!, bytes), true);
  assert.equal(adviseHugePages({ ...libc!, syscall: () => -1 }, bytes), false);
  assert.equal(adviseHugePages(libc!, bytes.subarray(100, 200)), false, "less than a page");
});
