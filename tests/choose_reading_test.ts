import assert from "node:assert/strict";
import { test } from "node:test";
import { chooseReading } from "../src/probe/choose_reading.ts";
import { between, ReadCosts } from "../src/probe/read_costs.ts";
import { readerRow } from "./hand_made_probe.ts";

const WISHES = { recordBytes: 8192, coreCount: 2, mergedBytesMax: 65_536 };
const both = ["pread", "io_uring"] as const;

/** Readers that give so many reads a second, whatever their size. */
function row(
  backend: "pread" | "io_uring",
  readerCount: number,
  depth: number,
  readsPerSecond: number,
  cpuUsPerRead: number,
) {
  return readerRow(
    { backend, readerCount, depth, readBytes: 8192, readsPerSecond },
    cpuUsPerRead,
  );
}

test("between() lies on straight lines over the logarithm", () => {
  const xs = [4, 16, 64], ys = [1, 3, 2];
  assert.deepEqual([1, 4, 8, 16, 32, 64, 99].map((x) => between(xs, ys, x)), [
    1,
    1,
    2,
    3,
    2.5,
    2,
    2,
  ]);
});

test("ReadCosts.of() goes between sizes and depths, and beyond the largest size by bytes", () => {
  const kind = { backend: "io_uring", readerCount: 1 } as const;
  const rows = [
    { ...kind, depth: 1, readBytes: 4096, readsPerSecond: 10_000 },
    { ...kind, depth: 1, readBytes: 65_536, readsPerSecond: 5000 },
    { ...kind, depth: 16, readBytes: 4096, readsPerSecond: 50_000 },
    { ...kind, depth: 16, readBytes: 65_536, readsPerSecond: 10_000 },
  ].map((one) => readerRow(one));
  const costs = new ReadCosts({ rows });
  const microseconds = (depth: number, bytes: number) =>
    Math.round(1e6 * costs.of({ ...kind, depth }, bytes)!.seconds);
  assert.equal(microseconds(1, 4096), 100);
  assert.equal(microseconds(1, 16_384), 150);
  assert.equal(microseconds(4, 4096), 60);
  assert.equal(microseconds(16, 131_072), 200);
  assert.equal(costs.of({ backend: "pread", readerCount: 1, depth: 1 }, 4096), null);
});

test("chooseReading() weighs the disk's time with the processor's", () => {
  // 20 us and 10 of CPU on two cores (25) against 19 and 40 (39).
  const rows = [row("io_uring", 1, 32, 50_000, 10), row("pread", 16, 16, 1e6 / 19, 40)];
  const { backend, readerCount, depth } = chooseReading({ ...DISK, rows }, {
    ...WISHES,
    backends: both,
  })!;
  assert.deepEqual([backend, readerCount, depth], ["io_uring", 1, 32]);
  const forced = chooseReading({ ...DISK, rows }, { ...WISHES, backends: ["pread"] })!;
  assert.deepEqual([forced.backend, forced.readerCount, forced.depth], ["pread", 16, 1]);
});

test("chooseReading() takes a second reader or a deeper queue only for what they gain", () => {
  const one = row("io_uring", 1, 32, 50_000, 0), pread = row("pread", 8, 8, 1000, 50);
  const of = (other: ReturnType<typeof row>) => {
    const { readerCount, depth } = chooseReading({ ...DISK, rows: [other, one, pread] }, {
      ...WISHES,
      backends: both,
    })!;
    return [readerCount, depth];
  };
  assert.deepEqual(of(row("io_uring", 2, 64, 55_000, 0)), [1, 32]);
  assert.deepEqual(of(row("io_uring", 2, 64, 65_000, 0)), [2, 32]);
  assert.deepEqual(of(row("io_uring", 1, 64, 51_000, 0)), [1, 32]);
  assert.deepEqual(of(row("io_uring", 1, 64, 60_000, 0)), [1, 64]);
});

test("chooseReading() chooses nothing where a backend that can be used was not measured", () => {
  const rows = [row("pread", 8, 8, 50_000, 10)];
  assert.equal(chooseReading({ ...DISK, rows }, { ...WISHES, backends: both }), null);
  assert.notEqual(chooseReading({ ...DISK, rows }, { ...WISHES, backends: ["pread"] }), null);
  const wished = { ...WISHES, backends: ["pread"] as const, readerCount: 5 };
  assert.equal(chooseReading({ ...DISK, rows }, wished), null);
});

test("chooseReading() reads over a gap as long as that is cheaper than another read", () => {
  // A read takes 10 us and 1 us for each KiB more than one.
  const sizes = [1, 2, 4, 8, 16, 32, 64];
  const rows = sizes.map((kibibytes) =>
    readerRow({
      backend: "pread",
      readerCount: 8,
      depth: 8,
      readBytes: 1024 * kibibytes,
      readsPerSecond: 1e6 / (10 + kibibytes - 1),
    }, 0)
  );
  const gapOf = (recordBytes: number) =>
    chooseReading({ ...DISK, rows }, { ...WISHES, recordBytes, backends: ["pread"] })!.gapBytes;
  // Two of 1 KiB: 20 us, 0.85 of it 17; one of 8 KiB takes 17, less what copying takes: 7 KiB with a gap of 5.
  assert.equal(gapOf(1024), 5 * 1024);
  // Two of 16 KiB: 50 us, 42.5 of it; 32 KiB take 41, 33 KiB about 42: no gap but the smallest one.
  assert.ok(gapOf(16_384) <= 2048);
  const flat = rows.map((one) => ({ ...one, readsPerSecond: 1000 }));
  const always = chooseReading({ ...DISK, rows: flat }, { ...WISHES, backends: ["pread"] })!;
  assert.equal(always.gapBytes, 65_536 - 2 * 8192);
});

const DISK = { direct: true, blockByteLength: 512, bypassed: "yes" } as const;
