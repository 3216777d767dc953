/**
 * The promise about numbers: given model file, prompt, mode, runtime and kernel build, nothing else changes a logit, bit for bit. Every
 * row of the tables below opens the model in another way and hashes the logits of a tale's first tokens.
 */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { crc32 } from "node:zlib";
import { calibrate } from "../src/calibrate.ts";
import { POLICY_NAMES } from "../src/cache/policies.ts";
import type { FitMethod } from "../src/fit/fit_plan.ts";
import { open } from "../src/open.ts";
import type { KvQuantization } from "../src/kv_page.ts";
import type { OpenOptions } from "../src/open.ts";
import { goldenOf, PackedModels } from "./packed_models.ts";
import { addBitPlanes, addPredictors } from "./tiny_flash.ts";

const METHODS = ["trained", "sign-sketch", "low-bit"] as const satisfies FitMethod[];

const models = new PackedModels();
after(() => models[Symbol.dispose]());

/** A tale: a golden prompt and what follows it. */
function taleIds(count: number): number[] {
  const { input_ids, greedy_ids } = goldenOf("tales").prompts[0];
  return [...input_ids, ...greedy_ids].slice(0, count);
}

/** CRC-32 of the bytes of all logits, as 8 digits. */
async function hashOf(path: string, options: OpenOptions, tokens = 24): Promise<string> {
  await using model = await open(path, { readers: 1, ffnCache: "20%", ...options });
  const logits = await model.logits(taleIds(tokens));
  const bytes = new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength);
  return crc32(bytes).toString(16).padStart(8, "0");
}

/** Files with predictors of each kind. */
const calibrated: Partial<Record<FitMethod, string>> = {};
before(async () => {
  const packed = await models.flashOf("tales");
  const text = readFileSync(new URL("../models/tales/calibration.txt", import.meta.url), "utf8");
  for (const method of METHODS) {
    const path = models.file(`${method}.flash`);
    copyFileSync(packed, path);
    await calibrate({ path, text, method, tokensMax: 700 });
    calibrated[method] = path;
  }
}, { timeout: 240_000 });

/** So small that the tales take several. */
const SMALL_ARENAS = { arenaBytes: 18 << 20, readers: 1 };

