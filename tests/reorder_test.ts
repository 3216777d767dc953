import assert from "node:assert/strict";
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { after, before, test } from "node:test";
import { crc32 } from "node:zlib";
import { calibrate } from "../src/calibrate.ts";
import { ModelFileError } from "../src/errors.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { NeuronOrder } from "../src/format/neuron_order.ts";
import { reorderFlash } from "../src/format/reorder.ts";
import { open } from "../src/open.ts";
import { reorder } from "../src/reorder.ts";
import type { OpenOptions } from "../src/open.ts";
import { seededRandom } from "../src/random.ts";
import { PackedModels } from "./packed_models.ts";
import { runScript } from "./script_process.ts";
import { addPredictors } from "./tiny_flash.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** The small fixture with predictors, as it is and reordered. */
let plain = "", reordered = "";
before(async () => {
  plain = await models.flashOf("opt");
  addPredictors(plain);
  reordered = models.file("reordered.flash");
  copyFileSync(plain, reordered);
  await reorderFlash(reordered, shuffledOrders(reordered, 3));
});

function shuffledOrders(path: string, seed: number): NeuronOrder[] {
  using file = FlashFile.open(path);
  const random = seededRandom(seed);
  return file.header.layers.map(({ bundles: { count } }) => {
    const neuronAt = Array.from({ length: count }, (_, neuron) => neuron);
    for (let i = count - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [neuronAt[i], neuronAt[j]] = [neuronAt[j], neuronAt[i]];
    }
    return new NeuronOrder(neuronAt);
  });
}

const IDS = Array.from({ length: 40 }, (_, i) => (i * 37 + 5) % 320);

async function hashOf(path: string, options: OpenOptions): Promise<number> {
  await using model = await open(path, { lanes: 1, readers: 3, ffnCache: "20%", ...options });
  return crc32(new Uint8Array((await model.logits(IDS)).buffer));
}

test("an order on flash changes no bit of a logit", async (t) => {
  const ways: OpenOptions[] = [
    { ffn: "predicted" },
    { ffn: "predicted", lanes: 2, gapBytes: 0, prefetch: false },
    { ffn: "predicted", ffnCache: 0.02, gapBytes: 40_000 },
    { ffn: "predicted", ffnCache: "100%" },
    { ffn: "predicted", audit: true },
    {
      ffn: "predicted",
      backend: "pread",
      simulation: { seed: 2, delayMsMax: 0.3, shortRate: 0.5 },
    },
    { ffn: "exact" },
    { ffn: "exact", ffnCache: "100%" },
    { ffn: "dense" },
    { ffn: "dense", lanes: 2, gapBytes: 0 },
    { ffn: "dense", ffnCache: "100%" },
  ];
  const expected: Record<string, number> = {
    predicted: await hashOf(plain, { ffn: "predicted" }),
    exact: await hashOf(plain, { ffn: "exact" }),
    dense: await hashOf(plain, { ffn: "dense" }),
  };
  for (const options of ways) {
    await t.test(JSON.stringify(options), async () => {
      assert.equal(await hashOf(reordered, options), expected[options.ffn!]);
    });
  }
});

test("reorderFlash() moves bundles, and nothing else", async () => {
  using before = FlashFile.open(plain), after = FlashFile.open(reordered);
  assert.equal((await after.verify()).ok, true);
  assert.deepEqual(after.readBundle(1, 17), before.readBundle(1, 17));
  const [{ bundles }] = after.header.layers;
  const { neuronAt } = NeuronOrder.of(bundles);
  assert.notEqual(neuronAt[0], 0);
  const first = { byteOffset: bundles.byteOffset, byteLength: bundles.bundleByteLength };
  assert.deepEqual(after.readRange(first), before.readBundle(0, neuronAt[0]));
  const rest = ({ layers: _, ...others }: typeof after.header) => others;
  assert.deepEqual(rest(after.header), rest(before.header));
});

test("reorderFlash() back to the model's own order gives the first bundles again", async () => {
  const path = models.file("back.flash");
  copyFileSync(reordered, path);
  using before = FlashFile.open(plain);
  const plainOrders = before.header.layers.map(({ bundles }) => NeuronOrder.plain(bundles.count));
  const { layers } = await reorderFlash(path, plainOrders);
  assert.equal(layers[0].bundles.order, null);
  assert.deepEqual(layers, before.header.layers);
});

test("reorderFlash() leaves the file alone when it is stopped or asked for nonsense", async () => {
  const path = models.file("stopped.flash");
  copyFileSync(plain, path);
  const bytes = readFileSync(path);
  const orders = shuffledOrders(path, 1);
  const stop = new AbortController();
  const onProgress = () => stop.abort();
  await assert.rejects(reorderFlash(path, orders, { onProgress, signal: stop.signal }), {
    name: "AbortError",
  });
  await assert.rejects(reorderFlash(path, orders.slice(1)), /Cannot reorder 2 layers/);
  assert.deepEqual(readFileSync(path), bytes);
  assert.deepEqual(readdirSync(dirname(path)).filter((name) => name.includes("tmp")), []);
});

