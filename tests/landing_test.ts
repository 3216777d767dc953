import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { Control } from "../src/pipeline/control.ts";
import { LandingBell, LandingCounter } from "../src/pipeline/landing.ts";
import { seededRandom } from "../src/random.ts";
import type { AnnouncerOptions } from "./workers/announcer.ts";

function makeControl(waitMsMax = 10_000, landed = 0) {
  const style = { spins: 0, flashSpins: 5, waitMsMax };
  const share = Control.create({ laneCount: 2, readerCount: 1, flagCount: 1 }, style);
  const control = new Control(share);
  control.words[control.layout.sequences.landed] = landed;
  return { share, control, bell: new LandingBell(control, 1) };
}

/** Readers that announce in workers, while this thread is the lane. */
async function withReaders(options: AnnouncerOptions[], use: () => void): Promise<void> {
  const url = new URL("./workers/announcer.ts", import.meta.url);
  const workers = options.map((workerData) => new Worker(url, { workerData }));
  try {
    use();
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

for (const start of [0, 2 ** 31 - 100, -100]) {
  test(`LandingBell.waitFor() misses no landing of several readers, counting from ${start}`, async () => {
    const { share, control, bell } = makeControl(10_000, start);
    const ticketCount = 400, readers = 2;
    const options = Array.from({ length: readers }, (_, seed) => ({
      share,
      ticketCount,
      seed,
      pauseMsMax: 0.3,
      failsAtEnd: false,
    }));
    await withReaders(options, () => {
      const random = seededRandom(start);
      let count = 0;
      while (count < readers * ticketCount) {
        count = Math.min(readers * ticketCount, count + 1 + Math.floor(random() * 20));
        bell.waitFor((start + count) | 0, `ticket ${count}`);
        assert.ok(((bell.landed - start - count) | 0) >= 0);
        assert.equal(control.words[control.layout.landingBells[1] + 1], 0, "it is awake");
      }
    });
  });
}

test("LandingCounter.announce() rings only for the count that was asked for", () => {
  const { control } = makeControl();
  const [at] = control.layout.landingBells;
  const counter = new LandingCounter(control);
  control.words[at + 1] = 1;
  control.words[at + 2] = 3;
  counter.announce(1);
  counter.announce(1);
  assert.equal(control.words[at], 0);
  counter.announce(1);
  assert.equal(control.words[at], 1);
  assert.equal(control.words[control.layout.landingBells[1]], 0, "the other lane is awake");
});

test("LandingBell.waitFor() gives up when nothing lands, and names what it waited for", () => {
  const { bell } = makeControl(20);
  assert.throws(() => bell.waitFor(2, "miss 3 of 4"), {
    name: "WaitTimeoutError",
    message: /^Waited \d+ ms for miss 3 of 4: 0 reads have landed, wanted 2$/,
  });
});

test("LandingBell.waitFor() wakes when the pipeline fails", async () => {
  const { share, bell } = makeControl();
  const options = { share, ticketCount: 1, seed: 1, pauseMsMax: 1, failsAtEnd: true };
  await withReaders([options], () => {
    assert.throws(() => bell.waitFor(5, "nothing"), { name: "PipelineStoppedError" });
  });
});
