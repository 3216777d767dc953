/**
 * What callers see when a worker fails. Some models are left unclosed on purpose: their workers must have ended, or Node
 * would never come to the end of this file.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { FlashReadError } from "../src/errors.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { pack } from "../src/format/pack.ts";
import { open } from "../src/open.ts";
import { idsOf, PackedModels, PROMPT } from "./packed_models.ts";
import { floatTensor, writeTinyModel } from "./tiny_model.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** The bundles of a file: where a read may begin. */
function bundlesOf(path: string): { begin: number; end: number } {
  using file = FlashFile.open(path);
  const begin = file.header.layers[0].bundles.byteOffset;
  const { byteOffset, bundleByteLength, count } = file.header.layers.at(-1)!.bundles;
  return { begin, end: byteOffset + bundleByteLength * count };
}

for (const ffn of ["exact", "dense"] as const) {
  test(`FlashReadError reaches the caller of generate() when the disk fails in the middle: ${ffn}`, async () => {
    const simulation = { seed: 1, failAtRead: 12 };
    const model = await models.openOpt({ ffn, ffnCache: "5%", readers: 2, lanes: 2, simulation });
    const options = { maxTokens: 100, ignoreEos: true };
    const queue = [
      idsOf(model, PROMPT, options),
      idsOf(model, PROMPT, options),
      model.logits(PROMPT),
    ];
    const ends = await Promise.allSettled(queue);
    const { begin, end } = bundlesOf(model.path);
    for (const result of ends) {
      assert.equal(result.status, "rejected");
      const error = result.reason;
      assert.ok(error instanceof FlashReadError, `received ${error}`);
      assert.equal(error.path, model.path);
      assert.ok(error.byteOffset >= begin && error.byteOffset < end, `byte ${error.byteOffset}`);
      assert.equal(error.byteOffset % model.disk.blockByteLength, 0);
      assert.ok(error.byteLength > 0);
      const { code, message } = error.cause as Error & { code: string };
      assert.equal(code, "EIO");
      assert.match(message, /simulated fault/);
      assert.match(error.message, /^Cannot read \d+ bytes at byte \d+ of .*: EIO: simulated fault/);
    }
    // The model is not closed: a failed pipeline ends by itself.
  });
}

test("WorkerError names the worker that threw, and what", async () => {
  const source = models.file("nan");
  writeTinyModel(source, {
    change: (tensors) =>
      tensors.map((tensor) => {
        if (!tensor.name.endsWith("decoder.final_layer_norm.bias")) return tensor;
        return floatTensor(tensor.name, "F32", tensor.shape, new Float32Array(32).fill(3e38));
      }),
  });
  const path = models.file("nan.flash");
  await pack({ source, target: path, quant: "f32" });
  const model = await open(path, { lanes: 2, readers: 1, ffn: "exact" });
  await assert.rejects(idsOf(model, [1, 2]), {
    name: "WorkerError",
    worker: "lane 0",
    message: /^lane 0 failed: RangeError: Cannot choose a token as/,
  });
  await assert.rejects(idsOf(model, [1, 2]), { name: "WorkerError" });
  await model.close();
});
