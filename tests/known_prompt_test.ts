/** A text that begins as the one before goes on from there, with the same bits. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Model, OpenOptions } from "../src/mod.ts";
import { open } from "../src/open.ts";
import { seededRandom } from "../src/random.ts";
import { PackedModels } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

const SMALL: OpenOptions = { lanes: 2, readers: 1, ffn: "exact", ffnCache: 0.3, promptChunk: 12 };

async function idsOf(model: Model, prompt: number[], maxTokens = 6): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of model.generate(prompt, { maxTokens, ignoreEos: true })) ids.push(id);
  return ids;
}

function someIds(model: Model, count: number, seed: number): number[] {
  const random = seededRandom(seed), { vocabSize } = model.header.config;
  return Array.from({ length: count }, () => Math.floor(random() * vocabSize));
}

for (const fixture of ["opt", "llama_relu", "mistral_window"] as const) {
  test(`${fixture}: prompts that begin as the text before give what they give alone`, async () => {
    const path = await models.flashOf(fixture);
    const options = fixture === "mistral_window" ? { ...SMALL, ffn: "dense" as const } : SMALL;
    await using model = await open(path, options);
    const first = someIds(model, 20, 1), answer = await idsOf(model, first);
    const chat = [...first, ...answer, ...someIds(model, 7, 2)];
    const prompts: [prompt: number[], known: number][] = [
      // The last token of the answer was never computed with.
      [chat, first.length + answer.length - 1],
      [chat, chat.length - 1],
      // Another beginning, another end, and a shorter one.
      [[...someIds(model, 1, 3), ...chat], 0],
      [chat, 0],
      [[...chat.slice(0, 23), ...someIds(model, 4, 4)], 23],
      [chat.slice(0, 9), 8],
    ];
    for (const [index, [prompt, known]] of prompts.entries()) {
      const ids = await idsOf(model, prompt), { knownTokens, tokens } = model.stats().prompt;
      await using alone = await open(path, options);
      assert.deepEqual(ids, await idsOf(alone, prompt), `prompt ${index}`);
      assert.equal(knownTokens + tokens, prompt.length);
      const isGivenUp = fixture === "mistral_window" && knownTokens === 0; // What a window saw may be.
      if (!isGivenUp) assert.equal(knownTokens, known, `prompt ${index}`);
    }
    await model.logits(chat.slice(0, 5));
    await idsOf(model, chat);
    assert.equal(model.stats().prompt.knownTokens, 0, "the logits of another text are between");
  });
}

test("what was drafted in vain is not taken for known, and a cancelled prompt is known in part", async () => {
  const path = await models.flashOf("opt"), options = { ...SMALL, drafts: 4 };
  await using model = await open(path, options);
  const once = someIds(model, 6, 5), prompt = [...once, ...once, ...once];
  const answer = await idsOf(model, prompt, 12), next = [...prompt, ...answer, 3, 4];
  const controller = new AbortController();
  const cancelled = (async () => {
    const { signal } = controller, onPrompt = () => controller.abort();
    for await (const _ of model.generate(next, { maxTokens: 4, signal, onPrompt }));
  })();
  await cancelled.catch(() => {});
  const ids = await idsOf(model, next);
  await using alone = await open(path, options);
  assert.deepEqual(ids, await idsOf(alone, next));
});
