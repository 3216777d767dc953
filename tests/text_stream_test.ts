import fc from "fast-check";
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { TextCodec } from "../src/text_stream.ts";

const TALES = new URL("../models/tales/", import.meta.url);
const read = (name: string) => readFileSync(new URL(name, TALES), "utf8");
const codec = new TextCodec(
  { json: read("tokenizer.json"), config: read("tokenizer_config.json") },
  "tales.flash",
);

function streamed(ids: number[]): string[] {
  const stream = codec.stream();
  return [...ids.map((id) => stream.push(id)), stream.end()];
}

test("TextCodec.encode() gives the ids of the golden prompts, with the token that starts a text", () => {
  const { prompts } = JSON.parse(read("golden.json"));
  for (const { text, input_ids } of prompts) {
    assert.deepEqual(codec.encode(text), input_ids);
    assert.deepEqual(codec.encode(text, false), input_ids.slice(1));
  }
});

test("TextCodec.decode() of no ids is no text", () => assert.equal(codec.decode([]), ""));

test("TextStream hands text out token by token", () => {
  const ids = codec.encode("Once upon a time, there was a dog.", false);
  const parts = streamed(ids);
  assert.equal(parts.join(""), "Once upon a time, there was a dog.");
  assert.ok(parts.slice(0, -1).every((part) => part !== ""), "plain letters do not wait");
  assert.equal(parts.at(-1), "");
});

test("TextStream holds a character back until its last byte has come", () => {
  const text = "a\u00e9\u{1f600}\u4e16b";
  const parts = streamed(codec.encode(text, false));
  assert.equal(parts.join(""), text);
  assert.ok(parts.includes(""), "some token was part of a character");
  assert.ok(parts.every((part) => !part.includes("\ufffd")));
});

test("TextStream gives any text back, whole", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 30 }), (text) => {
      const ids = codec.encode(text, false);
      assert.equal(streamed(ids).join(""), codec.decode(ids));
    }),
    { numRuns: 60 },
  );
});

test("TextStream.end() shows what is left of a broken character, once", () => {
  const ids = codec.encode("\u{1f600}", false).slice(0, -1);
  const stream = codec.stream();
  assert.ok(!stream.isPending);
  for (const id of ids) {
    assert.equal(stream.push(id), "");
    assert.ok(stream.isPending);
  }
  assert.match(stream.end(), /^\ufffd+$/);
  assert.equal(stream.end(), "");
  assert.ok(!stream.isPending);
});

test("TextStream does not wait for ever for a character that will never be whole", () => {
  const [first] = codec.encode("\u{1f600}", false);
  const stream = codec.stream();
  const parts = Array.from({ length: 20 }, () => stream.push(first));
  assert.ok(parts.some((part) => part !== ""), "it gave up at last");
});

test("TextCodec refuses a tokenizer that cannot be used, naming the file", () => {
  for (const json of ["{}", '{"model":{"type":"Nonsense"}}']) {
    assert.throws(() => new TextCodec({ json, config: null }, "m.flash"), {
      name: "ModelFileError",
      path: "m.flash",
      field: "tokenizer",
      message: /^m\.flash: the tokenizer cannot be used: /,
    });
  }
});
