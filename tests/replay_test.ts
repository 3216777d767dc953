/** The simulator against the engine, and Belady's limit against all there is. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { POLICY_NAMES } from "../src/cache/policies.ts";
import type { PolicyChoice } from "../src/cache/policies.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { seededRandom } from "../src/random.ts";
import { BeladyPolicy, nextUses } from "../src/simulate/belady.ts";
import { NeuronTrace } from "../src/simulate/neuron_trace.ts";
import { recordTrace } from "../src/simulate/record_trace.ts";
import { replay } from "../src/simulate/replay.ts";
import { missCurvesOf, rowCountOf, simulate, windowCurve } from "../src/simulate/simulate.ts";
import { vectorsOf } from "../src/simulate/trace_format.ts";
import { PackedModels } from "./packed_models.ts";
import { makeTrace, parseTrace } from "./random_trace.ts";
import { addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** Two documents; the second is longer than the context of 64. */
const random = seededRandom(1);
const idsOf = (length: number) => Array.from({ length }, () => Math.floor(100 * random()));
const DOCUMENTS = [idsOf(30), idsOf(90)];

async function traceOf(path: string, options: OpenOptions): Promise<NeuronTrace> {
  const parts: Uint8Array[] = [];
  const open = {
    lanes: 1,
    readers: 1,
    context: 64,
    promptChunk: 1,
    ...options,
  };
  const write = (bytes: Uint8Array) => void parts.push(bytes.slice());
  await recordTrace({ path, text: DOCUMENTS, textName: "t", tokensMax: 1e9, write, open });
  return NeuronTrace.parse(new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer()), "t");
}

/** What the engine itself counts for the same documents. */
async function engineCounts(path: string, trace: NeuronTrace, options: OpenOptions) {
  await using model = await open(path, {
    lanes: 1,
    readers: 1,
    context: 64,
    promptChunk: 1,
    ...options,
  });
  let listed = 0, reads = 0, bytes = 0;
  for (const ids of [DOCUMENTS[0], DOCUMENTS[1].slice(0, 64), DOCUMENTS[1].slice(64)]) {
    await model.eachLogits(ids, () => {});
    const { prompt } = model.stats();
    listed += prompt.neuronsPerToken * ids.length;
    reads += prompt.readsPerToken * ids.length;
    bytes += prompt.bytesPerToken * ids.length;
  }
  const rounded = [listed, reads, bytes].map(Math.round);
  const { slotCounts, residentLayers } = model.plan;
  return { slotCounts, residentLayers, tokens: trace.tokenCount, counts: rounded };
}

const CHOICES: PolicyChoice[] = [
  ...POLICY_NAMES.filter((name) => name !== "window").map((name) => ({ name, window: Infinity })),
  { name: "window", window: 3 },
];

/** Opens with this policy; a window is told only where it is the policy's. */
function openWith({ name, window }: PolicyChoice): OpenOptions {
  return name === "window" ? { policy: name, window } : { policy: name };
}

test("replay() counts what the engine counts, in exact", { timeout: 120_000 }, async () => {
  const path = await models.flashOf("opt", "f16");
  const trace = await traceOf(path, { ffn: "exact" });
  assert.equal(trace.tokenCount, 120);
  assert.deepEqual([trace.documents, trace.chunks], [[0, 30], [94]]);
  assert.equal(trace.listed, "active");
  for (const ffnCache of [0.7, 0.9]) {
    for (const policy of CHOICES) {
      const options = { ffn: "exact", ffnCache, ...openWith(policy) } as const;
      const { slotCounts, residentLayers, counts } = await engineCounts(path, trace, options);
      const result = replay(trace, { slotCounts, residentLayers, policy });
      const where = `${policy.name} of ${ffnCache}`;
      assert.deepEqual([result.listed, result.reads, result.bytes], counts, where);
      assert.equal(result.passes, 120 * trace.header.numLayers, `${where}: each list in one pass`);
      assert.ok(result.reads > 0 && result.hits > 0, where);
    }
  }
});

