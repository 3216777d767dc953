import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import {
  checkRunning,
  CLOSING_WORD,
  FAULT_WORD,
  LANDED_WORD,
  LINE_WORDS,
  Sequence,
  stopEverybody,
} from "../src/pipeline/sequence.ts";
import type { WaitStyle } from "../src/pipeline/sequence.ts";
import type { WaiterAnswer, WaiterOptions } from "./workers/waiter.ts";

/** Words of the sequence (or barrier) under test, after those that concern everybody. */
const INDEX = LANDED_WORD + LINE_WORDS;
const SEQUENCE_WORDS = INDEX + 2 * LINE_WORDS;
const BOARD = SEQUENCE_WORDS;

/** One that sleeps at once, and one that polls for a while. */
const SLEEPER: WaitStyle = { spins: 0, flashSpins: 0, waitMsMax: 10_000 };
const POLLER: WaitStyle = { spins: 1000, flashSpins: 0, waitMsMax: 10_000 };

function makeWords(start = 0): Int32Array<SharedArrayBuffer> {
  const words = new Int32Array(new SharedArrayBuffer(4 * (BOARD + LINE_WORDS)));
  words[INDEX] = start;
  return words;
}

/** A worker that does `task`; `use` gets it, its answer to come, and a way to see that it sleeps. */
async function withWorkers<T>(
  words: Int32Array<SharedArrayBuffer>,
  tasks: { style: WaitStyle; task: WaiterOptions["task"] }[],
  use: (answers: Promise<WaiterAnswer>[]) => Promise<T>,
): Promise<T> {
  const url = new URL("./workers/waiter.ts", import.meta.url);
  const workers: Worker[] = [];
  const answers = tasks.map((options) => {
    const workerData: WaiterOptions = { buffer: words.buffer, index: INDEX, ...options };
    const worker = new Worker(url, { workerData });
    workers.push(worker);
    return new Promise<WaiterAnswer>((resolve, reject) => {
      worker.on("message", resolve);
      worker.on("error", reject);
    });
  });
  try {
    return await use(answers);
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

/** Waits until `count` threads say that they sleep on the sequence. */
async function untilAsleep(words: Int32Array, count: number): Promise<void> {
  for (let tries = 0; Atomics.load(words, INDEX + 1) < count; tries++) {
    assert.ok(tries < 2000, "no worker went to sleep");
    await sleep(5);
  }
}

for (const [start, name] of [[0, "0"], [2 ** 31 - 1, "2^31 - 1"], [-1, "2^32 - 1"]] as const) {
  test(`Sequence.hasReached() compares by difference, counting from ${name}`, () => {
    const words = makeWords(start);
    const sequence = new Sequence(words, INDEX, SLEEPER);
    assert.ok(sequence.hasReached(start));
    assert.ok(sequence.hasReached((start - 5) | 0));
    assert.ok(!sequence.hasReached((start + 1) | 0));
    sequence.advance();
    assert.ok(sequence.hasReached((start + 1) | 0));
    sequence.advance(3);
    assert.equal(sequence.value, (start + 4) | 0);
    sequence.waitFor((start + 4) | 0, "what is there");
    assert.equal(words[INDEX + 1], 0, "who need not wait does not sleep");
  });

  test(`Sequence.advance() wakes a worker that sleeps, counting from ${name}`, async () => {
    const words = makeWords(start);
    const target = (start + 2) | 0;
    await withWorkers(
      words,
      [{ style: SLEEPER, task: { kind: "wait", target } }],
      async ([answer]) => {
        const sequence = new Sequence(words, INDEX, SLEEPER);
        await untilAsleep(words, 1);
        sequence.advance();
        await untilAsleep(words, 1);
        sequence.advance();
        assert.deepEqual(await answer, { ok: true, seen: target });
        assert.equal(words[INDEX + 1], 0);
      },
    );
  });
}

test("Sequence.advance() wakes all who sleep", async () => {
  const words = makeWords();
  const wait = { style: SLEEPER, task: { kind: "wait" as const, target: 1 } };
  await withWorkers(words, [wait, wait], async (answers) => {
    await untilAsleep(words, 2);
    new Sequence(words, INDEX, SLEEPER).advance();
    for (const answer of answers) assert.deepEqual(await answer, { ok: true, seen: 1 });
  });
});

test("Sequence.waitFor() gives up after its bound and names what it waited for", () => {
  const words = makeWords(4);
  const sequence = new Sequence(words, INDEX, { ...SLEEPER, waitMsMax: 20 });
  assert.throws(() => sequence.waitFor(7, "three kings"), {
    name: "WaitTimeoutError",
    message: /^Waited \d+ ms for three kings: value 4, wanted 7$/,
  });
  assert.equal(words[INDEX + 1], 0, "it sleeps no longer");
});

test("Sequence.waitFor() waits beyond its bound while reads land", async () => {
  const words = makeWords();
  const style = { ...SLEEPER, waitMsMax: 500 };
  await withWorkers(words, [{ style, task: { kind: "wait", target: 1 } }], async ([answer]) => {
    await untilAsleep(words, 1);
    for (let read = 0; read < 40; read++) {
      await sleep(25);
      Atomics.add(words, LANDED_WORD, 1);
    }
    new Sequence(words, INDEX, SLEEPER).advance();
    assert.deepEqual(await answer, { ok: true, seen: 1 });
  });
});

test("Sequence.waitIdle() has no bound", async () => {
  const words = makeWords();
  const style = { ...SLEEPER, waitMsMax: 1 };
  await withWorkers(
    words,
    [{ style, task: { kind: "wait idle", target: 1 } }],
    async ([answer]) => {
      await untilAsleep(words, 1);
      await sleep(250);
      new Sequence(words, INDEX, SLEEPER).advance();
      assert.deepEqual(await answer, { ok: true, seen: 1 });
    },
  );
});

const FLAGS = [
  [FAULT_WORD, "Stopped as another worker failed"],
  [CLOSING_WORD, "Stopped as the pipeline is closing"],
] as const;

for (const [flag, message] of FLAGS) {
  test(`stopEverybody() wakes sleepers, who then say: ${message}`, async () => {
    const words = makeWords();
    const tasks = [
      { style: SLEEPER, task: { kind: "wait" as const, target: 1 } },
      { style: POLLER, task: { kind: "wait idle" as const, target: 1 } },
    ];
    await withWorkers(words, tasks, async (answers) => {
      await untilAsleep(words, 2);
      stopEverybody(words, flag, SEQUENCE_WORDS);
      for (const answer of answers) {
        assert.deepEqual(await answer, { ok: false, name: "PipelineStoppedError", message });
      }
      assert.equal(words[INDEX + 1], 0);
    });
  });

  test(`checkRunning() throws once the flag is up: ${message}`, () => {
    const words = makeWords();
    checkRunning(words);
    stopEverybody(words, flag, SEQUENCE_WORDS);
    assert.throws(() => checkRunning(words), { name: "PipelineStoppedError", message });
    const sequence = new Sequence(words, INDEX, SLEEPER);
    assert.throws(() => sequence.waitFor(1, "nothing"), { name: "PipelineStoppedError" });
    sequence.waitFor(0, "what is there already");
  });
}

test("Barrier.meet() lets nobody go on before all have come", async () => {
  const words = makeWords();
  const laneCount = 3, rounds = 200;
  const tasks = Array.from({ length: laneCount }, (_, lane) => ({
    style: lane === 0 ? POLLER : SLEEPER,
    task: { kind: "meet" as const, lane, laneCount, rounds, board: BOARD },
  }));
  await withWorkers(words, tasks, async (answers) => {
    for (const answer of answers) assert.deepEqual(await answer, { ok: true, seen: rounds });
  });
});

test("Barrier.meet() of one lane does not wait; of two it names the place when nobody comes", async () => {
  const words = makeWords();
  const style = { ...SLEEPER, waitMsMax: 20 };
  const meet = (laneCount: number) => ({
    style,
    task: { kind: "meet" as const, lane: 0, laneCount, rounds: 1, board: BOARD },
  });
  await withWorkers(words, [meet(1)], async ([answer]) => {
    assert.deepEqual(await answer, { ok: true, seen: 1 });
  });
  await withWorkers(words, [meet(2)], async ([answer]) => {
    const said = await answer;
    assert.ok(!said.ok && /for round 1: value 0, wanted 1/.test(said.message));
  });
});
