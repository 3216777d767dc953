/** `magnitude`: small activations of SiLU and GELU are left out, by cuts that a text was measured for. */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { calibrate } from "../src/calibrate.ts";
import { calibrateMagnitudes } from "../src/calibrate_magnitudes.ts";
import { evaluate } from "../src/eval.ts";
import { calibrationFolder } from "../src/fit/calibration_job.ts";
import { MagnitudeHistogram } from "../src/fit/magnitude_histogram.ts";
import { WorkFolder } from "../src/fit/work_folder.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { updateFlash } from "../src/format/flash_update.ts";
import type { Magnitudes } from "../src/format/header.ts";
import { inspect, renderInspection } from "../src/format/inspect.ts";
import type { Quantization } from "../src/format/layout.ts";
import { pack } from "../src/format/pack.ts";
import { tokenWork } from "../src/forecast/token_work.ts";
import { magnitudeCuts } from "../src/magnitude_cuts.ts";
import { open, prepare } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { traceInMemory } from "../src/simulate/record_trace.ts";
import { renderEvaluation } from "../src/cli/evaluation_report.ts";
import { renderPlan } from "../src/cli/terminal/closing_block.ts";
import { runScript } from "./script_process.ts";
import { idsOf, PackedModels } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

const NAMES = ["llama_silu", "phi_gelu"] as const;
type Name = typeof NAMES[number];

/** What `transformers` computes with activations cut: tests/fixtures/make_magnitudes.py. */
interface Golden {
  input_ids: number[];
  cut: {
    sparsity: number;
    cuts: number[];
    left_out: number[];
    logits: Record<string, number[]>;
  }[];
}

const folderOf = (name: Name) => new URL(`fixtures/magnitudes/${name}/`, import.meta.url);

const goldens = Object.fromEntries(NAMES.map((name) => {
  return [name, JSON.parse(readFileSync(new URL("golden.json", folderOf(name)), "utf8"))];
})) as Record<Name, Golden>;

/** The packed model, with the cuts of its golden as what calibration found. */
async function flashOf(name: Name, quant: Quantization): Promise<string> {
  const path = models.file(`${name}-${quant}.flash`), { cut } = goldens[name];
  await pack({ source: fileURLToPath(folderOf(name)), target: path, quant });
  setMagnitudes(path, {
    createdBy: "tests",
    calibration: { tokens: 24, textName: "golden" },
    sparsities: cut.map(({ sparsity }) => sparsity),
    layers: [0, 1].map((layer) => ({ cuts: cut.map(({ cuts }) => cuts[layer]) })),
  });
  return path;
}

function setMagnitudes(path: string, magnitudes: Magnitudes): void {
  updateFlash(path, ({ header }) => ({ ...header, magnitudes }));
}

async function logitsOf(path: string, ids: number[], options: OpenOptions) {
  await using model = await open(path, { readers: 2, ffn: "magnitude", ...options });
  return await model.logits(ids);
}

/** Streams of prompts (over 8 positions), steps of a few, and of one; lists longer than the slots. */
const WAYS: OpenOptions[] = [
  { ffnCache: "100%", lanes: 1, promptChunk: 1 },
  { ffnCache: "20%", lanes: 2 },
  {
    ffnCache: "5%",
    lanes: 3,
    promptChunk: 5,
    prefetch: false,
    simulation: { seed: 3, delayMsMax: 0.2, shortRate: 0.4 },
  },
];

for (const name of NAMES) {
  const { input_ids: ids, cut } = goldens[name];

  test(`${name}: logits agree with an independent implementation, in whatever way`, async () => {
    const path = await flashOf(name, "f32");
    for (const [index, { sparsity, logits }] of cut.entries()) {
      const way = WAYS[index], found = await logitsOf(path, ids, { sparsity, ...way });
      for (const [position, wanted] of Object.entries(logits)) {
        const row = found.subarray(128 * Number(position), 128 * (Number(position) + 1));
        const worst = Math.max(...wanted.map((value, i) => Math.abs(row[i] - value)));
        assert.ok(worst <= 2e-5, `${sparsity}, position ${position}: off by ${worst}`);
      }
    }
  });

  test(`${name} in q8: the same bits in whatever memory, and other ones than dense`, async () => {
    const path = await flashOf(name, "q8");
    const first = await logitsOf(path, ids, { sparsity: "60%", ...WAYS[0] });
    for (const way of WAYS.slice(name === "llama_silu" ? 1 : 2)) {
      const other = await logitsOf(path, ids, { sparsity: "60%", ...way });
      assert.deepEqual(other, first, JSON.stringify(way));
    }
    const exact = await logitsOf(path, ids, { ffn: "exact", ffnCache: "20%" });
    assert.notDeepEqual(exact, first, "something is left out");
    if (name !== "llama_silu") return;
    assert.deepEqual(exact, await logitsOf(path, ids, { ffn: "dense", ffnCache: "50%" }));
    const layers = [0, 1].map(() => ({ cuts: [0, 1] }));
    setMagnitudes(path, { ...magnitudesOf(path), sparsities: [0.1, 0.2], layers });
    const uncut = await logitsOf(path, ids, { sparsity: 0.1, ffnCache: "20%" });
    assert.deepEqual(uncut, exact, "a cut of 0");
  });
}