const WAYS: [string, OpenOptions][] = [
  ...POLICY_NAMES.filter((name) => name !== "window").map(
    (policy): [string, OpenOptions] => [`the policy ${policy}, 4 readers`, { policy, readers: 4 }],
  ),
  ["the policy frequency, a cache of 3 %", { policy: "frequency", ffnCache: "3%" }],
  ["window 1", { window: 1 }],
  ["window 0: no cache, 2 lanes", { window: 0, lanes: 2 }],
  ["up rows and down columns apart, 1 reader, no prefetch", {
    unbundled: true,
    readers: 1,
    prefetch: false,
  }],
  ["up rows and down columns apart, several passes, 2 lanes, a slow, short disk", {
    unbundled: true,
    ffnCache: "5%",
    lanes: 2,
    simulation: { seed: 6, delayMsMax: 0.05, shortRate: 0.5 },
  }],
  ["nearly everything in memory, a prompt of 20 at a time", {
    ffnCache: "97%",
    promptChunk: 20,
    logitsRows: 40,
  }],
  ["a cache smaller than a layer's list", { ffnCache: 0.004 }],
  ["a cache of 3 %, 2 lanes", { ffnCache: "3%", lanes: 2 }],
  ["everything in memory", { ffnCache: "100%" }],
  ["4 lanes, 4 readers", { lanes: 4, readers: 4 }],
  ["no prefetch, 2 lanes, 1 reader", { prefetch: false, lanes: 2, readers: 1 }],
  ["no read over gaps, 16 readers", { gapBytes: 0, readers: 16 }],
  ["reads over large gaps, window 5", { gapBytes: 40_000, window: 5 }],
  ["a slow, short disk, 4 readers", {
    readers: 4,
    simulation: { seed: 7, delayMsMax: 0.3, shortRate: 0.5 },
  }],
  ["another slow disk, 3 lanes", { simulation: { seed: 8, delayMsMax: 1 }, lanes: 3 }],
  ["audited", { audit: true }],
  ["audited, several passes, 2 lanes", { audit: true, ffnCache: 0.02, lanes: 2 }],
  ["audited, no prefetch, a slow disk", {
    audit: true,
    prefetch: false,
    simulation: { seed: 9, delayMsMax: 0.5 },
  }],
  ["pages of 4 KiB, waiters that sleep at once", { hugePages: false, spins: 0, flashSpins: 0 }],
  ["position after position", { promptChunk: 1 }],
  ["3 positions at a time, 2 lanes", { promptChunk: 3, lanes: 2 }],
  ["a prompt of 22 positions at a time", { promptChunk: 22, logitsRows: 44 }],
  ["a prompt of 20 at a time, everything in memory, 3 lanes", {
    promptChunk: 20,
    logitsRows: 40,
    ffnCache: "100%",
    lanes: 3,
  }],
  ["a prompt in one piece, 2 lanes, a slow disk", {
    promptChunk: 64,
    logitsRows: 128,
    lanes: 2,
    simulation: { seed: 4, delayMsMax: 0.5, shortRate: 0.3 },
  }],
  ["a prompt in one piece, in slots that the last layer lends", {
    promptChunk: 64,
    logitsRows: 128,
    ffnCache: "90%",
  }],
  ["the same, 2 lanes, a slow disk, one reader", {
    promptChunk: 64,
    logitsRows: 128,
    ffnCache: "90%",
    lanes: 2,
    readers: 1,
    simulation: { seed: 5, delayMsMax: 0.5 },
  }],
  ["several arenas", SMALL_ARENAS],
  ["several arenas, 2 lanes, a prompt of 22 at a time", {
    ...SMALL_ARENAS,
    lanes: 2,
    promptChunk: 22,
    logitsRows: 44,
  }],
  // The stream is at two arenas at once: their buffers must not share anything.
  ["several arenas, a prompt of 22 at a time, a slow disk", {
    ...SMALL_ARENAS,
    backend: "pread",
    promptChunk: 22,
    logitsRows: 44,
    simulation: { seed: 10, delayMsMax: 2 },
  }],
];

/** What bit planes could be sensitive to: who looks, what was looked at early, in how many passes. */
const LOOK_WAYS = waysNamed([
  "a cache smaller than a layer's list",
  "everything in memory",
  "4 lanes, 4 readers",
  "no prefetch, 2 lanes, 1 reader",
  "another slow disk, 3 lanes",
]);

function waysNamed(names: string[]): [string, OpenOptions][] {
  return names.map((wanted) => {
    const way = WAYS.find(([name]) => name === wanted);
    assert.ok(way, wanted);
    return way;
  });
}

const WAYS_OF: Record<(typeof METHODS)[number], [string, OpenOptions][]> = {
  "trained": WAYS,
  // The kernel and the code of low-bit, with one plane.
  "sign-sketch": waysNamed(["a cache smaller than a layer's list", "4 lanes, 4 readers"]),
  "low-bit": LOOK_WAYS,
};

for (const method of METHODS) {
  test(`Model.logits() in predicted, ${method}, does not depend on cache, policy, lanes, readers or timing`, async (t) => {
    const path = calibrated[method]!;
    const expected = await hashOf(path, { ffn: "predicted" });
    for (const [name, options] of WAYS_OF[method]) {
      await t.test(name, async () => {
        assert.equal(await hashOf(path, { ffn: "predicted", ...options }), expected);
      });
    }
    await t.test("but another set of neurons does change them", async () => {
      assert.notEqual(await hashOf(path, { ffn: "dense" }), expected);
      assert.notEqual(await hashOf(path, { ffn: "predicted", recall: 0.9 }), expected);
    });
  });
}

