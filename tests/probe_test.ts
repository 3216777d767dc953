import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { canUseUring } from "../src/flash/uring_reader.ts";
import { QUANTIZATIONS } from "../src/format/layout.ts";
import { open } from "../src/open.ts";
import { findProbe, keepProbe } from "../src/probe/kept_probe.ts";
import { probe } from "../src/probe/probe.ts";
import type { ProbeSizes } from "../src/probe/probe.ts";
import { probePlot } from "../src/probe/probe_plot.ts";
import { PROBE_VERSION, probeSchema } from "../src/probe/probe_result.ts";
import { renderProbe } from "../src/probe/render_probe.ts";
import { ScratchFile } from "../src/probe/scratch_file.ts";
import { renderPlot } from "../src/cli/plot.ts";
import { runtimeName } from "../src/runtime.ts";
import { handMadeProbe } from "./hand_made_probe.ts";
import { PackedModels } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** Nothing is measured here: only that all is there. */
const SMALL: ProbeSizes = {
  disk: {
    rigs: [
      { backend: "pread", readerCount: 1, depth: 1 },
      { backend: "pread", readerCount: 2, depth: 2 },
      { backend: "io_uring", readerCount: 1, depth: 8 },
      { backend: "io_uring", readerCount: 2, depth: 4 },
    ],
    readSizes: [4096, 8700, 65_536],
    sequentialBytes: 65_536,
    seconds: 0.002,
    rounds: 2,
  },
  kernels: { cols: [64, 256], workingBytes: [2 ** 18], seconds: 0.0005 },
  memory: { seconds: 0.002 },
  scratchBytes: 2 ** 20,
};

let folderCount = 0;
function newFolder(): string {
  const folder = models.file(`probed-${folderCount++}`);
  mkdirSync(folder);
  return folder;
}

test("probe() measures every kind of reader, size and kernel in a folder, and leaves no file there", async () => {
  const folder = newFolder(), phases = new Set<string>();
  const result = await probe(folder, {
    sizes: SMALL,
    onProgress: ({ done, total, phase }) => {
      assert.ok(done <= total);
      phases.add(phase);
    },
  });
  assert.deepEqual(probeSchema.parse(result), result);
  const hasUring = canUseUring();
  const rigs = SMALL.disk.rigs.filter(({ backend }) => backend === "pread" || hasUring);
  const found = result.disk.rows.map((row) =>
    [row.backend, row.readerCount, row.depth, row.readBytes, row.isSequential].join()
  );
  // 8700 bytes are 17 blocks of 512, or 3 of 4096.
  const odd = result.disk.blockByteLength === 512 ? 8704 : 12_288;
  const expected = rigs.flatMap(({ backend, readerCount, depth }) =>
    ["4096,false", `${odd},false`, "65536,false", "65536,true"]
      .map((read) => `${backend},${readerCount},${depth},${read}`)
  );
  assert.deepEqual(found.sort(), expected.sort());
  for (const dtype of QUANTIZATIONS) {
    const rows = result.kernels.rows.filter((row) => row.dtype === dtype)
      .map(({ kernel, cols }) => `${kernel} ${cols}`);
    assert.deepEqual(rows.sort(), ["down 256", "matvec 256", "matvec 64", "up 256"]);
  }
  assert.deepEqual([...phases], ["disk", "memory", "kernels"]);
  assert.equal(result.missing.some((text) => text.startsWith("io_uring")), !hasUring);
  assert.deepEqual(readdirSync(folder), []);

  const text = renderProbe(result, { kept: null, seconds: 1, isKept: true });
  for (const part of ["pread, 2", "matvec", "q8", "kept      nowhere"]) {
    assert.ok(text.includes(part));
  }
  const svg = await renderPlot(probePlot(result));
  assert.ok(svg.includes("CPU a read (us)"));
});

test("probe() reads a model's file as it is, and stops when it is told to", async () => {
  const path = await models.flashOf("opt"), bytes = readFileSync(path);
  const before = readdirSync(models.path);
  const controller = new AbortController();
  const stopped = probe(path, {
    sizes: SMALL,
    signal: controller.signal,
    onProgress: () => controller.abort(new Error("enough")),
  });
  await assert.rejects(stopped, /enough/);
  assert.deepEqual(readdirSync(models.path), before);
  assert.deepEqual(readFileSync(path), bytes);
});

test("a probe that is stopped takes its file away; one that was killed leaves one to the next", async () => {
  const folder = newFolder();
  const stopped = probe(folder, { sizes: SMALL, signal: AbortSignal.abort(new Error("no")) });
  await assert.rejects(stopped, /no/);
  assert.deepEqual(readdirSync(folder), []);
  const stale = join(folder, ".flashpipe-probe-1.tmp"),
    fresh = join(folder, ".flashpipe-probe-2.tmp");
  for (const path of [stale, fresh]) writeFileSync(path, "");
  utimesSync(stale, 1, 1);
  new ScratchFile(folder, 4096)[Symbol.dispose]();
  assert.deepEqual(readdirSync(folder), [basename(fresh)]);
});

