/**
 * The promise about numbers for what OPT has not: gates, thresholds, shared keys, halves side by side. However a model is kept, cached
 * and divided, its logits have the same bits; and in a sparse family `exact` has those of `dense`.
 */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { calibrate } from "../src/calibrate.ts";
import { evaluate } from "../src/eval.ts";
import type { Quantization } from "../src/format/layout.ts";
import { pack } from "../src/format/pack.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { goldenOf, PackedModels } from "./packed_models.ts";
import type { SourceName } from "./packed_models.ts";
import { addBitPlanes, addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** One of each kind, of which families_test.ts has all in f32: a gate with a threshold, with two ReLUs; squares; halves side by side; norms after. */
const SPARSE = [
  "llama_fatrelu",
  "bamboo_drelu",
  "nemotron",
  "falcon_relu",
  "opt_post_norm",
] as const satisfies SourceName[];

async function logitsOf(path: string, name: SourceName, options: OpenOptions) {
  await using model = await open(path, { readers: 2, ...options });
  return await model.logits(goldenOf(name).input_ids);
}

for (const quant of ["q8", "q4"] satisfies Quantization[]) {
  for (const name of quant === "q8" ? SPARSE : SPARSE.slice(0, 2)) {
    test(`${name} in ${quant}: exact has the bits of dense, in whatever memory`, async () => {
      const path = await models.flashOf(name, quant);
      const dense = await logitsOf(path, name, { ffn: "dense", ffnCache: "40%", lanes: 2 });
      for (const options of [{ ffnCache: "15%", lanes: 2 }, { ffnCache: 1, promptChunk: 5 }]) {
        const exact = await logitsOf(path, name, { ffn: "exact", ...options });
        assert.deepEqual(exact, dense, JSON.stringify(options));
      }
    });
  }
}

const WAYS: OpenOptions[] = [
  { ffnCache: "10%", lanes: 2 },
  { ffnCache: "100%", lanes: 3 },
  { ffnCache: "30%", promptChunk: 1, prefetch: false },
  { ffnCache: 0.03, lanes: 2, simulation: { seed: 3, delayMsMax: 0.2, shortRate: 0.4 } },
  { ffnCache: "20%", audit: true },
];

const PREDICTORS = [["low-rank", addPredictors], ["bit planes", addBitPlanes]] as const;

for (const name of ["bamboo_drelu", "llama_fatrelu", "nemotron", "falcon_relu"] as const) {
  for (const [kind, add] of name === "bamboo_drelu" ? PREDICTORS : PREDICTORS.slice(0, 1)) {
    test(`${name}: what predictors (${kind}) leave has the same bits, in whatever memory`, async () => {
      const path = models.file(`${name}-${kind}.flash`);
      copyFileSync(await models.flashOf(name, "q8"), path);
      add(path, 2);
      const first = await logitsOf(path, name, { ffn: "predicted", ffnCache: "20%" });
      for (const options of WAYS) {
        const other = await logitsOf(path, name, { ffn: "predicted", ...options });
        assert.deepEqual(other, first, JSON.stringify(options));
      }
      const dense = await logitsOf(path, name, { ffn: "dense" });
      assert.notDeepEqual(first, dense, "the predictors leave something out");
    });
  }
}

const ROUTED_WAYS: OpenOptions[] = [
  { ffnCache: "40%", lanes: 2, promptChunk: 1 },
  { ffnCache: "100%", lanes: 5 },
  { ffnCache: "60%", prefetch: false, promptChunk: 7, readers: 1 },
  {
    ffnCache: "10%",
    lanes: 2,
    unbundled: true,
    simulation: { seed: 3, delayMsMax: 0.2, shortRate: 0.4 },
  },
];

for (const [name, quant] of [["mixtral_relu", "q8"], ["olmoe_silu", "q4"]] as const) {
  test(`${name} in ${quant}: what its router chooses has the same bits, in whatever memory`, async () => {
    const path = await models.flashOf(name, quant);
    const first = await logitsOf(path, name, { ffnCache: "50%", lanes: 1 });
    for (const options of ROUTED_WAYS) {
      assert.deepEqual(await logitsOf(path, name, options), first, JSON.stringify(options));
    }
  });
}

/** A tiny model with experts whose activation is another one: its weights are as random with any. */
function withActivation(name: SourceName, fields: Record<string, unknown>): string {
  const configPath = models.file(`${name}-${fields.hidden_act}.json`);
  const path = new URL(`fixtures/${name}/config.json`, import.meta.url);
  const config = { ...JSON.parse(readFileSync(path, "utf8")), ...fields };
  writeFileSync(configPath, JSON.stringify(config));
  return configPath;
}

const EXACT_WAYS: OpenOptions[] = [
  { ffnCache: "5%", lanes: 2, simulation: { seed: 3, delayMsMax: 0.2, shortRate: 0.4 } },
  { ffnCache: "60%", promptChunk: 1, lanes: 3 },
];

const SPARSE_EXPERTS = [
  ["mixtral_relu", { hidden_act: "relu" }, "q8"],
  ["olmoe_silu", { hidden_act: "fatrelu", hidden_act_param: 0.02 }, "q4"],
] as const;

for (const [name, fields, quant] of SPARSE_EXPERTS) {
  test(`${name}, ${fields.hidden_act} in ${quant}: exact has the bits of routed, and reads what is active`, async () => {
    const source = fileURLToPath(new URL(`fixtures/${name}/`, import.meta.url));
    const configPath = withActivation(name, fields), target = models.file(`${name}-exact.flash`);
    await pack({ source, target, quant, configPath });
    const routed = await logitsOf(target, name, { ffnCache: "50%" });
    for (const options of EXACT_WAYS) {
      const exact = await logitsOf(target, name, { ffn: "exact", ...options });
      assert.deepEqual(exact, routed, JSON.stringify(options));
    }
    const listed: number[] = [];
    for (const ffn of [undefined, "exact"] as const) {
      await using model = await open(target, { ffn, ffnCache: "50%", lanes: 2, readers: 1 });
      for await (const _ of model.generate([5, 6, 7], { maxTokens: 8, ignoreEos: true }));
      listed.push(model.stats().decode.neuronsPerToken);
    }
    const [whole, active] = listed;
    assert.ok(active > 0.1 * whole && active < 0.8 * whole, `${active} of ${whole} neurons`);
  });
}

test("open(), calibrate() and evaluate() know that a router chooses", async () => {
  const path = await models.flashOf("mixtral_silu");
  await assert.rejects(open(path, { ffn: "dense" }), {
    name: "RangeError",
    message: /"dense": the model's router says which experts are computed/,
  });
  await assert.rejects(open(path, { ffn: "exact" }), {
    name: "RangeError",
    message: /"exact": hardly any activation of silu is zero/,
  });
  await assert.rejects(calibrate({ path, text: "abc" }), /its router says what is computed/);
  await using model = await open(path, { ffnCache: "50%", lanes: 1 });
  for await (const _ of model.generate([5, 6, 7], { maxTokens: 12, ignoreEos: true }));
  const { ffn, decode } = model.stats();
  assert.equal(ffn, "routed");
  assert.ok(decode.hitRate > 0 && decode.hitRate < 1, `hit rate ${decode.hitRate}`);
});

test("calibrate() fits predictors of a gate, and eval tells what they miss", async () => {
  const inputs = fileURLToPath(new URL("fixtures/inputs/", import.meta.url));
  const path = models.file("gated.flash");
  await pack({
    source: `${inputs}llama_f16.gguf`,
    configPath: fileURLToPath(new URL("fixtures/llama_rope_llama3/config.json", import.meta.url)),
    target: path,
    quant: "f16",
  });
  const text = "abc bca cab abcabc ab cb a b c ".repeat(60);
  const { layers } = await calibrate({
    path,
    text,
    method: "low-bit",
    tokensMax: 600,
    memory: "8GiB",
  });
  for (const { recall, activeShare } of layers) {
    assert.ok(recall > 0.9 && recall <= 1, `recall ${recall}`);
    assert.ok(activeShare > 0.1 && activeShare < 0.9, `active ${activeShare}`);
  }
  const { dense, layers: found } = await evaluate({ path, text, tokensMax: 60, ffn: "predicted" });
  assert.ok(dense !== null && dense.divergenceMean < 0.1, `KL ${dense?.divergenceMean}`);
  for (const { recall = 0 } of found) assert.ok(recall > 0.8, `recall ${recall}`);
});