test("drafts and tokens one by one give the same text; what is computed is told", async () => {
  const { input_ids: ids, cut } = goldens.llama_silu, { left_out, sparsity } = cut[1];
  const path = await flashOf("llama_silu", "f16"), texts: number[][] = [];
  for (const drafts of [0, 7]) {
    await using model = await open(path, { ffn: "magnitude", sparsity, drafts, ffnCache: "30%" });
    const prompt = [...ids.slice(0, 8), ...ids.slice(0, 8)];
    texts.push(await idsOf(model, prompt, { maxTokens: 12, temperature: 0 }));
    assert.equal(model.stats().sparsity, 0.5);
  }
  assert.deepEqual(texts[0], texts[1]);
  await using model = await open(path, { ffn: "magnitude", sparsity, promptChunk: 1 });
  await model.logits(ids);
  const { ffn, layers } = model.stats();
  assert.equal(ffn, "magnitude");
  layers.forEach(({ listed }, layer) => {
    const share = 1 - listed / (128 * ids.length);
    assert.ok(Math.abs(share - left_out[layer]) < 0.002, `layer ${layer}: ${share} left out`);
  });
});

/** A tokenizer's text model with another activation. */
async function textModel(activation: string): Promise<string> {
  const path = models.file(`text-${activation}.flash`), config = models.file(`${activation}.json`);
  const relu = new URL("fixtures/llama_rope_llama3/config.json", import.meta.url);
  const json = { ...JSON.parse(readFileSync(relu, "utf8")), hidden_act: activation };
  writeFileSync(config, JSON.stringify(json));
  const source = fileURLToPath(new URL("fixtures/inputs/llama_f16.gguf", import.meta.url));
  await pack({ source, configPath: config, target: path, quant: "f16" });
  return path;
}

const TEXT = "abc bca cab abcabc ab cb a b c bb ca cc aab ".repeat(40);

test("calibrateMagnitudes() finds cuts that leave out what is wanted, and eval says what it costs", async () => {
  const path = await textModel("silu");
  const { sparsities, layers, calibration } = await calibrateMagnitudes({
    path,
    text: TEXT,
    textName: "/far/abc.txt",
    tokensMax: 500,
    memory: "8GiB",
  });
  assert.deepEqual(calibration, { tokens: 500, textName: "abc.txt" });
  assert.deepEqual([sparsities[0], sparsities[98], layers.length], [0.01, 0.99, 2]);
  const cost: number[] = [];
  for (const sparsity of [0.1, 0.7]) {
    const found = await evaluate({ path, text: TEXT, tokensMax: 300, ffn: "magnitude", sparsity });
    assert.equal(found.sparsity, sparsity);
    // The text is that of calibration, and what one layer leaves out changes what the next one sees.
    for (const { activeShare } of found.layers) {
      assert.ok(Math.abs(1 - activeShare - sparsity) < 0.03, `${sparsity}: ${activeShare} active`);
    }
    cost.push(found.dense!.divergenceMean);
    const report = renderEvaluation(found), wanted = `${100 * sparsity}.0 % wanted`;
    assert.match(report, new RegExp(`approximate +\\S+ % of the neurons left out.*${wanted}`));
  }
  assert.ok(0 < cost[0] && cost[0] < cost[1], `KL ${cost}`);
  const prepared = prepare(path, { ffn: "magnitude", sparsity: 0.5 });
  assert.match(
    renderPlan(prepared.plan),
    /magnitude.*\n +approximate: about 50.0 % of the neurons/,
  );
  const inspected = renderInspection(await inspect(path));
  assert.match(inspected, /magnitudes +for sparsities of 1.0 % to 99.0 %, from 500 tokens of abc/);
  await using model = await open(path);
  assert.equal(model.plan.mode, "dense", "an approximation is never the default");
});