test("keepProbe() keeps one probe of each runtime beside the file, and findProbe() finds it", () => {
  const folder = newFolder(), path = join(folder, "a.flash");
  writeFileSync(path, "");
  assert.deepEqual(findProbe(path), { probe: null, path: null, reason: "" });
  const first = handMadeProbe(path);
  const other = { ...first, place: { ...first.place, runtime: "another 1.0" } };
  const kept = join(folder, ".flashpipe-probe.json");
  for (const one of [first, other, { ...first, createdAt: "later" }]) {
    assert.equal(keepProbe(one, path), kept);
  }
  const { probes } = JSON.parse(readFileSync(kept, "utf8"));
  assert.deepEqual(probes.map(({ createdAt }: { createdAt: string }) => createdAt), [
    "later",
    first.createdAt,
  ]);
  const found = findProbe(join(folder, "a.flash"));
  assert.deepEqual(found, { probe: { ...first, createdAt: "later" }, path: kept, reason: "" });
  assert.deepEqual(readdirSync(folder).sort(), [".flashpipe-probe.json", "a.flash"]);
});

test("findProbe() uses no probe that is damaged, foreign or of another version, and says why", () => {
  const folder = newFolder(), kept = join(folder, ".flashpipe-probe.json");
  const right = handMadeProbe(folder), { place } = right;
  const rows: [unknown, RegExp | null][] = [
    [right, null],
    [{ ...right, place: { ...place, processor: null } }, null],
    [{ ...right, version: PROBE_VERSION + 1 }, /of another version/],
    [{ ...right, place: { ...place, device: place.device + 1 } }, /of another disk/],
    [{ ...right, place: { ...place, runtime: "Deno 0.1" } }, /of Deno 0\.1/],
    [{ ...right, place: { ...place, coreCount: place.coreCount + 1 } }, /of \d+ cores/],
    [{ ...right, memory: { ...right.memory, oneCoreBytesPerSecond: -1 } }, /damaged/],
    [{ ...right, extra: 1 }, /damaged/],
    [null, /of another version/],
  ];
  for (const [candidate, reason] of rows) {
    writeFileSync(kept, JSON.stringify({ probes: [candidate] }));
    const found = findProbe(folder);
    assert.equal(found.probe !== null, reason === null, JSON.stringify(candidate)?.slice(0, 200));
    if (reason) assert.match(found.reason, reason);
  }
  if (place.processor !== null) {
    const foreign = { ...right, place: { ...place, processor: "another" } };
    writeFileSync(kept, JSON.stringify({ probes: [foreign] }));
    assert.match(findProbe(folder).reason, /of another processor/);
  }
  for (const text of ["", "{", "[]", '{"probes":1}', "x".repeat(5 * 2 ** 20)]) {
    writeFileSync(kept, text);
    assert.match(findProbe(folder).reason, /is damaged$/, text.slice(0, 20));
  }
});

test("keepProbe() goes to the cache folder where the file's folder cannot be written", () => {
  const folder = newFolder(), cache = newFolder(), before = process.env.XDG_CACHE_HOME;
  // A folder stands where the file would be: what root may write is not refused otherwise.
  mkdirSync(join(folder, ".flashpipe-probe.json", "in the way"), { recursive: true });
  process.env.XDG_CACHE_HOME = cache;
  try {
    const right = handMadeProbe(folder);
    const kept = keepProbe(right, folder);
    assert.equal(kept, join(cache, "flashpipe", `probe-${right.place.device}.json`));
    assert.deepEqual(findProbe(folder).probe, right);
    assert.deepEqual(readdirSync(folder), [".flashpipe-probe.json"]);
  } finally {
    if (before === undefined) delete process.env.XDG_CACHE_HOME;
    else process.env.XDG_CACHE_HOME = before;
  }
});

test("open() reads as a kept probe says, as the options say before that, and without one by defaults", async () => {
  const folder = newFolder(), path = join(folder, "a.flash");
  writeFileSync(path, readFileSync(await models.flashOf("opt")));
  const readingOf = async (options: Parameters<typeof open>[1]) => {
    let reading: unknown;
    const stop = new Error("planned");
    const opened = open(path, {
      ...options,
      onPlan: ({ settings: { wishes, gapBytes, isProbed } }) => {
        const { backend, readerCount, depth } = wishes;
        reading = [isProbed, backend, readerCount, depth, gapBytes].join();
        throw stop;
      },
    });
    await assert.rejects(opened, stop);
    return reading;
  };
  const pread = { backend: "pread" } as const;
  assert.equal(await readingOf(pread), "false,pread,8,1,8192");
  const right = handMadeProbe(path), [one] = right.disk.rows;
  // Three workers that are fast whatever the size of a read: any gap is worth it.
  const rows = [4096, 65_536].map((readBytes) => ({
    ...one,
    backend: "pread" as const,
    readerCount: 3,
    depth: 3,
    readBytes,
    readsPerSecond: 1e5,
    isSequential: false,
  }));
  keepProbe({ ...right, disk: { ...right.disk, rows } }, path);
  assert.equal(findProbe(path).probe?.place.runtime, runtimeName());
  // A merged read may have 64 KiB, two bundles of 512 bytes among them.
  const gap = 64 * 1024 - 2 * 512;
  assert.equal(await readingOf(pread), `true,pread,3,1,${gap}`);
  assert.equal(await readingOf({ ...pread, readers: 5 }), "false,pread,5,1,8192");
  assert.equal(await readingOf({ ...pread, gapBytes: 512 }), "true,pread,3,1,512");
  assert.equal(await readingOf({ ...pread, probe: false }), "false,pread,8,1,8192");
  // What was not probed here is not judged.
  if (canUseUring()) assert.match(String(await readingOf({})), /^false,io_uring,1,/);
  writeFileSync(join(folder, ".flashpipe-probe.json"), "damaged");
  assert.equal(await readingOf(pread), "false,pread,8,1,8192");
});
