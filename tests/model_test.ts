/** Requests to an open model: they take turns, and end early in every way there is. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { GenerateOptions } from "../src/model.ts";
import { open } from "../src/open.ts";
import { TOKEN_RING } from "../src/pipeline/control.ts";
import { idsOf, PackedModels, PROMPT } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

test("Model.generate() calls take turns in the order of their first next()", async () => {
  await using model = await models.openOpt({ ffnCache: "30%" });
  const prompts = [PROMPT, [4, 4], [100, 7, 8]];
  const alone: number[][] = [];
  for (const prompt of prompts) alone.push(await idsOf(model, prompt));
  const order: number[] = [];
  const together = await Promise.all(prompts.map(async (prompt, i) => {
    const ids = await idsOf(model, prompt);
    order.push(i);
    return ids;
  }));
  assert.deepEqual(together, alone);
  assert.deepEqual(order, [0, 1, 2]);
});

test("Model.logits() and generate() take turns with each other", async () => {
  await using model = await models.openOpt();
  const alone = await model.logits(PROMPT);
  const [ids, logits, again] = await Promise.all([
    idsOf(model, PROMPT),
    model.logits(PROMPT),
    idsOf(model, PROMPT),
  ]);
  assert.deepEqual(logits, alone);
  assert.deepEqual(again, ids);
});

test("Model.eachLogits() hands over what its callback throws, and goes on with the next request", async () => {
  await using model = await models.openOpt();
  const expected = await idsOf(model, PROMPT);
  const rows: number[] = [];
  const use = (_: Float32Array, position: number) => {
    rows.push(position);
    if (position === 2) throw new Error("enough");
  };
  const prompt = Array.from({ length: 100 }, (_, i) => i);
  await assert.rejects(model.eachLogits(prompt, use), { message: "enough" });
  assert.deepEqual(rows, [0, 1, 2]);
  assert.deepEqual(await idsOf(model, PROMPT), expected);
});

test("Model.generate() ends where it should, and says why", async () => {
  await using model = await models.openOpt({ context: 8 });
  assert.equal(model.contextLength, 8);
  assert.equal((await idsOf(model, PROMPT, { maxTokens: 2 })).length, 2);
  assert.equal(model.endReason, "max-tokens");
  // Position 7 is the last that can be computed; its logits choose one token more.
  assert.equal((await idsOf(model, PROMPT, { maxTokens: 50 })).length, 4);
  assert.equal(model.endReason, "context-full");
  const full = [1, 2, 3, 4, 5, 6, 7, 8];
  assert.equal((await idsOf(model, full, { maxTokens: 50 })).length, 1);
  assert.equal((await model.logits(full)).length, 8 * 320);
});

test("Model.generate() refuses prompts and options that make no sense, and goes on after that", async () => {
  await using model = await models.openOpt({ context: 8 });
  const expected = await idsOf(model, PROMPT, { maxTokens: 3 });
  const prompts: [number[] | string, RegExp][] = [
    [[], /^Cannot go on from an empty prompt$/],
    [[1, 2, 3, 4, 5, 6, 7, 8, 9], /^Cannot take a prompt of 9 tokens: the context has 8$/],
    [[320], /^Cannot take token 320: ids go from 0 to 319$/],
    [[-1], /token -1:/],
    [[1.5], /token 1.5:/],
    [[NaN], /token NaN:/],
    ["text", /opt-f32-f32\.flash has no tokenizer: pass token ids$/],
  ];
  for (const [prompt, message] of prompts) {
    await assert.rejects(idsOf(model, prompt as number[]), { name: "RangeError", message });
    await assert.rejects(model.logits(prompt), { name: "RangeError", message });
  }
  const wrong: GenerateOptions[] = [
    { maxTokens: 0 },
    { maxTokens: 1.5 },
    { temperature: -1 },
    { temperature: Infinity },
    { topP: 0 },
    { topP: 1.1 },
    { seed: 0.5 },
    { topK: -1 },
    { topK: 1.5 },
    { minP: 1.5 },
    { minP: NaN },
    { repetitionPenalty: 0 },
    { logitBias: { 320: 1 } },
    { logitBias: new Map([[1, NaN]]) },
    { logitBias: { 1: Infinity } },
    { stop: [""] },
    { stop: ["a text"] },
    { repetitionPenalty: 1e-39 },
    { logitBias: { 1: 1e39 } },
  ];
  for (const options of wrong) await assert.rejects(idsOf(model, PROMPT, options), RangeError);
  assert.deepEqual(await idsOf(model, PROMPT, { maxTokens: 3 }), expected);
});

test("Model.generate() chooses by bias and penalty the same with drafts and without", async () => {
  const ways: GenerateOptions[] = [
    { repetitionPenalty: 1.3 },
    { logitBias: { 7: 100 } },
    { logitBias: new Map([[7, -Infinity]]), temperature: 0.8, topK: 20, minP: 0.05, seed: 9 },
    { repetitionPenalty: 0.8, temperature: 1, topP: 0.9, seed: 3 },
  ];
  const found: number[][][] = [];
  for (const drafts of [0, 7]) {
    await using model = await models.openOpt({ drafts, draftLoss: 1 });
    const all: number[][] = [];
    for (const way of ways) all.push(await idsOf(model, PROMPT, { maxTokens: 60, ...way }));
    found.push(all);
  }
  assert.deepEqual(found[1], found[0]);
  const [, biased, forbidden] = found[0];
  assert.deepEqual([...new Set(biased)], [7]);
  assert.ok(!forbidden.includes(7));
});

test("Model.generate() ends before a stop string, and goes on with the next request", async () => {
  await using model = await open(await models.flashOf("tales"), { ffn: "exact", lanes: 1 });
  const textOf = async (options: GenerateOptions) => {
    const pieces: string[] = [];
    for await (const { text } of model.generate("Once", { maxTokens: 40, ...options })) {
      pieces.push(text);
    }
    return pieces;
  };
  const whole = (await textOf({})).join("");
  assert.equal(model.endReason, "max-tokens");
  // It begins and ends within words, so within tokens.
  const at = Math.floor(whole.length / 2), stop = [whole.slice(at, at + 9), "never said"];
  const pieces = await textOf({ stop });
  assert.equal(pieces.join(""), whole.slice(0, whole.indexOf(stop[0])));
  assert.equal(model.endReason, "stop-string");
  // A token that no text has ends it, too.
  const ended = await textOf({ stop: ["</s>"], logitBias: { 2: 1000 } });
  assert.deepEqual([ended.join(""), model.endReason], ["", "end-of-text"]);
  const padded = await textOf({ stop: ["<pad>"], logitBias: { 1: 1000 } });
  assert.deepEqual([padded.join(""), model.endReason], ["", "stop-string"]);
  assert.equal((await textOf({ stop: ["never said"] })).join(""), whole);
  assert.equal(model.endReason, "max-tokens");
});

test("Model.generate() may be left early, and again is as before", async () => {
  await using model = await models.openOpt({ ffnCache: "30%", lanes: 2 });
  const expected = await idsOf(model, PROMPT, { maxTokens: 30 });
  for (const count of [1, 2, 5]) {
    const ids: number[] = [];
    for await (const { id } of model.generate(PROMPT, { maxTokens: 100, ignoreEos: true })) {
      ids.push(id);
      if (ids.length === count) break;
    }
    assert.deepEqual(ids, expected.slice(0, count));
  }
  await assert.rejects(async () => {
    for await (const _ of model.generate(PROMPT)) throw new Error("the consumer's own");
  }, { message: "the consumer's own" });
  assert.deepEqual(await idsOf(model, PROMPT, { maxTokens: 30 }), expected);
});

test("Model.generate() runs but a few tokens ahead of its consumer, who may leave", async () => {
  await using model = await models.openOpt();
  const expected = await idsOf(model, PROMPT, { maxTokens: 100 });
  const running = model.generate(PROMPT, { maxTokens: 100, ignoreEos: true });
  const ids = [(await running.next()).value!.id];
  let seen = -1, tokens = 0;
  for (; tokens > seen; tokens = model.stats().decode.tokens) {
    seen = tokens;
    await sleep(100);
  }
  // Those in the ring, and one for which there is no place.
  assert.ok(tokens <= TOKEN_RING.capacity + 1, `it ran ${tokens} tokens ahead`);
  for await (const { id } of running) ids.push(id);
  assert.deepEqual(ids, expected);
});

test("Model.generate() shows what is left of a broken character with the last token", async () => {
  await using model = await open(await models.flashOf("tales"), { ffn: "exact", lanes: 1 });
  let text = "";
  // At such a heat all tokens are as likely; some are a part of a character.
  for (let seed = 0; seed < 1000 && !text.endsWith("\ufffd"); seed++) {
    const ids: number[] = [];
    text = "";
    const options = { maxTokens: 2, temperature: 1e6, seed, ignoreEos: true };
    for await (const token of model.generate([2], options)) {
      ids.push(token.id);
      text += token.text;
    }
    assert.equal(ids.length, 2);
    assert.equal(text, model.decode(ids));
  }
  assert.match(text, /\ufffd$/);
});

test("AbortSignal stops a generation before, while it waits its turn, and in the middle", async () => {
  await using model = await models.openOpt({ ffnCache: "30%" });
  const expected = await idsOf(model, PROMPT);
  const signal = AbortSignal.abort(new Error("no need"));
  await assert.rejects(idsOf(model, PROMPT, { signal }), { message: "no need" });
  await assert.rejects(model.logits(PROMPT, signal), { message: "no need" });

  const first = model.generate(PROMPT, { maxTokens: 50, ignoreEos: true });
  await first.next();
  const waiting = new AbortController();
  const waits = idsOf(model, PROMPT, { signal: waiting.signal });
  waiting.abort(new Error("waited too long"));
  await assert.rejects(waits, { message: "waited too long" });
  await first.return();

  const middle = new AbortController();
  const ids: number[] = [];
  await assert.rejects(async () => {
    const options = { maxTokens: 100, ignoreEos: true, signal: middle.signal };
    for await (const { id } of model.generate(PROMPT, options)) {
      ids.push(id);
      if (ids.length === 3) middle.abort(new Error("enough"));
    }
  }, { message: "enough" });
  assert.deepEqual(ids, expected.slice(0, 3));
  assert.equal(model.endReason, "cancelled");
  assert.deepEqual(await idsOf(model, PROMPT), expected);
});

test("AbortSignal that is raised just as the turn comes stops the generation", async () => {
  await using model = await models.openOpt();
  // How many ticks lie between the end of one and the start of the next is no business of the test: try many.
  for (let ticks = 0; ticks < 16; ticks++) {
    const controller = new AbortController();
    const first = model.generate(PROMPT, { maxTokens: 1 });
    await first.next();
    const second = idsOf(model, PROMPT, { maxTokens: 120, signal: controller.signal });
    second.catch(() => {});
    const end = first.next();
    for (let tick = 0; tick < ticks; tick++) await Promise.resolve();
    controller.abort(new Error("now"));
    await end;
    await assert.rejects(second, { message: "now" });
    const { tokens } = model.stats().decode;
    assert.ok(tokens < 119, `it ran on for ${tokens} tokens after ${ticks} ticks`);
  }
});

test("AbortSignal stops Model.logits() in the middle", async () => {
  await using model = await models.openOpt();
  const controller = new AbortController();
  const prompt = Array.from({ length: 120 }, (_, i) => i);
  let rows = 0;
  const use = () => {
    if (++rows === 3) controller.abort(new Error("enough"));
  };
  await assert.rejects(model.eachLogits(prompt, use, controller.signal), { message: "enough" });
  assert.ok(rows < 120, `${rows} rows came`);
  assert.equal((await idsOf(model, PROMPT)).length, 8);
});

test("Model.close() ends a generation, refuses later ones, and may be called twice", async () => {
  const model = await models.openOpt({ ffnCache: "30%", lanes: 2 });
  const running = model.generate(PROMPT, { maxTokens: 100, ignoreEos: true });
  await running.next();
  const queued = idsOf(model, PROMPT);
  const refusal = assert.rejects(queued, { message: "Cannot use a model that is closed" });
  const both = Promise.all([model.close(), model.close()]);
  await assert.rejects(async () => {
    for await (const _ of running);
  }, { message: "The model was closed" });
  await both;
  await refusal;
  await assert.rejects(idsOf(model, PROMPT), { message: "Cannot use a model that is closed" });
  await assert.rejects(model.logits(PROMPT), { message: "Cannot use a model that is closed" });
  await model.close();
  assert.ok(model.stats().prompt.tokens > 0, "what was counted can be read still");
});

test("Model.close() ends requests whose turn never comes, as one before them is not taken", async () => {
  const model = await models.openOpt();
  const idle = model.generate(PROMPT, { maxTokens: 100 });
  await idle.next();
  const refusal = assert.rejects(idsOf(model, PROMPT), {
    message: "Cannot use a model that is closed",
  });
  await model.close();
  await refusal;
  await idle.return();
});
