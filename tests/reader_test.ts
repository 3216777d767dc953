import assert from "node:assert/strict";
import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from "node:fs";
import { test } from "node:test";
import { ReadPlan } from "../src/cache/read_plan.ts";
import { FlashReadError } from "../src/errors.ts";
import { examineDisk } from "../src/flash/bypass.ts";
import type { DiskSimulation } from "../src/flash/disk.ts";
import { READER_BACKENDS } from "../src/flash/reader_options.ts";
import type { ReaderBackend, ReaderOptions } from "../src/flash/reader_options.ts";
import { canUseUring } from "../src/flash/uring_reader.ts";
import { Control } from "../src/pipeline/control.ts";
import { Crew } from "../src/pipeline/crew.ts";
import { READER } from "../src/pipeline/statistics.ts";
import { seededRandom } from "../src/random.ts";
import { patternBytes } from "./contracts/flash_disk.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const STYLE = { spins: 10, flashSpins: 10, waitMsMax: 10_000 };
const SLOT_BYTES = 4096, SLOT_COUNT = 24, BOUNCE_BYTES = 16384;
const SLOTS_AT = 65536, BOUNCE_AT = 4 * 65536, ARENA_BYTES = 8 * 65536;

/** Real readers over a file; `use` writes tickets and waits for them. */
async function withReaders(
  path: string,
  {
    simulation,
    backend = "pread",
    registered,
    readerCount = 2,
    direct = false,
    blockByteLength = 512,
  }: {
    simulation?: DiskSimulation;
    backend?: ReaderBackend;
    registered?: ReaderOptions["registered"];
    readerCount?: number;
    direct?: boolean;
    blockByteLength?: number;
  },
  use: (
    parts: { control: Control; plan: ReadPlan; bytes: Uint8Array; crew: Crew },
  ) => Promise<void>,
): Promise<void> {
  const arena = new WebAssembly.Memory({ initial: 8, maximum: 8, shared: true });
  const share = Control.create({ laneCount: 1, readerCount, flagCount: SLOT_COUNT }, STYLE);
  const control = new Control(share);
  const crew = new Crew(control);
  await crew.start(Array.from({ length: readerCount }, (_, readerIndex) => {
    const depth = backend === "io_uring" ? 4 : 1;
    const address = BOUNCE_AT + readerIndex * depth * BOUNCE_BYTES;
    const options: ReaderOptions = {
      readerIndex,
      backend,
      depth,
      control: share,
      arenas: [arena],
      disk: { path, direct, simulation },
      bounce: { addresses: [address], byteLength: BOUNCE_BYTES },
      registered,
      timeOrigin: performance.timeOrigin,
    };
    return { name: `reader ${readerIndex}`, file: "reader" as const, options };
  }));
  const options = { blockByteLength, gapBytesMax: 2048, mergedBytesMax: BOUNCE_BYTES };
  const plan = new ReadPlan(control, options);
  try {
    await use({ control, plan, bytes: new Uint8Array(arena.buffer), crew });
  } finally {
    await crew.close();
  }
}

