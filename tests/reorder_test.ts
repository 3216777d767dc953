import assert from "node:assert/strict";
import { copyFileSync, readdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { after, before, test } from "node:test";
import { crc32 } from "node:zlib";
import { FlashFile } from "../src/format/flash_file.ts";
import { NeuronOrder } from "../src/format/neuron_order.ts";
import { reorderFlash } from "../src/format/reorder.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { seededRandom } from "../src/random.ts";
import { PackedModels } from "./packed_models.ts";
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
  const expected = {
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

test("NeuronOrder wants each neuron once", () => {
  assert.deepEqual([...new NeuronOrder([2, 0, 1]).positionOf], [1, 2, 0]);
  for (const wrong of [[0, 0], [1, 2], [-1, 0]]) {
    assert.throws(() => new NeuronOrder(wrong), RangeError);
  }
  assert.equal(NeuronOrder.plain(3).encode(), null);
  const bytes = new NeuronOrder([2, 0, 1]).encode();
  assert.deepEqual([...NeuronOrder.of({ order: bytes, count: 3 }).neuronAt], [2, 0, 1]);
});
