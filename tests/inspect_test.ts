import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { FlashFile } from "../src/format/flash_file.ts";
import { updateFlash } from "../src/format/flash_update.ts";
import { inspect, renderInspection } from "../src/format/inspect.ts";
import { pack } from "../src/format/pack.ts";
import { addPredictors, packTiny } from "./tiny_flash.ts";
import { TemporaryFolder } from "./tiny_model.ts";

test("inspect() accounts for every byte of the file", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "q8");
  addPredictors(path);
  const found = await inspect(path);
  // d = 32, n = 96, 2 layers, 43 tokens (48 padded), 8 positions; a tile of q8 is 272 bytes.
  assert.equal(found.bundleByteLength, 68);
  assert.equal(found.sizes.bundles, 2 * 96 * 68);
  assert.equal(found.sizes.embeddings, 6 * 272 + 8 * 32 * 2);
  assert.equal(found.sizes.attention, 2 * 4 * 4 * 272);
  assert.equal(found.sizes.norms, (2 * 4 + 2) * 32 * 4);
  assert.equal(found.sizes.biases, 2 * (4 * 32 + 96 + 32) * 4);
  assert.equal(found.sizes.predictors, 2 * (4 * 272 + 12 * 272 + 2 * 96 * 4));
  assert.equal(Object.values(found.sizes).reduce((sum, bytes) => sum + bytes), found.byteLength);
  const { bundles, header, unused } = found.sizes;
  assert.equal(found.residentByteLength, found.byteLength - bundles - header - unused);
  assert.equal(found.generation, 2);
  assert.equal(found.provenance.synthetic, true);
  assert.equal(found.checksums, null);
  assert.deepEqual(found.predictors?.layers.map(({ rank, recall }) => [rank, recall]), [
    [32, 0.98],
    [32, 0.98],
  ]);
  assert.deepEqual(structuredClone(found), found); // Plain data.
});

test("inspect() with verify reports checksums, right or wrong", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "f16");
  const sound = await inspect(path, { verify: true });
  assert.equal(sound.checksums?.ok, true);
  const damaged = readFileSync(path);
  using file = FlashFile.open(path);
  damaged[file.header.layers[1].bundles.byteOffset] ^= 1;
  const other = folder.file("damaged.flash");
  writeFileSync(other, damaged);
  const found = await inspect(other, { verify: true });
  assert.equal(found.checksums?.failures[0].field, "layers.1.bundles 0..63");
  assert.match(
    renderInspection(found),
    /checksums +1 WRONG\n +layers\.1\.bundles 0\.\.63: bytes \d+/,
  );
});

test("renderInspection() tells people what they want to know", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "q8");
  const plain = renderInspection(await inspect(path));
  assert.match(plain, /weights as q8, from tiny/);
  assert.match(plain, /2 layers, hidden 32, FFN 96, 2 heads, vocabulary 43, context 6/);
  assert.match(plain, /predictors +none: run calibrate/);
  assert.match(plain, /synthetic +random weights/);
  assert.match(plain, /not checked/);
  assert.doesNotMatch(plain, /smallest/);
  addPredictors(path);
  const found = await inspect(path, { verify: true });
  const full = renderInspection(found, { smallestMemoryBytes: 1.5 * 2 ** 30 });
  assert.match(full, /memory +1\.50 GiB is the smallest/);
  assert.match(full, /layer 1 +rank +32, recall 98\.0 %, predicted 20\.0 %, active 5\.0 %/);
  assert.match(full, /checksums +all right/);
  const target = folder.file("mixed.flash");
  await pack({ source: folder.file("tiny"), target, quant: "f16", ffnQuant: "q8" });
  const mixed = renderInspection(await inspect(target));
  assert.match(mixed, /resident weights as f16, bundles as q8, from tiny/);
});

test("renderInspection() lets no text of the file steer the terminal", async () => {
  using folder = new TemporaryFolder();
  const path = await packTiny(folder, "q8");
  updateFlash(path, ({ header }) => ({
    ...header,
    provenance: { ...header.provenance, source: "a\x1b[2Jb\nc" },
  }));
  const text = renderInspection(await inspect(path));
  assert.match(text, /from a\ufffd\[2Jb\ufffdc\n/);
});
