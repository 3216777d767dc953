/** Synthetic models of other families than OPT: what is planted shows when their own forward pass runs. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { benchStatistics } from "../bench/statistics.ts";
import { inspect } from "../src/format/inspect.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { configOf } from "../src/synth/shape_config.ts";
import { shapeNamed } from "../src/synth/shapes.ts";
import { synthesize } from "../src/synth/synthesize.ts";
import { TokenChain } from "../src/synth/token_chain.ts";
import { idsOf } from "./packed_models.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const folder = new TemporaryFolder();
after(() => folder[Symbol.dispose]());

/** A file of a shape, checked. */
async function make(shape: string, quant: "q8" | "q4") {
  const target = folder.file(`${shape}.flash`);
  const { header } = await synthesize({ shape, quant, target });
  assert.equal(header.architecture, shapeNamed(shape).architecture);
  assert.deepEqual(header.config, configOf(shapeNamed(shape)));
  assert.equal(header.provenance.synthetic, true);
  const { checksums } = await inspect(target, { verify: true });
  assert.deepEqual(checksums?.failures, []);
  return { path: target, header, chain: TokenChain.of(header) };
}

/** Greedy text walks along the chain: logits are numbers, and what is read is what is needed. */
async function walks(path: string, chain: TokenChain, options: OpenOptions) {
  await using model = await open(path, { ffnCache: "30%", context: 64, drafts: 0, ...options });
  const prompt = chain.stretch({ start: 7, count: 8 });
  const ids = await idsOf(model, prompt, { maxTokens: 24 });
  assert.deepEqual(ids, chain.stretch({ start: 15, count: 24 }), JSON.stringify(options));
  return model.stats().decode;
}

async function logitsOf(path: string, ids: number[], ffn: "exact" | "dense") {
  await using model = await open(path, { ffn, ffnCache: "30%", context: 64 });
  return await model.logits(ids);
}

/** The likeliest token after each position. */
function likeliest(logits: Float32Array, vocabSize: number): number[] {
  return Array.from({ length: logits.length / vocabSize }, (_, position) => {
    const row = logits.subarray(position * vocabSize, (position + 1) * vocabSize);
    return row.indexOf(Math.max(...row));
  });
}

const SPARSE = [
  ["tiny-falcon", "q8"],
  ["tiny-persimmon", "q4"],
  ["tiny-phi", "q8"],
  ["tiny-llama", "q8"],
  ["tiny-mistral", "q4"],
] as const;

for (const [shape, quant] of SPARSE) {
  test(`synthesize() makes a ${shape} in ${quant} that runs in every mode, as it was planted`, async () => {
    const { path, header, chain } = await make(shape, quant), { activeMean } = shapeNamed(shape);
    const ids = chain.stretch({ start: 3, count: 12 });
    const dense = await logitsOf(path, ids, "dense");
    assert.ok(dense.every(Number.isFinite));
    const next = chain.stretch({ start: 4, count: 12 });
    assert.deepEqual(likeliest(dense, header.config.vocabSize), next);
    assert.deepEqual(await logitsOf(path, ids, "exact"), dense);
    if (shape === "tiny-falcon") await walks(path, chain, { ffn: "predicted" });
    const found = await benchStatistics({ modelPath: path, tokens: 128, stretch: 64 });
    const share = found.activeShare / activeMean!;
    assert.ok(share > 0.85 && share < 1.15, `active: ${found.activeShare}`);
    assert.ok(found.recall > 0.92 && found.recall < 0.97, `recall: ${found.recall}`);
    // What a look names costs reads; that much more than what is active, and no more.
    const named = found.predictedShare / found.activeShare;
    assert.ok(named > 1.5 && named < 3.6, `named over active: ${named}`);
    assert.ok(found.readShare < 0.045, `read a token: ${found.readShare}`);
  });
}

test("synthesize() makes a tiny-mixtral whose router lets a cache gain", async () => {
  const { path, header, chain } = await make("tiny-mixtral", "q4");
  assert.equal(header.predictors, null, "the router predicts");
  const cached = await walks(path, chain, { ffnCache: "60%" });
  const anew = await walks(path, chain, { ffnCache: "25%", window: 0, prefetch: false });
  const each = header.config.numLayers * header.config.intermediateSize / 4;
  assert.equal(cached.neuronsPerToken, each, "two of eight experts");
  assert.ok(cached.hitRate > 0.6 && anew.hitRate < 0.1, `${cached.hitRate}, ${anew.hitRate}`);
  assert.ok(cached.bytesPerToken < 0.5 * anew.bytesPerToken);
});
