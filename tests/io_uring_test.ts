import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { SYS_IO_URING_REGISTER, SYS_IO_URING_SETUP } from "../src/flash/c_abi.ts";
import { IoUring, IoUringRefusedError } from "../src/flash/io_uring.ts";
import type { IoUringOptions } from "../src/flash/io_uring.ts";
import { openLinuxLibc } from "../src/flash/libc.ts";
import type { LinuxLibc } from "../src/flash/c_library.ts";
import { canUseUring } from "../src/flash/uring_reader.ts";
import { seededRandom } from "../src/random.ts";
import { patternBytes } from "./contracts/flash_disk.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const skip = canUseUring() ? false : "io_uring needs Linux, FFI and permission";
const FILE = patternBytes(256 * 1024);
const EINVAL = 22, EBADF = 9;

/** A ring for a file of known bytes. */
function withRing(
  options: Partial<IoUringOptions>,
  use: (ring: IoUring, memory: Uint8Array) => void,
  libc: LinuxLibc = openLinuxLibc()!,
): void {
  using folder = new TemporaryFolder();
  const path = folder.file("f");
  writeFileSync(path, FILE);
  const memory = new Uint8Array(
    new WebAssembly.Memory({ initial: 8, maximum: 8, shared: true }).buffer,
  );
  const descriptor = libc.open(path, 0);
  const ring = new IoUring(libc, {
    depth: 8,
    descriptor,
    memories: [memory],
    waitMs: 20,
    ...options,
  });
  try {
    use(ring, memory);
  } finally {
    ring.close();
    libc.close(descriptor);
  }
}

/** A read of 4096 bytes to the beginning of the memory. */
function read(byteOffset: number) {
  return { byteOffset, byteLength: 4096, arena: 0, address: 0 };
}

/** Reads random ranges, all of the ring's places at a time, and compares. */
function readAndCompare(ring: IoUring, memory: Uint8Array): void {
  const random = seededRandom(7);
  for (let round = 0; round < 20; round++) {
    memory.fill(0);
    const reads = Array.from({ length: 8 }, (_, id) => ({
      byteOffset: Math.floor(random() * 200_000),
      byteLength: 1 + Math.floor(random() * 50_000),
      arena: 0,
      address: id * 65536 + Math.floor(random() * 10_000),
    }));
    reads.forEach((read, id) => ring.queueRead(read, id));
    const done = new Set<number>();
    for (let tries = 0; done.size < 8; tries++) {
      assert.ok(tries < 1000, "reads did not come back");
      ring.wait(1);
      for (let id = ring.next(); id >= 0; id = ring.next()) {
        assert.equal(ring.result, reads[id].byteLength);
        done.add(id);
      }
    }
    for (const { byteOffset, byteLength, address } of reads) {
      assert.deepEqual(
        memory.slice(address, address + byteLength),
        FILE.slice(byteOffset, byteOffset + byteLength),
      );
    }
  }
}

test("IoUring reads to plain memory", { skip }, () => {
  withRing({}, (ring, memory) => {
    assert.equal(ring.isRegistered, false);
    readAndCompare(ring, memory);
  });
});

test(
  "IoUring reads to registered memory, within buffers and across their borders",
  { skip },
  () => {
    const registered = { arena: 0, address: 65536, byteLength: 5 * 65536 + 4096 };
    withRing({ registered, bufferBytesMax: 2 * 65536 }, readAndCompare);
  },
);

test("IoUring reads what there is at the end of the file, and then nothing", { skip }, () => {
  for (const registered of [undefined, { arena: 0, address: 0, byteLength: 65536 }]) {
    withRing({ registered }, (ring, memory) => {
      const end = FILE.length;
      ring.queueRead(read(end - 100), 5);
      assert.equal(ring.wait(1), true);
      assert.equal(ring.next(), 5);
      assert.equal(ring.result, 100);
      assert.deepEqual(memory.slice(0, 100), FILE.slice(end - 100));
      ring.queueRead(read(end), 6);
      ring.submit();
      ring.wait(1);
      assert.equal(ring.next(), 6);
      assert.equal(ring.result, 0);
      assert.equal(ring.next(), -1);
    });
  }
});

test("IoUring.wait() ends when its time is over", { skip }, () => {
  withRing({ waitMs: 5 }, (ring) => {
    assert.equal(ring.wait(1), false);
    assert.equal(ring.next(), -1);
  });
});

test("IoUring reports an error as minus its number", { skip }, () => {
  // An old kernel's way, where no file is registered: a descriptor that nobody has.
  withRing({ descriptor: 99_999 }, (ring) => {
    ring.queueRead(read(0), 3);
    ring.wait(1);
    assert.equal(ring.next(), 3);
    assert.equal(ring.result, -EBADF);
  });
});

/** A kernel that refuses what `refuses` says, with `errno`. */
function refusing(
  errno: number,
  refuses: (number: number, args: number[]) => boolean,
): LinuxLibc & { refusals: number } {
  const libc = openLinuxLibc()!;
  let isRefused = false;
  return {
    ...libc,
    refusals: 0,
    syscall(number, ...args) {
      isRefused = refuses(number, args);
      if (!isRefused) return libc.syscall(number, ...args);
      this.refusals++;
      return -1;
    },
    errno: () => isRefused ? errno : libc.errno(),
  };
}

test("IoUring goes on with plain reads where nothing may be registered", { skip }, () => {
  const libc = refusing(12, (number) => number === SYS_IO_URING_REGISTER);
  const registered = { arena: 0, address: 0, byteLength: 8 * 65536 };
  withRing({ registered }, (ring, memory) => {
    assert.equal(libc.refusals, 2);
    assert.equal(ring.isRegistered, false);
    readAndCompare(ring, memory);
  }, libc);
});

test("IoUring does without the flags that an older kernel does not know", { skip }, () => {
  let setups = 0;
  const libc = refusing(EINVAL, (number) => number === SYS_IO_URING_SETUP && ++setups < 3);
  withRing({}, readAndCompare, libc);
  assert.equal(libc.refusals, 2);
});

test("IoUring throws IoUringRefusedError where the kernel allows none", { skip }, () => {
  const libc = refusing(1, (number) => number === SYS_IO_URING_SETUP);
  assert.throws(() => withRing({}, () => {}, libc), IoUringRefusedError);
  assert.equal(libc.refusals, 1, "another flag would not help");
});
