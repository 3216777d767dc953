import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { examineDisk } from "../src/flash/bypass.ts";
import { openDisk, readFully } from "../src/flash/disk.ts";
import type { DiskSimulation, FlashDisk } from "../src/flash/disk.ts";
import { flashDiskContract, patternBytes, sharedBytes } from "./contracts/flash_disk.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const SHORT: DiskSimulation = { seed: 3, shortRate: 0.7 };
const SLOW_AND_SHORT: DiskSimulation = { seed: 4, shortRate: 0.5, delayMsMax: 1 };

flashDiskContract("FileDisk", (path) => openDisk({ path, direct: false }));
flashDiskContract("FileDisk with direct reads where there are any", (path) => {
  return openDisk({ path, direct: examineDisk(path).direct });
});
flashDiskContract("SimulatedDisk", (path) => {
  return openDisk({ path, direct: false, simulation: { seed: 1 } });
});
flashDiskContract("SimulatedDisk that is slow and short", (path) => {
  return openDisk({ path, direct: examineDisk(path).direct, simulation: SLOW_AND_SHORT });
});

/** Answers reads from a script: a count, or an error to throw. */
class ScriptedDisk implements FlashDisk {
  readonly calls: { byteOffset: number; byteLength: number }[] = [];
  readonly #script: (number | Error)[];

  constructor(script: (number | Error)[]) {
    this.#script = script;
  }

  read(target: Uint8Array, byteOffset: number): number {
    this.calls.push({ byteOffset, byteLength: target.length });
    const answer = this.#script[this.calls.length - 1];
    if (answer instanceof Error) throw answer;
    target.fill(this.calls.length, 0, answer);
    return answer;
  }

  close(): void {}
}

test("readFully() goes on where a short read ended", () => {
  const disk = new ScriptedDisk([2, 1, 5]);
  const target = new Uint8Array(8);
  readFully(disk, "f", target, 100);
  assert.deepEqual(disk.calls, [
    { byteOffset: 100, byteLength: 8 },
    { byteOffset: 102, byteLength: 6 },
    { byteOffset: 103, byteLength: 5 },
  ]);
  assert.deepEqual([...target], [1, 1, 2, 3, 3, 3, 3, 3]);
});

test("readFully() keeps offsets above 4 GiB", () => {
  const disk = new ScriptedDisk([4096, 4096]);
  readFully(disk, "f", new Uint8Array(8192), 5 * 2 ** 32 + 4096);
  assert.equal(disk.calls[1].byteOffset, 5 * 2 ** 32 + 8192);
});

test("readFully() reports a fault as FlashReadError with its cause, after a short read too", () => {
  const cause = new Error("EIO: i/o error, read");
  for (const script of [[cause], [512, cause]]) {
    assert.throws(
      () => readFully(new ScriptedDisk(script), "model.flash", new Uint8Array(1024), 4096),
      {
        name: "FlashReadError",
        message: "Cannot read 1024 bytes at byte 4096 of model.flash: EIO: i/o error, read",
        path: "model.flash",
        byteOffset: 4096,
        byteLength: 1024,
        cause,
      },
    );
  }
});

test("readFully() does not loop on a disk that brings nothing", () => {
  assert.throws(() => readFully(new ScriptedDisk([4, 0]), "f", new Uint8Array(8), 0), {
    message: /the file ended after 4 of them/,
  });
});

/** The lengths of the first reads of a simulated disk. */
function readLengths(path: string, simulation: DiskSimulation): number[] {
  const disk = openDisk({ path, direct: false, simulation });
  try {
    return Array.from({ length: 40 }, () => disk.read(sharedBytes(16384), 0));
  } finally {
    disk.close();
  }
}

test("SimulatedDisk is short now and then, the same by the same seed", () => {
  using folder = new TemporaryFolder();
  const path = folder.file("f");
  writeFileSync(path, patternBytes(32768));
  const lengths = readLengths(path, SHORT);
  const shortCount = lengths.filter((length) => length === 4096).length;
  assert.ok(shortCount > 10 && shortCount < 40, `${shortCount} of 40 were short`);
  assert.deepEqual(readLengths(path, SHORT), lengths);
  assert.notDeepEqual(readLengths(path, { ...SHORT, seed: 5 }), lengths);
});

test("SimulatedDisk fails at the read it was told to", () => {
  using folder = new TemporaryFolder();
  const path = folder.file("f");
  writeFileSync(path, patternBytes(8192));
  const disk = openDisk({ path, direct: false, simulation: { seed: 1, failAtRead: 2 } });
  const target = sharedBytes(4096);
  readFully(disk, path, target, 0);
  readFully(disk, path, target, 0);
  assert.throws(() => readFully(disk, path, target, 4096), (error: Error) => {
    assert.match(error.message, /byte 4096 of .*f: EIO: simulated fault/);
    assert.equal((error.cause as { code?: string }).code, "EIO");
    return true;
  });
  readFully(disk, path, target, 0);
  disk.close();
});

test("examineDisk() says what a normal file's disk allows, and why not", () => {
  using folder = new TemporaryFolder();
  const path = folder.file("f");
  writeFileSync(path, patternBytes(65536));
  const facts = examineDisk(path);
  assert.ok([512, 4096].includes(facts.blockByteLength));
  assert.equal(facts.reason === "", facts.bypassed === "yes", "a reason unless it is bypassed");
  if (facts.bypassed === "yes") assert.ok(facts.direct);
  // What it says must hold: whole blocks can be read as it says.
  const disk = openDisk({ path, direct: facts.direct });
  const block = sharedBytes(facts.blockByteLength);
  readFully(disk, path, block, 3 * facts.blockByteLength);
  disk.close();
});

test("examineDisk() throws what the system says if the file cannot be read", () => {
  assert.throws(() => examineDisk("no such file"), { code: "ENOENT" });
});

/** On Linux this is memory: where shm_open has its files. */
const TMPFS = "/dev/shm";

function whyNoTmpfs(): string | false {
  if (process.platform !== "linux") return "only Linux has /dev/shm";
  try {
    rmSync(mkdtempSync(join(TMPFS, "flashpipe-")), { recursive: true });
    return false;
  } catch (error) {
    return `/dev/shm cannot be used: ${(error as Error).message}`;
  }
}

test(
  "examineDisk() never says that a file in memory came from a disk",
  { skip: whyNoTmpfs() },
  () => {
    const folder = mkdtempSync(join(TMPFS, "flashpipe-"));
    try {
      const path = join(folder, "f");
      writeFileSync(path, patternBytes(65536));
      const facts = examineDisk(path);
      assert.notEqual(facts.bypassed, "yes");
      assert.notEqual(facts.reason, "");
      const disk = openDisk({ path, direct: facts.direct });
      readFully(disk, path, sharedBytes(facts.blockByteLength), facts.blockByteLength);
      disk.close();
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);
