import assert from "node:assert/strict";
import { test } from "node:test";
import { ModelFileError } from "../src/errors.ts";
import { seededRandom } from "../src/random.ts";
import { NeuronTrace } from "../src/simulate/neuron_trace.ts";
import { makeTrace, parseTrace } from "./random_trace.ts";

test("NeuronTrace.parse() gives back what TraceWriter wrote", () => {
  for (const seed of [1, 2, 3, 4]) {
    const neurons = [1, 33, 96, 1000][seed - 1], predictors = seed % 2 === 0;
    const made = makeTrace({ seed, neurons, predictors, share: seed / 10 });
    const trace = parseTrace(made);
    assert.equal(trace.tokenCount, 40);
    assert.deepEqual(trace.header, made.header);
    assert.deepEqual(trace.documents, made.documents);
    assert.deepEqual(trace.chunks, []);
    assert.equal(trace.listed, predictors ? "predicted" : "active");
    assert.equal(trace.has("early"), predictors);
    for (const set of made.header.sets) {
      let count = 0;
      for (const [token, layers] of made.lists[set].entries()) {
        for (const [layer, list] of layers.entries()) {
          assert.deepEqual([...trace.neurons(set, token, layer)], list, `${set}, token ${token}`);
          count += list.length;
        }
      }
      assert.equal(trace.count(set), count);
    }
  }
});

test("NeuronTrace.mask() refuses a set that was not recorded", () => {
  const trace = parseTrace(makeTrace({ seed: 1, predictors: false }));
  assert.throws(() => trace.mask("early", 0, 0), RangeError);
});

const isDamage = (error: Error) => error instanceof ModelFileError && error.exitCode === 1;

test("NeuronTrace.parse() refuses a trace that was cut off, wherever", () => {
  const { bytes } = makeTrace({ seed: 5, tokens: 6 });
  for (let byteLength = 0; byteLength < bytes.byteLength; byteLength++) {
    assert.throws(() => NeuronTrace.parse(bytes.subarray(0, byteLength), "cut"), isDamage);
  }
  const longer = new Uint8Array(bytes.byteLength + 1);
  longer.set(bytes);
  assert.throws(() => NeuronTrace.parse(longer, "longer"), isDamage);
});

test("NeuronTrace.parse() refuses a trace with a wrong byte, wherever", () => {
  const { bytes } = makeTrace({ seed: 6, tokens: 6 });
  const random = seededRandom(6);
  for (let at = 0; at < bytes.byteLength; at++) {
    const damaged = bytes.slice();
    damaged[at] ^= 1 + Math.floor(255 * random());
    assert.throws(() => NeuronTrace.parse(damaged, "damaged"), isDamage, `byte ${at}`);
  }
});

test("NeuronTrace.parse() says what is wrong", () => {
  const { bytes } = makeTrace({ seed: 7, tokens: 6 });
  const parse = (change: (bytes: Uint8Array) => Uint8Array | void) => () => {
    const copy = bytes.slice();
    NeuronTrace.parse(change(copy) ?? copy, "some.trace");
  };
  assert.throws(parse(() => new Uint8Array(3)), /some\.trace: not a neuron trace \(magic/);
  assert.throws(parse((bytes) => void (bytes[8] = 2)), /version 2, expected 1/);
  assert.throws(parse((bytes) => void (bytes[30] ^= 1)), /wrong checksum \(header/);
  assert.throws(parse((bytes) => bytes.subarray(0, -1)), /cut off/);
});