test("replay() counts what the engine counts, in predicted without an early look", {
  timeout: 120_000,
}, async () => {
  const path = await models.flashOf("opt", "q8");
  addPredictors(path);
  const trace = await traceOf(path, {});
  assert.equal(trace.listed, "predicted");
  const lists = trace.count("predicted") / trace.tokenCount / trace.header.numLayers;
  assert.ok(lists > 0 && lists < trace.header.intermediateSize, `${lists} neurons a list`);
  for (const policy of CHOICES) {
    const options = { ffnCache: 0.9, prefetch: false, ...openWith(policy) };
    const { slotCounts, residentLayers, counts } = await engineCounts(path, trace, options);
    const result = replay(trace, { slotCounts, residentLayers, policy });
    assert.deepEqual([result.listed, result.reads, result.bytes], counts, policy.name);
  }
  // With an early look reads land in their own time: what is evicted and merged may differ a little.
  const { slotCounts, residentLayers, counts } = await engineCounts(path, trace, { ffnCache: 0.9 });
  const early = replay(trace, { slotCounts, residentLayers, policy: CHOICES[0], earlyLook: true });
  assert.equal(early.listed, counts[0]);
  assert.ok(Math.abs(early.reads - counts[1]) <= 0.1 * counts[1] + 5, `${early.reads}, ${counts}`);
});

/** Three vectors a bundle, of which `exact` reads two; and experts, of which a router names whole ones. */
const GATED = [
  ["bamboo_drelu", { ffn: "exact" }, "active"],
  ["mixtral_relu", { ffn: "exact" }, "active"],
  ["mixtral_relu", { prefetch: false }, "predicted"],
] as const;

for (const [name, how, listed] of GATED) {
  const mode = "ffn" in how ? how.ffn : "routed";
  test(`replay() counts what the engine counts, of ${name} in ${mode}`, {
    timeout: 120_000,
  }, async () => {
    const path = await models.flashOf(name, "q8");
    const trace = await traceOf(path, how);
    assert.deepEqual([trace.listed, trace.header.mode, vectorsOf(trace.header)], [listed, mode, 3]);
    for (const policy of CHOICES) {
      const options = { ...how, ffnCache: 0.7, ...openWith(policy) };
      const { slotCounts, residentLayers, counts } = await engineCounts(path, trace, options);
      const result = replay(trace, { slotCounts, residentLayers, policy });
      assert.deepEqual([result.listed, result.reads, result.bytes], counts, policy.name);
      assert.ok(result.reads > 0 && result.hits > 0, policy.name);
    }
  });
}

test("recordTrace() knows experts whose activations are hardly ever zero, and their router's early look", async () => {
  const path = await models.flashOf("olmoe_silu", "q4");
  const trace = await traceOf(path, {});
  const { numLayers, intermediateSize: n } = trace.header;
  // Three of eight experts, whole ones.
  const wanted = trace.tokenCount * numLayers * n * 3 / 8;
  for (const set of ["active", "predicted", "early"] as const) {
    assert.equal(trace.count(set), wanted, set);
  }
  let found = 0;
  for (let token = 0; token < trace.tokenCount; token++) {
    assert.deepEqual(trace.mask("active", token, 1), trace.mask("predicted", token, 1));
    const early = trace.mask("early", token, 1);
    found += trace.neurons("predicted", token, 1).filter((i) =>
      early[i >> 5] >>> (i & 31) & 1
    ).length;
  }
  assert.ok(found > 0.5 * wanted / numLayers, `${found} of ${wanted / numLayers} found early`);
  const [row] = simulate(trace, { cacheShares: [0.5], policies: ["frequency"], earlyLook: true });
  assert.ok(row.hitRate > 0.3 && row.hitRate < 1, `hit rate ${row.hitRate}`);
});

/** Fewest misses of a layer in which each token's whole list must be there, by trying every set that could stay. */
function fewestMisses(lists: number[][], slotCount: number): number {
  let states = new Map([["", 0]]);
  for (const list of lists) {
    const after = new Map<string, number>();
    for (const [state, misses] of states) {
      const held = state === "" ? [] : state.split(",").map(Number);
      const missing = list.filter((neuron) => !held.includes(neuron)).length;
      const others = held.filter((neuron) => !list.includes(neuron));
      for (const kept of subsetsOf(others, slotCount - list.length)) {
        const key = [...list, ...kept].sort((a, b) => a - b).join();
        after.set(key, Math.min(after.get(key) ?? Infinity, misses + missing));
      }
    }
    states = after;
  }
  return Math.min(...states.values());
}

