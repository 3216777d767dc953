/** Texts that are JSON of a schema, whatever the model would have said. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { GenerateOptions } from "../src/model.ts";
import { open } from "../src/open.ts";
import { PackedModels, PROMPT } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** It has few texts, so that a model that knows nothing of JSON comes to an end. */
const SCHEMA = {
  type: "object",
  properties: {
    isTrue: { type: "boolean" },
    kind: { enum: ["a", "bcd", "\u00e9"] },
    numbers: { type: "array", items: { enum: [1, 22] }, minItems: 1, maxItems: 2 },
  },
  required: ["isTrue", "kind", "numbers"],
};

async function textOf(model: Awaited<ReturnType<typeof open>>, options: GenerateOptions) {
  let text = "";
  for await (const token of model.generate("Once upon", { maxTokens: 200, ...options })) {
    text += token.text;
  }
  return text;
}

test("Model.generate() follows a JSON schema, at any temperature and seed, and is itself again after", async () => {
  await using model = await open(await models.flashOf("tales"), { ffn: "exact", lanes: 2 });
  const free = await textOf(model, { maxTokens: 20 });
  const seen = new Set<string>();
  for (const options of [{}, { temperature: 2, seed: 1 }, { temperature: 2, seed: 2 }]) {
    for (const jsonSchema of [SCHEMA, JSON.stringify(SCHEMA)]) {
      const text = await textOf(model, { ...options, jsonSchema });
      assert.equal(model.endReason, "end-of-text", text);
      const { isTrue, kind, numbers, ...others } = JSON.parse(text);
      assert.equal(typeof isTrue, "boolean");
      assert.ok(SCHEMA.properties.kind.enum.includes(kind), text);
      assert.ok(numbers.length >= 1 && numbers.length <= 2, text);
      assert.ok(numbers.every((number: number) => [1, 22].includes(number)), text);
      assert.deepEqual(others, {});
      seen.add(text);
    }
  }
  assert.ok(seen.size > 1, "seeds differ");
  assert.equal(await textOf(model, { maxTokens: 20 }), free);
});

test("Model.generate() with a schema may be left, or aborted, while lane 0 waits for a mask", async () => {
  await using model = await open(await models.flashOf("tales"), { ffn: "exact", lanes: 1 });
  for (let round = 0; round < 3; round++) {
    for await (const _ of model.generate("Once", { jsonSchema: SCHEMA })) break;
    const stop = new AbortController();
    await assert.rejects(async () => {
      const { signal } = stop;
      for await (const _ of model.generate("Once", { jsonSchema: SCHEMA, signal })) {
        stop.abort(new Error("enough"));
      }
    }, /enough/);
    JSON.parse(await textOf(model, { jsonSchema: SCHEMA }));
  }
});

test("Model.generate() follows several schemas that were asked for at once", async () => {
  await using model = await open(await models.flashOf("tales"), { ffn: "exact", lanes: 1 });
  await using other = await open(await models.flashOf("tales"), { ffn: "exact", lanes: 1 });
  const texts = await Promise.all(
    [model, other, model].map((each, index) =>
      textOf(each, { jsonSchema: { enum: [`${index}`] } })
    ),
  );
  assert.deepEqual(texts, ['"0"', '"1"', '"2"']);
});

test("Model.generate() refuses what is no schema, and models that cannot follow one", async () => {
  await using model = await open(await models.flashOf("tales"), { ffn: "exact", lanes: 1 });
  for (const jsonSchema of ["", "{", '{"type":"nothing"}']) {
    await assert.rejects(textOf(model, { jsonSchema }), { name: "RangeError" }, jsonSchema);
    JSON.parse(await textOf(model, { jsonSchema: SCHEMA }));
  }
  // Whole, it may only end; and it may not.
  const [end] = model.header.config.eosTokenIds, logitBias = { [end]: -Infinity };
  const text = await textOf(model, { jsonSchema: { enum: [1] }, logitBias });
  assert.equal(text, "1");
  assert.equal(model.endReason, "nothing-allowed");
  JSON.parse(await textOf(model, { jsonSchema: SCHEMA, ignoreEos: true }));
  assert.equal(model.endReason, "end-of-text");
  await using silent = await models.openOpt();
  const running = silent.generate(PROMPT, { jsonSchema: SCHEMA });
  await assert.rejects(running.next(), /Cannot follow a schema without a tokenizer/);
});