/** Waits until all tickets have landed, or the pipeline failed. */
async function untilLanded(control: Control, plan: ReadPlan): Promise<void> {
  for (let tries = 0; !control.sequence("landed").hasReached(plan.ticketCount); tries++) {
    if (control.words[0] !== 0) return;
    assert.ok(tries < 1000, "the reads did not land");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const WHY_NO_URING = canUseUring() ? false : "io_uring needs Linux, FFI and permission";

/** Each kind of reader, and of disk behind it; io_uring with all, some, and none of the memory registered. */
const READERS: [string, Parameters<typeof withReaders>[1]][] = [
  ["pread from a real disk", {}],
  [
    "pread from a slow and short disk",
    { simulation: { seed: 9, shortRate: 0.6, delayMsMax: 1 } },
  ],
  ["io_uring", { backend: "io_uring" }],
  ["io_uring to registered memory", {
    backend: "io_uring",
    registered: { arena: 0, address: SLOTS_AT, byteLength: ARENA_BYTES - SLOTS_AT },
  }],
  ["io_uring to memory that is registered in part", {
    backend: "io_uring",
    registered: { arena: 0, address: SLOTS_AT + 3 * SLOT_BYTES, byteLength: 8 * SLOT_BYTES },
  }],
];

for (const [name, kind] of READERS) {
  const skip = kind.backend === "io_uring" && WHY_NO_URING;
  test(
    `Reader by ${name} brings random records to their slots, alone and merged`,
    { skip },
    async () => {
      using folder = new TemporaryFolder();
      const path = folder.file("f");
      const file = patternBytes(128 * 1024);
      writeFileSync(path, file);
      const { direct, blockByteLength } = examineDisk(path);
      await withReaders(
        path,
        { ...kind, direct, blockByteLength },
        async ({ control, plan, bytes }) => {
          const random = seededRandom(5), stride = 544;
          for (let round = 0; round < 12; round++) {
            const priority = round % 3 === 0 ? "early" as const : "late" as const;
            const taken = priority === "early" ? 8 : SLOT_COUNT;
            const neurons = Array.from({ length: 128 * 1024 / stride | 0 }, (_, neuron) => neuron)
              .filter(() => random() < 0.1).slice(0, taken);
            bytes.fill(0, SLOTS_AT, SLOTS_AT + SLOT_COUNT * SLOT_BYTES);
            control.words.fill(0, control.layout.flags, control.layout.flags + SLOT_COUNT);
            plan.begin(priority, 0);
            neurons.forEach((neuron, slot) => {
              const record = { byteOffset: neuron * stride, byteLength: stride };
              plan.add(record, SLOTS_AT + slot * SLOT_BYTES, slot);
            });
            plan.finish();
            plan.ring();
            await untilLanded(control, plan);
            neurons.forEach((neuron, slot) => {
              assert.equal(control.words[control.layout.flags + slot], 1, `flag of slot ${slot}`);
              const at = SLOTS_AT + slot * SLOT_BYTES + neuron * stride % blockByteLength;
              const wanted = file.subarray(neuron * stride, (neuron + 1) * stride);
              assert.deepEqual(bytes.slice(at, at + stride), wanted.slice(), `neuron ${neuron}`);
            });
            const raised = control.words.subarray(control.layout.flags).slice(0, SLOT_COUNT);
            assert.equal(
              raised.reduce((sum, flag) => sum + flag),
              neurons.length,
              "no other flag is up",
            );
          }
          const reads = [2, 3].map((thread) => control.statistics(thread)[READER.reads]);
          assert.equal(reads[0] + reads[1], plan.ticketCount);
          assert.equal(control.words[control.layout.inFlight], 0);
        },
      );
    },
  );
}

test("Reader reads offsets above 4 GiB", async (context) => {
  using folder = new TemporaryFolder();
  const path = folder.file("sparse");
  const byteOffset = 4 * 2 ** 30 + 3 * 4096;
  const record = patternBytes(4096);
  const descriptor = openSync(path, "w");
  try {
    ftruncateSync(descriptor, byteOffset + 8192);
    writeSync(descriptor, record, 0, 4096, byteOffset);
  } catch (error) {
    return context.diagnostic?.(`no sparse files here: ${error}`);
  } finally {
    closeSync(descriptor);
  }
  await withReaders(path, {}, async ({ control, plan, bytes }) => {
    plan.begin("late", 0);
    plan.add({ byteOffset, byteLength: 4096 }, SLOTS_AT, 0);
    plan.finish();
    plan.ring();
    await untilLanded(control, plan);
    assert.deepEqual(bytes.slice(SLOTS_AT, SLOTS_AT + 4096), record);
  });
});

for (const backend of READER_BACKENDS) {
  const skip = backend === "io_uring" && WHY_NO_URING;
  test(
    `Reader by ${backend} that fails tells path and offset, stops the others, and raises no flag`,
    { skip },
    async () => {
      using folder = new TemporaryFolder();
      const path = folder.file("f");
      writeFileSync(path, patternBytes(8192));
      await withReaders(path, { backend, readerCount: 3 }, async ({ control, plan, crew }) => {
        plan.begin("late", 0);
        plan.add({ byteOffset: 2 ** 33 + 512, byteLength: 512 }, SLOTS_AT, 0);
        plan.finish();
        plan.ring();
        await untilLanded(control, plan);
        for (let tries = 0; !crew.failure; tries++) {
          assert.ok(tries < 400, "no failure was reported");
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
        const failure = crew.failure as FlashReadError;
        assert.ok(failure instanceof FlashReadError, String(failure));
        const { byteOffset, byteLength, message } = failure;
        assert.deepEqual({ path: failure.path, byteOffset, byteLength }, {
          path,
          byteOffset: 2 ** 33 + 512,
          byteLength: 512,
        });
        assert.match(
          message,
          /^Cannot read 512 bytes at byte 8589935104 of .*f: the file ended after 0/,
        );
        assert.equal(control.words[control.layout.flags], 0);
      });
    },
  );
}

test("Crew.start() fails, and leaves nobody behind, if a reader cannot open its file", async () => {
  await assert.rejects(
    withReaders("no such file", { readerCount: 2 }, () => Promise.reject(new Error("started"))),
    /ENOENT/,
  );
});