test("calibrateMagnitudes() goes on where it was stopped, with equal bytes", async () => {
  const unbroken = await textModel("gelu"), path = models.file("stopped.flash");
  copyFileSync(unbroken, path);
  const options = { text: TEXT.repeat(5), memory: "8GiB" };
  const { calibration } = await calibrateMagnitudes({ path: unbroken, ...options });
  assert.ok(calibration.tokens > 4096, "more than go through a layer at once");
  const abort = new AbortController();
  // When the first of two layers is done, or later.
  const onProgress = ({ done, total }: { done: number; total: number }) => {
    if (done >= total / 2) abort.abort(new Error("enough"));
  };
  const stopped = calibrateMagnitudes({ path, ...options, onProgress, signal: abort.signal });
  await assert.rejects(stopped, /enough/);
  await assert.rejects(
    calibrateMagnitudes({ path, ...options, tokensMax: 900 }),
    /begun otherwise/,
  );
  // From amid a layer, so that groups are others than those that were counted before.
  const folder = new WorkFolder(calibrationFolder(path));
  folder.writeRecord("observed", { layer: 0, chunks: 3 });
  await calibrateMagnitudes({ path, ...options });
  assert.equal(folder.exists, false);
  assert.deepEqual(readFileSync(path), readFileSync(unbroken));
});

test("flashpipe calibrate measures such a file, and refuses what is about predictors", async () => {
  const path = await textModel("gelu_new"), text = models.file("text.txt");
  writeFileSync(text, TEXT);
  const calibrateFile = (...args: string[]) =>
    runScript("src/cli/main.ts", ["calibrate", path, "--text", text, ...args], {
      task: "calibrate",
    });
  const [done, refused] = [await calibrateFile(), await calibrateFile("--bytes-share", "5%")];
  assert.match(done.stdout, /^layer +25 % below +50 % below +75 % below\n +0 +0\.\d+ /);
  assert.equal(refused.exitCode, 2);
  assert.match(refused.stderr, /--bytes-share: hardly any of its neurons is zero/);
});