/** The largest subsets with at most `size` elements; a smaller one is never better. */
function subsetsOf(all: number[], size: number): number[][] {
  if (all.length <= size) return [all];
  if (size === 0) return [[]];
  const [first, ...rest] = all;
  return [...subsetsOf(rest, size - 1).map((part) => [first, ...part]), ...subsetsOf(rest, size)];
}

test("BeladyPolicy misses as little as anything can", () => {
  let misses = 0;
  for (let seed = 1; seed <= 30; seed++) {
    const made = makeTrace({ seed, tokens: 14, numLayers: 1, neurons: 8, share: 0.2 });
    const trace = parseTrace(made), lists = made.lists.predicted.map(([list]) => list);
    const longest = Math.max(...lists.map((list) => list.length));
    const next = nextUses(trace, 0);
    for (let slotCount = Math.max(1, longest); slotCount <= 8; slotCount++) {
      const result = replay(trace, {
        slotCounts: [slotCount],
        policy: (_, shape) => new BeladyPolicy(shape, next),
      });
      const fewest = fewestMisses(lists, slotCount);
      assert.equal(result.missesByLayer[0], fewest, `seed ${seed}, ${slotCount} slots`);
      misses += fewest;
    }
  }
  assert.ok(misses > 500, "the traces were hard enough");
});

test("simulate() yields no row that passes the limit, and all rows of the same lists", () => {
  const trace = parseTrace(makeTrace({ seed: 3, tokens: 200 }));
  const options = {
    cacheShares: [0.5, 0.7, 0.9],
    policies: ["belady", "belady-divided", "frequency", "lru", "window"],
    windows: [1, 4],
    gaps: [0, 1024],
  } as const;
  const rows = [...simulate(trace, options)];
  assert.equal(rows.length, rowCountOf(options));
  assert.equal(rows.length, 36);
  const isFit = (slotCounts: readonly number[]) =>
    slotCounts.every((count, layer) =>
      Math.max(
        ...Array.from({ length: 200 }, (_, t) => trace.neurons("predicted", t, layer).length),
      ) <=
        count
    );
  for (const row of rows) {
    const sameSize = rows.filter((other) =>
      other.cacheShare === row.cacheShare && other.gapBytes === row.gapBytes
    );
    const limit = sameSize.find(({ policy }) => policy === "belady")!;
    if (isFit(row.slotCounts) && row.policy !== "belady-divided") {
      assert.ok(row.missesPerToken >= limit.missesPerToken - 1e-9, row.policy);
    }
    assert.ok(row.residentShare <= row.cacheShare + 0.5 / 192 + 1e-9);
    assert.ok(row.bytesPerToken >= 256 * row.missesPerToken - 1e-9, "whole blocks at least");
  }
});

test("windowCurve() falls in reads and rises in memory, to all that was used lately", () => {
  const made = makeTrace({ seed: 4, tokens: 100, numLayers: 1 });
  const points = [...windowCurve(parseTrace(made), [1, 2, 8])];
  assert.deepEqual(points.map(({ window }) => window), [1, 2, 8]);
  for (const [k, point] of points.entries()) {
    if (k === 0) continue;
    assert.ok(point.residentShare > points[k - 1].residentShare);
    assert.ok(point.readShare < points[k - 1].readShare);
  }
  // After the warm-up of 25 tokens: a window of 1 holds each token's list and reads what the one before did not have.
  const lists = made.lists.predicted.map(([list]) => list);
  let held = 0, read = 0;
  for (let token = 25; token < 100; token++) {
    held += lists[token].length;
    read += lists[token].filter((neuron) => !lists[token - 1].includes(neuron)).length;
  }
  assert.ok(Math.abs(points[0].residentShare - held / 75 / 96) < 1e-9);
  assert.ok(Math.abs(points[0].readShare - read / 75 / 96) < 1e-9);
});

test("missCurvesOf() of any policy falls from all misses to the first uses alone", () => {
  const trace = parseTrace(makeTrace({ seed: 8, tokens: 100 }));
  for (const { slots, missesPerToken } of missCurvesOf(trace, CHOICES[0])) {
    assert.equal(slots.at(-1), 96);
    assert.deepEqual(slots, slots.toSorted((a, b) => a - b));
    assert.deepEqual(missesPerToken, missesPerToken.toSorted((a, b) => b - a));
    assert.ok(missesPerToken.at(-1)! < 0.1);
  }
});