test("Model.logits() in exact equals dense, bit for bit", async () => {
  const expected = await hashOf(calibrated.trained!, { ffn: "dense" });
  const ways: OpenOptions[] = [
    { ffn: "dense", ffnCache: "100%", lanes: 2 },
    { ffn: "dense", ffnCache: 0, lanes: 3, readers: 1 },
    { ffn: "dense", promptChunk: 20, logitsRows: 40 },
    { ffn: "dense", ffnCache: "70%", promptChunk: 20, logitsRows: 40, readers: 1 },
    { ffn: "dense", ffnCache: "50%", ...SMALL_ARENAS, simulation: { seed: 2, shortRate: 0.5 } },
    { ffn: "dense", naive: true, ffnCache: 0, lanes: 2, ...SMALL_ARENAS, promptChunk: 20 },
    { ffn: "exact", unbundled: true, window: 0 },
    { ffn: "exact", promptChunk: 20, logitsRows: 40, ffnCache: "5%" },
    { ffn: "exact", promptChunk: 5, lanes: 2, ...SMALL_ARENAS },
    { ffn: "exact", ffnCache: 0.004, lanes: 2 },
    { ffn: "exact", ffnCache: "100%" },
    { ffn: "exact", prefetch: false, simulation: { seed: 3, delayMsMax: 0.3 } },
  ];
  for (const options of ways) {
    assert.equal(await hashOf(calibrated.trained!, options), expected, JSON.stringify(options));
  }
});

/** A residual stream of 64 numbers makes two shares of columns: of five lanes three have none, whose books must be nobody's. */
for (const quant of ["q8", "q4"] as const) {
  test(`Model.logits() in ${quant} does not depend on lanes, though there be more of them than columns to share`, async () => {
    const path = await models.flashOf("opt", quant), { input_ids } = goldenOf("opt");
    const logitsOf = async (options: OpenOptions) => {
      await using model = await open(path, { ffn: "exact", readers: 2, ...options });
      return await model.logits(input_ids);
    };
    const expected = await logitsOf({ lanes: 1, ffnCache: "20%" });
    for (const promptChunk of [1, 64]) {
      const found = await logitsOf({ lanes: 5, ffnCache: "50%", promptChunk });
      assert.deepEqual(found, expected, `${promptChunk} at a time`);
    }
  });
}

/**
 * Plain SIMD has no operation whose result differs between runtimes. The hashes were printed by this test in Deno 2.9.6 and are the same in
 * Bun 1.4.5 and Node 26; the weights are those of models/tales, the predictors seeded integers.
 */
const PLAIN_HASHES = {
  dense: {
    f16: { f32: "113ef1ad", f16: "d87b0460" },
    q8: { f32: "f2221476", q8: "3e41b6d4" },
    q4: { f32: "4eb03d92" },
  },
  predicted: {
    f16: { f32: "dc87f79c" },
    q8: { f32: "3047e152", q8: "18f533a2" },
    q4: { f32: "4d4a7e8b" },
  },
  bitPlanes: {
    f16: { f32: "356eb217", f16: "c7f1e311" },
    q8: { f32: "8fc6b79e" },
    q4: { f32: "888e559b" },
  },
};

for (const way of ["dense", "predicted", "bitPlanes"] as const) {
  for (const quant of ["f16", "q8", "q4"] as const) {
    test(`Model.logits() with the plain kernels has one hash in all runtimes: ${way}, ${quant}`, async () => {
      const path = await models.flashOf("tales", quant);
      if (way === "bitPlanes") addBitPlanes(path, 3);
      else addPredictors(path);
      const ffn = way === "dense" ? "dense" : "predicted";
      for (const [kv, expected] of Object.entries(PLAIN_HASHES[way][quant])) {
        const options = { ffn, kernels: "plain", kv: kv as KvQuantization } as const;
        assert.equal(await hashOf(path, options, 64), expected, `keys and values in ${kv}`);
      }
    });
  }
}