test("magnitude is refused where it makes no sense", async () => {
  const silu = await flashOf("llama_silu", "f16"), bare = await models.flashOf("mistral_silu");
  const relu = await models.flashOf("llama_relu"), routed = await models.flashOf("mixtral_silu");
  const magnitude = { ffn: "magnitude" } as const;
  const cases: [string, OpenOptions, RegExp][] = [
    [silu, { ...magnitude }, /set a sparsity, such as 50%/],
    [silu, { ...magnitude, sparsity: 0.9 }, /sparsity of 90 %: .* has 30 % to 80 %/],
    [silu, { ...magnitude, sparsity: "29.9%" }, /sparsity of 29.9 %/],
    [silu, { ...magnitude, sparsity: "half" }, /share such as 20% or 0.2: received "half"/],
    [silu, { ffn: "exact", sparsity: 0.5 }, /sparsity in exact: it is of `magnitude` alone/],
    [silu, { sparsity: 0.5 }, /sparsity in dense/],
    [silu, { ...magnitude, sparsity: 0.5, audit: true }, /audit as the FFN is computed as "magn/],
    [silu, { ...magnitude, sparsity: 0.5, recall: 0.9 }, /recall in magnitude/],
    [bare, { ...magnitude, sparsity: 0.5 }, /run `flashpipe calibrate .*mistral_silu.* --text/],
    [relu, { ...magnitude, sparsity: 0.5 }, /relu leaves most at zero, which exact/],
    [routed, { ...magnitude, sparsity: 0.5 }, /the model's router says which experts/],
  ];
  for (const [path, options, message] of cases) {
    await assert.rejects(open(path, options), { name: "RangeError", message });
  }
  const text = "abc";
  await assert.rejects(calibrateMagnitudes({ path: relu, text }), /relu leaves most at zero/);
  await assert.rejects(calibrateMagnitudes({ path: routed, text }), /router says/);
  await assert.rejects(calibrateMagnitudes({ path: silu, text }), /it has no tokenizer/);
  await assert.rejects(calibrate({ path: silu, text }), /silu, which .* calibrateMagnitudes/);
});

test("a header with unsound magnitudes is refused, with the field's name", async () => {
  const path = await flashOf("llama_silu", "f16"), relu = models.file("relu.flash");
  copyFileSync(await models.flashOf("llama_relu"), relu);
  const sound = magnitudesOf(path), { layers, sparsities } = sound;
  const cases: [Partial<Magnitudes>, RegExp][] = [
    [{ layers: layers.slice(1) }, /1 layers, expected 2/],
    [{ sparsities: [0.3, 0.3, 0.8] }, /point 1 does not come after/],
    [{ sparsities: [0.3, 0.8] }, /3 cuts, 2 sparsities/],
    [{ layers: [layers[0], { cuts: [0.1, 0.3, 0.2] }] }, /point 2 does not come after/],
    [{ layers: [layers[0], { cuts: [-1, 0.3, 0.2] }] }, /magnitudes/],
    [{ layers: [layers[0], { cuts: [0.1, NaN, 0.2] }] }, /magnitudes/],
    [{ sparsities: [0, 0.5, 0.8] }, /magnitudes/],
  ];
  for (const [change, message] of cases) {
    assert.throws(() => setMagnitudes(path, { ...sound, ...change }), (error: Error) => {
      assert.equal(error.name, "ModelFileError");
      assert.match(error.message, message);
      return /magnitudes/.test(error.message);
    });
  }
  const more = { ...sound, more: 1 } as Magnitudes;
  assert.throws(() => setMagnitudes(path, more), { name: "ModelFileError", message: /magnitudes/ });
  assert.throws(() => setMagnitudes(relu, sound), /relu leaves most .*\(magnitudes, byte/);
  assert.deepEqual(magnitudesOf(path), { ...sound, sparsities });
});

function magnitudesOf(path: string): Magnitudes {
  using file = FlashFile.open(path);
  return file.header.magnitudes!;
}

test("magnitudeCuts() goes straight from point to point", async () => {
  const path = await flashOf("phi_gelu", "f16"), { cut } = goldens.phi_gelu;
  using file = FlashFile.open(path);
  const { sparsity, cuts } = magnitudeCuts(file.header, "60%", path);
  assert.equal(sparsity, 0.6);
  cuts.forEach((found, layer) => {
    const wanted = 2 / 3 * cut[1].cuts[layer] + 1 / 3 * cut[2].cuts[layer];
    assert.ok(Math.abs(found - wanted) < 1e-6, `${found}, not ${wanted}`);
  });
  const exactly = cut[0].cuts.map(Math.fround);
  assert.deepEqual(magnitudeCuts(file.header, 0.3, path).cuts, exactly);
});

test("a forecast and a trace have the share that is left", async () => {
  const path = await flashOf("llama_silu", "f16"), { input_ids: ids, cut } = goldens.llama_silu;
  const options = { ffn: "magnitude", sparsity: 0.8, ffnCache: "10%" } as const;
  const { header, plan } = prepare(path, options);
  const run = { policy: "frequency", gapBytes: 0, hasEarlyLook: false, position: 8 } as const;
  for (const { listed, misses } of tokenWork(header, { plan, ...run }).layers) {
    assert.ok(Math.abs(listed - 0.2 * 128) < 1e-9, `${listed}`);
    // Slots for a tenth, and neurons that take turns.
    assert.ok(Math.abs(misses / listed - 0.9) < 0.02, `${misses} of ${listed}`);
  }
  const trace = await traceInMemory({
    path,
    text: [ids],
    textName: "golden",
    tokensMax: 24,
    open: options,
  });
  assert.equal(trace.header.mode, "magnitude");
  const left = 1 - trace.count("active") / (2 * 128 * 24);
  const wanted = (cut[2].left_out[0] + cut[2].left_out[1]) / 2;
  assert.ok(Math.abs(left - wanted) < 0.002, `${left}, not ${wanted}`);
});

test("MagnitudeHistogram.quantile() is where a share of the magnitudes lies", () => {
  const values = Float32Array.from({ length: 5000 }, (_, k) => Math.sin(k) ** 3 * (1 + k % 7));
  const parts = [new MagnitudeHistogram(), new MagnitudeHistogram()];
  parts[0].add(values, 0, 1234);
  parts[1].add(values, 1234, 5000);
  parts[0].merge(parts[1].counts);
  const ordered = Float64Array.from(values, Math.abs).sort();
  for (const share of [0.01, 0.1, 0.5, 0.9, 0.99]) {
    const quantile = parts[0].quantile(share);
    const below = ordered.findIndex((value) => value >= quantile) / 5000;
    assert.ok(Math.abs(below - share) < 0.006, `${share}: ${below}`);
  }
  const odd = new MagnitudeHistogram();
  assert.throws(() => odd.quantile(0.5), { name: "RangeError" });
  odd.add(Float32Array.of(0, -0, 1e-30, NaN, -Infinity, 1e30, 3, -3), 0, 8);
  assert.equal(odd.counts.reduce((sum, count) => sum + count), 8);
  assert.ok(odd.quantile(0.3) < 2 ** -24);
  assert.ok(Math.abs(odd.quantile(0.6) / 3 - 1) < 0.02);
  assert.equal(odd.quantile(0.99), 2 ** 16);
});
