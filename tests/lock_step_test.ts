import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { inLockStep } from "../src/lock_step.ts";

/** Counts up to `count`; notes how far it came, and whether it came to rest. */
class Counter {
  made = 0;
  isAtRest = false;

  start(count: number, { failAt = -1, delayMs = 0 } = {}) {
    return (signal: AbortSignal) => this.#run(count, failAt, delayMs, signal);
  }

  async *#run(count: number, failAt: number, delayMs: number, signal: AbortSignal) {
    try {
      for (let i = 0; i < count; i++) {
        if (delayMs > 0) await sleep(delayMs);
        if (signal.aborted) throw signal.reason;
        if (i === failAt) throw new Error(`broke at ${i}`);
        this.made++;
        yield i;
      }
    } finally {
      this.isAtRest = true;
    }
  }
}

async function take(stream: AsyncIterable<number[]>): Promise<number[][]> {
  const rows: number[][] = [];
  for await (const row of stream) rows.push(row);
  return rows;
}

test("inLockStep() yields one value of each, at the pace of the slowest", async () => {
  const fast = new Counter(), slow = new Counter();
  const rows = inLockStep([fast.start(3), slow.start(3, { delayMs: 5 })]);
  assert.deepEqual((await rows.next()).value, [0, 0]);
  assert.equal(fast.made, 1);
  assert.deepEqual(await take(rows), [[1, 1], [2, 2]]);
  assert.ok(fast.isAtRest && slow.isAtRest);
});

test("inLockStep() ends the others when one fails, and throws its failure", async () => {
  const failing = new Counter(), slow = new Counter();
  const rows = inLockStep([failing.start(9, { failAt: 2 }), slow.start(9, { delayMs: 5 })]);
  await assert.rejects(take(rows), { message: "broke at 2" });
  assert.ok(failing.isAtRest && slow.isAtRest);
  assert.ok(slow.made <= 3);
});

test("inLockStep() refuses streams of different lengths", async () => {
  const long = new Counter();
  await assert.rejects(take(inLockStep([new Counter().start(2), long.start(9)])), /ended before/);
  assert.ok(long.isAtRest);
});

test("inLockStep() ends all when the consumer leaves, or the signal says so", async () => {
  const counters = [new Counter(), new Counter()];
  for await (const _ of inLockStep(counters.map((counter) => counter.start(9)))) break;
  assert.ok(counters.every(({ isAtRest, made }) => isAtRest && made === 1));
  const controller = new AbortController(), again = [new Counter(), new Counter()];
  const rows = inLockStep(again.map((counter) => counter.start(9)), controller.signal);
  await rows.next();
  controller.abort(new Error("enough"));
  await assert.rejects(rows.next(), { message: "enough" });
  assert.ok(again.every(({ isAtRest, made }) => isAtRest && made === 1));
});
