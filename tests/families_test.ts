/** Each family through pack (f32) and run, against an independent implementation on the same weights. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { families, familyOf } from "../models/registry.ts";
import { FAMILY_FIXTURES, goldenOf, idsOf, modelTypeOf, PackedModels } from "./packed_models.ts";
import type { SourceName } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

const VOCABULARY = 320;

const WAYS: [string, OpenOptions][] = [
  ["dense, resident", { ffn: "dense", ffnCache: "100%", lanes: 1 }],
  ["dense, streamed", { ffn: "dense", ffnCache: "50%", lanes: 2 }],
  ["exact, cache of a fifth", { ffn: "exact", ffnCache: "20%", lanes: 2 }],
  ["exact, resident, one token after the other", {
    ffn: "exact",
    ffnCache: 1,
    lanes: 3,
    promptChunk: 1,
  }],
];

/** Differences in units of the largest logit. */
function assertClose(found: Float32Array, wanted: number[], what: string): void {
  const scale = Math.max(...wanted.map(Math.abs));
  const worst = Math.max(...wanted.map((value, i) => Math.abs(found[i] - value)));
  assert.ok(worst <= 1e-4 * scale, `${what}: off by ${worst} of ${scale}`);
}

/** Experts are computed as the router says. */
const ROUTED_WAYS: typeof WAYS = [
  ["routed, resident", { ffnCache: "100%", lanes: 1 }],
  ["routed, cache of a half", { ffnCache: "50%", lanes: 2 }],
  ["routed, cache of a third, without early reads", { ffnCache: "33%", lanes: 2, prefetch: false }],
  ["routed, one token after the other", { ffnCache: "60%", lanes: 3, promptChunk: 1 }],
];

/** One of each kind goes all ways; the others two, of which one streams or reads, and one takes token after token. */
const THOROUGH = [
  "opt",
  "llama_fatrelu",
  "bamboo_drelu",
  "falcon_new_decoder",
  "gemma2_gelu",
  "mixtral_relu",
];

for (const family of FAMILY_FIXTURES) {
  test(`${family}: logits and greedy ids agree with an independent implementation, whatever the way`, async () => {
    const { input_ids, last_logits, logits_at_0, logits_at_12, greedy_ids } = goldenOf(family);
    const path = await models.flashOf(family);
    const seen: Float32Array[] = [], isRouted = /mixtral|moe/.test(family);
    const all = !isRouted
      ? WAYS
      : family.endsWith("relu")
      ? [...ROUTED_WAYS, WAYS[2]]
      : ROUTED_WAYS;
    const ways = THOROUGH.includes(family) ? all : [all[1], all[3]];
    for (const [name, options] of ways) {
      await using model = await open(path, { readers: 2, ...options });
      const logits = await model.logits(input_ids);
      const row = (position: number) =>
        logits.subarray(VOCABULARY * position, VOCABULARY * (position + 1));
      assertClose(row(0), logits_at_0, `${name}, position 0`);
      assertClose(row(12), logits_at_12, `${name}, position 12`);
      assertClose(row(input_ids.length - 1), last_logits, `${name}, the last position`);
      seen.push(logits);
      // Logits have the same bits in all ways; steps of one token are taken in two of them.
      if (seen.length % 2 === 0) continue;
      const ids = await idsOf(model, input_ids, { maxTokens: greedy_ids.length });
      assert.deepEqual(ids, greedy_ids, name);
    }
    for (const [index, logits] of seen.entries()) {
      assert.deepEqual(logits, seen[0], `${ways[index][0]} has the bits of ${ways[0][0]}`);
    }
  });
}

test("each family is proved with a fixture, and each fixture proves one", () => {
  const proofs = Object.values(families).flatMap(({ modelType, fixtures }) => {
    assert.ok(fixtures.length > 0, modelType);
    for (const name of fixtures) assert.equal(modelTypeOf(name as SourceName), modelType, name);
    return fixtures;
  });
  assert.deepEqual([...proofs].sort(), [...FAMILY_FIXTURES].sort());
});

test("an unsupported model_type names the nearest family, and what is missing", () => {
  const nearest =
    /"gpt_oss" is not supported; the nearest is mixtral, which lacks sinks.*; supported: opt, /;
  assert.throws(() => familyOf("gpt_oss", "config.json"), nearest);
  assert.throws(
    () => familyOf("x\u001b", "config.json"),
    /"x\\u001b" is not supported; supported: /,
  );
  for (const name of ["constructor", "__proto__", undefined, 7]) {
    assert.throws(() => familyOf(name, "config.json"), /is not supported; supported: /);
  }
});
