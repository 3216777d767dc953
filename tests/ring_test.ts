import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { Ring, ringWordLength } from "../src/pipeline/ring.ts";
import type { RingShape } from "../src/pipeline/ring.ts";
import { LINE_WORDS, Sequence } from "../src/pipeline/sequence.ts";
import { seededRandom } from "../src/random.ts";
import type { RingProducerOptions } from "./workers/ring_producer.ts";

const CANARY = 0x5ca1ab1e;

/** A ring between canaries whose counters start at `start`. */
function makeRing(shape: RingShape, start = 0) {
  const index = 2 * LINE_WORDS, length = ringWordLength(shape);
  const words = new Int32Array(new SharedArrayBuffer(4 * (index + length + 2 * LINE_WORDS)));
  words.fill(CANARY);
  words[index] = start;
  words[index + LINE_WORDS] = start;
  const assertCanaries = () => {
    for (let word = 0; word < words.length; word++) {
      const isInside = word >= index && word < index + length;
      if (!isInside && words[word] !== CANARY) assert.fail(`the canary at word ${word} is dead`);
    }
  };
  return { words, index, ring: new Ring(words, index, shape), assertCanaries };
}

/** Pushes a record that begins with `value`; false if the ring is full. */
function push(ring: Ring, words: Int32Array, value: number, recordWords: number): boolean {
  const at = ring.reserve();
  if (at < 0) return false;
  for (let word = 0; word < recordWords; word++) words[at + word] = value + word;
  ring.publish();
  return true;
}

/** Pops a record and checks that it is whole; -1 if the ring is empty. */
function pop(ring: Ring, words: Int32Array, recordWords: number): number {
  const at = ring.peek();
  if (at < 0) return -1;
  const value = words[at];
  for (let word = 1; word < recordWords; word++) assert.equal(words[at + word], (value + word) | 0);
  ring.release();
  return value;
}

test("Ring answers -1 when it is full and when it is empty", () => {
  const shape = { capacity: 4, recordWords: 3 };
  const { words, ring, assertCanaries } = makeRing(shape);
  assert.equal(ring.peek(), -1);
  assert.equal(ring.length, 0);
  for (let value = 0; value < 4; value++) assert.ok(push(ring, words, value, 3));
  assert.equal(ring.length, 4);
  assert.equal(ring.reserve(), -1);
  assert.equal(ring.reserve(), -1, "asking changes nothing");
  assert.equal(pop(ring, words, 3), 0);
  assert.ok(push(ring, words, 4, 3));
  assert.equal(ring.reserve(), -1);
  for (let value = 1; value <= 4; value++) assert.equal(pop(ring, words, 3), value);
  assert.equal(ring.peek(), -1);
  assertCanaries();
});

test("Ring of one record alternates", () => {
  const { words, ring, assertCanaries } = makeRing({ capacity: 1, recordWords: 1 });
  for (let value = 0; value < 5; value++) {
    assert.ok(push(ring, words, value, 1));
    assert.equal(ring.reserve(), -1);
    assert.equal(pop(ring, words, 1), value);
    assert.equal(ring.peek(), -1);
  }
  assertCanaries();
});

test("Ring refuses a shape that cannot be", () => {
  const words = new Int32Array(256);
  for (const capacity of [0, 3, 6, -4, 1.5, NaN]) {
    const make = () => new Ring(words, 0, { capacity, recordWords: 1 });
    assert.throws(make, { name: "RangeError", message: new RegExp(`received ${capacity}$`) });
    assert.throws(() => ringWordLength({ capacity, recordWords: 1 }), RangeError);
  }
  for (const recordWords of [0, -1, 0.5]) {
    assert.throws(() => new Ring(words, 0, { capacity: 2, recordWords }), RangeError);
  }
});

/** The last counts before they turn negative, and before they turn over. */
const STARTS = [0, 2 ** 31 - 3, -3];

test("Ring behaves as a plain array does, wherever its counters stand", () => {
  const run = fc.record({
    capacity: fc.constantFrom(1, 2, 4, 8),
    recordWords: fc.integer({ min: 1, max: 20 }),
    start: fc.constantFrom(...STARTS),
    isPush: fc.array(fc.boolean(), { maxLength: 60 }),
  });
  fc.assert(fc.property(run, ({ capacity, recordWords, start, isPush }) => {
    const { words, ring, assertCanaries } = makeRing({ capacity, recordWords }, start);
    const model: number[] = [];
    let next = 0;
    for (const pushes of isPush) {
      if (pushes) {
        assert.equal(push(ring, words, next, recordWords), model.length < capacity);
        if (model.length < capacity) model.push(next);
        next++;
      } else assert.equal(pop(ring, words, recordWords), model.shift() ?? -1);
      assert.equal(ring.length, model.length);
    }
    assertCanaries();
  }));
});

for (const start of STARTS) {
  test(`Ring hands everything over once and in order between threads, counters from ${start}`, async () => {
    const shape = { capacity: 8, recordWords: 5 };
    const index = 2 * LINE_WORDS, length = ringWordLength(shape);
    const sent = index + length + LINE_WORDS, taken = sent + LINE_WORDS;
    const words = new Int32Array(new SharedArrayBuffer(4 * (taken + 2 * LINE_WORDS)));
    words.fill(CANARY, index + length, sent);
    words.fill(CANARY, taken + LINE_WORDS);
    words[index] = words[index + LINE_WORDS] = words[taken] = start;
    const style = { spins: 50, flashSpins: 0, waitMsMax: 5000 };
    const options: RingProducerOptions = {
      buffer: words.buffer as SharedArrayBuffer,
      ring: index,
      shape,
      sent,
      taken,
      takenBefore: start,
      recordCount: 3000,
      seed: 7,
      style,
    };
    const url = new URL("./workers/ring_producer.ts", import.meta.url);
    const worker = new Worker(url, { workerData: options });
    const { promise: producerDone, resolve, reject } = Promise.withResolvers<number>();
    worker.on("message", resolve);
    worker.on("error", reject);
    try {
      const ring = new Ring(words, index, shape);
      const sentCount = new Sequence(words, sent, style);
      const takenCount = new Sequence(words, taken, style);
      const random = seededRandom(11);
      let expected = 0;
      while (expected < options.recordCount) {
        sentCount.waitFor(expected + 1, `record ${expected}`);
        const batch = 1 + Math.floor(random() * 2 * shape.capacity);
        for (let i = 0; i < batch; i++) {
          const value = pop(ring, words, shape.recordWords);
          if (value < 0) break;
          assert.equal(value, expected++);
          takenCount.advance();
        }
      }
      assert.equal(await producerDone, options.recordCount);
      assert.equal(ring.peek(), -1);
      for (const from of [index + length, taken + LINE_WORDS]) {
        for (let word = from; word < from + LINE_WORDS; word++) assert.equal(words[word], CANARY);
      }
    } finally {
      await worker.terminate();
    }
  });
}