test("reorderFlash() refuses a damaged file, as new checksums would hide it", async () => {
  const path = models.file("damaged.flash");
  copyFileSync(plain, path);
  const bytes = readFileSync(path);
  let middle = 0;
  {
    using file = FlashFile.open(path);
    const { byteOffset, bundleByteLength } = file.header.layers[1].bundles;
    middle = byteOffset + 70 * bundleByteLength;
  }
  bytes[middle] ^= 1;
  writeFileSync(path, bytes);
  await assert.rejects(reorderFlash(path, shuffledOrders(path, 1)), (error: Error) => {
    assert.ok(error instanceof ModelFileError);
    assert.match(
      error.message,
      /damaged\.flash: Cannot reorder as its checksum is wrong \(layers\.1\.bundles 64\.\./,
    );
    return true;
  });
  assert.deepEqual(readFileSync(path), bytes);
});

test("NeuronOrder wants each neuron once", () => {
  assert.deepEqual([...new NeuronOrder([2, 0, 1]).positionOf], [1, 2, 0]);
  for (const wrong of [[0, 0], [1, 2], [-1, 0]]) {
    assert.throws(() => new NeuronOrder(wrong), RangeError);
  }
  assert.equal(NeuronOrder.plain(3).encode(), null);
  const bytes = new NeuronOrder([2, 0, 1]).encode();
  assert.deepEqual([...NeuronOrder.of({ order: bytes, count: 3 }).neuronAt], [2, 0, 1]);
});

const TEXT = readFileSync(new URL("../models/tales/calibration.txt", import.meta.url), "utf8");

/** The embedded model with predictors in closed form. */
async function calibratedTales(name: string): Promise<string> {
  const path = models.file(name);
  copyFileSync(await models.flashOf("tales", "q8"), path);
  await calibrate({ path, text: TEXT, method: "closed-form", tokensMax: 500 });
  return path;
}

test("reorder() makes fewer reads of a text that it has not seen, and changes no logit", async () => {
  const path = await calibratedTales("tales.flash");
  const before = await hashOf(path, { ffn: "predicted" });
  const phases = new Set<string>();
  const { before: cost, after, tokens, isApplied } = await reorder({
    path,
    text: TEXT,
    tokensMax: 800,
    onProgress: ({ phase, done, total }) => {
      assert.ok(done <= total);
      phases.add(phase);
    },
  });
  assert.deepEqual([...phases], ["tracing", "ordering", "rewriting"]);
  assert.deepEqual(tokens, { learned: 600, judged: 200 });
  assert.ok(isApplied && after.readsPerToken < 0.9 * cost.readsPerToken);
  assert.equal(await hashOf(path, { ffn: "predicted" }), before);
});

test("reorder() refuses what it cannot order, and leaves the file when it is stopped", async () => {
  const bare = models.file("bare.flash");
  copyFileSync(await models.flashOf("tales", "q8"), bare);
  await assert.rejects(reorder({ path: bare, text: TEXT }), /no predictors: run `flashpipe cal/);
  const path = await calibratedTales("alone.flash"), bytes = readFileSync(path);
  await assert.rejects(reorder({ path, text: "One day" }), /at least 32/);
  await assert.rejects(reorder({ path, text: TEXT, cacheShare: 20 }), /a cache of 20 of the FFN/);
  const stop = new AbortController();
  const stopped = reorder({
    path,
    text: TEXT,
    tokensMax: 100,
    onProgress: ({ phase }) => phase === "ordering" && stop.abort(),
    signal: stop.signal,
  });
  await assert.rejects(stopped, { name: "AbortError" });
  assert.deepEqual(readFileSync(path), bytes);
});

test("flashpipe calibrate --reorder and flashpipe reorder tell what an order gains", async () => {
  const path = models.file("commanded.flash"), text = models.file("text.txt");
  copyFileSync(await models.flashOf("tales", "q8"), path);
  writeFileSync(text, TEXT.slice(0, 6000));
  const run = (task: string, ...args: string[]) =>
    runScript("src/cli/main.ts", [task, path, "--text", text, ...args], { task });
  const both = await run("calibrate", "--method", "closed-form", "--reorder");
  assert.equal(both.exitCode, 0, both.stderr);
  assert.match(
    both.stdout,
    /^layer {2}rank.*\n(.*\n){6}reads per token [\d.]+ before, [\d.]+ after; /,
  );
  const again = await run("reorder", "-n", "400", "--ffn-cache", "10%");
  assert.equal(again.exitCode, 0, again.stderr);
  assert.match(again.stdout, /reads per token .* \(100 other tokens of the text, replayed\)\n$/);
  using file = FlashFile.open(path);
  assert.notEqual(file.header.layers[1].bundles.order, null);
  assert.equal((await file.verify()).ok, true);
});
