import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { readFully } from "../../src/flash/disk.ts";
import type { FlashDisk } from "../../src/flash/disk.ts";
import { seededRandom } from "../../src/random.ts";
import { TemporaryFolder } from "../tiny_model.ts";

const FILE_BYTES = 64 * 1024;

/** Bytes whose every place is known: byte i is a function of i. */
export function patternBytes(byteLength: number, seed = 1): Uint8Array<ArrayBuffer> {
  const random = seededRandom(seed);
  return Uint8Array.from({ length: byteLength }, () => 256 * random());
}

/** Memory that direct reads accept: aligned to a page, and shared as the arena is. */
export function sharedBytes(byteLength: number): Uint8Array {
  const pages = Math.ceil(byteLength / 65536);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  return new Uint8Array(memory.buffer, 0, byteLength);
}

/** What every `FlashDisk` must do. `openAt` opens one on a file. */
export function flashDiskContract(name: string, openAt: (path: string) => FlashDisk): void {
  function onDisk(use: (disk: FlashDisk, bytes: Uint8Array, path: string) => void): void {
    using folder = new TemporaryFolder();
    const path = folder.file("pattern");
    const bytes = patternBytes(FILE_BYTES);
    writeFileSync(path, bytes);
    const disk = openAt(path);
    try {
      use(disk, bytes, path);
    } finally {
      disk.close();
    }
  }

  test(`${name}.read() brings bytes from their place, as many as it says`, () => {
    onDisk((disk, bytes) => {
      const target = sharedBytes(16384);
      for (const byteOffset of [0, 512, 4096, 20480]) {
        target.fill(0);
        const count = disk.read(target, byteOffset);
        assert.ok(count > 0 && count <= target.length, `received ${count}`);
        assert.deepEqual(target.slice(0, count), bytes.slice(byteOffset, byteOffset + count));
      }
    });
  });

  test(`${name}.read() writes nowhere but into its target`, () => {
    onDisk((disk, bytes, path) => {
      const memory = sharedBytes(3 * 8192).fill(0xca);
      readFully(disk, path, memory.subarray(8192, 16384), 4096);
      assert.deepEqual(memory.slice(8192, 16384), bytes.slice(4096, 12288));
      assert.ok(memory.slice(0, 8192).every((byte) => byte === 0xca));
      assert.ok(memory.slice(16384).every((byte) => byte === 0xca));
    });
  });

  test(`${name}.read() says 0 at the end of the file`, () => {
    onDisk((disk) => assert.equal(disk.read(sharedBytes(4096), FILE_BYTES), 0));
  });

  test(`readFully() fills its target from ${name}`, () => {
    onDisk((disk, bytes, path) => {
      const target = sharedBytes(FILE_BYTES);
      readFully(disk, path, target, 0);
      assert.deepEqual(target.slice(), bytes);
    });
  });

  test(`readFully() from ${name} names file, offset and length when the file ends`, () => {
    onDisk((disk, _, path) => {
      const byteOffset = FILE_BYTES - 4096;
      assert.throws(() => readFully(disk, path, sharedBytes(8192), byteOffset), {
        name: "FlashReadError",
        path,
        byteOffset,
        byteLength: 8192,
        message: new RegExp(`8192 bytes at byte ${byteOffset} of .*: the file ended after 4096`),
      });
    });
  });
}
