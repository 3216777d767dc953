/** What `open` refuses, and that it leaves no worker behind: else Node would never come to the end of this file. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { MemoryBudgetError, ModelFileError } from "../src/errors.ts";
import { pack } from "../src/format/pack.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { idsOf, PackedModels, PROMPT } from "./packed_models.ts";
import { writeTinyModel } from "./tiny_model.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

test("open() refuses options that make no sense, before it starts a worker", async () => {
  const wrong: [OpenOptions, RegExp][] = [
    [{ lanes: 0 }, /lanes 0: a whole number from 1 to/],
    [{ lanes: 1.5 }, /lanes 1.5/],
    [{ readers: 1000 }, /readers 1000/],
    [{ context: 129 }, /context 129: a whole number from 1 to 128/],
    [{ window: -1 }, /window -1: a whole number from 0 to/],
    [{ naive: true }, /naive in exact: it is of `dense` alone/],
    [{ ffn: "dense", naive: true, ffnCache: 0.5 }, /naive keeps nothing/],
    [{ policy: "luck" as "lru" }, /"luck": one of frequency, lru, segmented, pinned, window/],
    [{ policy: "window" }, /set `window` too/],
    [{ policy: "lru", window: 3 }, /by lru with a window/],
    [{ waitMsMax: NaN }, /waitMsMax NaN: a whole number from 1 to 2147483647/],
    [{ waitMsMax: 0 }, /waitMsMax 0/],
    [{ spins: -1 }, /spins -1: a whole number from 0 to/],
    [{ flashSpins: Infinity }, /flashSpins Infinity/],
    [{ gapBytes: 0.5 }, /gapBytes 0.5/],
    [{ ffn: "sparse" as "exact" }, /"sparse": one of predicted, exact, magnitude, dense/],
    [{ ffn: "predicted" }, /no predictors/],
    [{ memory: "much" }, /a size such as/],
    [{ ffnCache: "120%" }, /a share such as/],
  ];
  for (const [options, message] of wrong) {
    await assert.rejects(models.openOpt(options), { name: "RangeError", message });
  }
});

test("open() refuses a memory that is too small and says what would do, which then does", async () => {
  let required = 0;
  await assert.rejects(models.openOpt({ memory: "1MiB" }), (error: Error) => {
    assert.ok(error instanceof MemoryBudgetError);
    required = error.requiredBytes;
    const smallest = `the smallest memory that works is ${required / 2 ** 20}MiB`;
    assert.ok(error.message.endsWith(smallest), error.message);
    return true;
  });
  // The runtime itself may have grown a little meanwhile.
  await using model = await models.openOpt({ memory: required + 32 * 2 ** 20 });
  assert.equal((await idsOf(model, PROMPT)).length, 8);
});

test("open() refuses a tokenizer that cannot be used, and leaves no worker behind", async () => {
  const source = models.file("mute");
  writeTinyModel(source);
  writeFileSync(`${source}/tokenizer.json`, "{}");
  const path = models.file("mute.flash");
  await pack({ source, target: path, quant: "f32" });
  const isDamaged = (error: Error) =>
    error instanceof ModelFileError && error.field === "tokenizer";
  await assert.rejects(open(path, { lanes: 1, readers: 1, ffn: "exact" }), isDamaged);
});

test("pack() refuses heads that are no whole tiles, which lanes could not split", async () => {
  const source = models.file("heads");
  writeTinyModel(source, { config: { num_attention_heads: 8 } });
  const refused = pack({ source, target: models.file("heads.flash"), quant: "f32" });
  await assert.rejects(refused, /8 attention heads have 4 numbers each, no multiple of 16/);
});

test("open() stops at a signal, and leaves no worker behind", async () => {
  const controller = new AbortController();
  let doneBytes = 0;
  const onProgress = (progress: { doneBytes: number; totalBytes: number }) => {
    assert.ok(progress.doneBytes > doneBytes && progress.totalBytes > 0);
    doneBytes = progress.doneBytes;
    controller.abort(new Error("changed my mind"));
  };
  const opening = models.openOpt({ signal: controller.signal, onProgress });
  await assert.rejects(opening, { message: "changed my mind" });
  await assert.rejects(models.openOpt({ signal: controller.signal }), {
    message: "changed my mind",
  });
});
