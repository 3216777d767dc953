/** versus, generate and speculation with small values: nothing is measured here. */
import assert from "node:assert/strict";
import process from "node:process";
import { after, test } from "node:test";
import { benchGenerate, promptOf } from "../bench/generate.ts";
import { benchSpeculation } from "../bench/speculation.ts";
import { benchVersus, missingValues } from "../bench/versus.ts";
import type { Side } from "../bench/versus.ts";
import { synthesize } from "../src/synth/synthesize.ts";
import { PackedModels } from "./packed_models.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const folder = new TemporaryFolder(), models = new PackedModels();
after(() => {
  folder[Symbol.dispose]();
  models[Symbol.dispose]();
});

const modelPath = folder.file("tiny.flash");
const made = synthesize({ shape: "tiny", quant: "q8", target: modelPath });
const OPTIONS = { ffnCache: "30%", lanes: 1, context: 128 };

test("benchVersus() runs ours and a command in turn, and none again that failed", async () => {
  await made;
  const ours = { prompt: 8, tokens: 5, text: "chain", start: 0 } as const;
  const { checksum } = await benchGenerate({ ...ours, modelPath, options: OPTIONS });
  const shell = (script: string) => ["sh", "-c", script, "sh"];
  const sides: Side[] = [
    {
      name: "ours",
      generate: ["{file}", "--options", "{options}"],
      within: shell('"$@"; echo "capped: peak 7 MiB of 9M" >&2'),
    },
    {
      name: "theirs",
      before: shell("exit 0"),
      command: [...shell('echo "$@"'), "loaded", '\n{"ms": {few}, "load": 1.5}'],
      fields: { msPerToken: "ms", openSeconds: "load" },
      folder: "{folder}",
    },
    { name: "broken", command: shell("echo no memory >&2; exit 3") },
  ];
  const heard: string[] = [];
  const results = await benchVersus({
    sides,
    values: {
      file: modelPath,
      folder: folder.path,
      options: JSON.stringify(OPTIONS),
      prompt: "8",
      tokens: "5",
      few: "2",
    },
    rounds: 2,
    minutesMax: 1,
    onRun: (name, round) => heard.push(`${name} ${round}`),
  });
  assert.deepEqual(heard, ["ours 0", "theirs 0", "broken 0", "theirs 1", "ours 1"]);
  const [one, other, broken] = results;
  assert.deepEqual(one.failures, []);
  for (const { printed, peakBytes, msPerToken } of one.runs) {
    assert.equal(printed.checksum, checksum);
    assert.equal(peakBytes, 7 * 2 ** 20);
    assert.ok(msPerToken > 0);
  }
  assert.deepEqual(
    other.runs.map(({ msPerToken, openSeconds, peakBytes }) => {
      return { msPerToken, openSeconds, peakBytes };
    }),
    new Array(2).fill({ msPerToken: 2, openSeconds: 1.5, peakBytes: null }),
  );
  assert.equal(broken.runs.length, 0);
  assert.match(broken.failures[0], /sh ended with 3: no memory/);
});

test("benchVersus() says what a command printed that printed no ms/token", async () => {
  const sides = [{ name: "talker", command: ["echo", "{}"] }];
  const [{ failures }] = await benchVersus({ sides, values: {}, rounds: 1, minutesMax: 1 });
  assert.match(failures[0], /no ms\/token: \{\}/);
});

test("missingValues() names what a side's arguments stand for and nobody set", () => {
  const side = { name: "x", generate: ["{file}"], within: ["{capped}", "{tokens}M"] };
  assert.deepEqual(missingValues(side, { tokens: "9" }), ["file", "capped"]);
});

test("benchGenerate() counts the threads' work, in models without a chain too", async () => {
  const path = await models.flashOf("tales", "q8");
  const result = await benchGenerate({
    modelPath: path,
    prompt: 6,
    tokens: 6,
    text: "chain",
    start: 0,
    options: { ffn: "exact", ffnCache: "20%", lanes: 2 },
  });
  const { decode } = result, { lanes, management, submit } = decode.workMsPerToken;
  assert.equal(decode.tokens, 5);
  assert.ok(lanes > 0 && management > 0 && submit > 0);
  // Both lanes compute; lane 0 alone no more than both.
  assert.ok(lanes >= decode.msPerToken.compute);
  const worked = decode.predictorMsPerToken.early + decode.predictorMsPerToken.late;
  assert.ok(management <= worked + decode.msPerToken.total);
  assert.ok(result.peakBytes > 0 && result.plannedBytes > 0 && result.firstTokenSeconds > 0);
  const hasThreadCpu = typeof process.threadCpuUsage === "function";
  assert.ok(hasThreadCpu || decode.cpuMsPerToken.lanes === 0);
});

test("promptOf() follows a chain, or repeats what it had", async () => {
  await made;
  const chain = promptOf(modelPath, { prompt: 20, text: "chain", start: 3 });
  const repetitive = promptOf(modelPath, { prompt: 20, text: "repetitive", start: 3 });
  assert.deepEqual(repetitive.slice(0, 16), chain.slice(0, 16));
  assert.deepEqual(repetitive.slice(18), chain.slice(0, 2));
  assert.equal(promptOf(modelPath, { prompt: 20, text: "jumping", start: 3 }).length, 20);
});

test("benchSpeculation() has right drafts in repetitive text, and the same ids without", async () => {
  await made;
  const results = await benchSpeculation({
    modelPath,
    options: OPTIONS,
    prompt: 24,
    tokens: 16,
    rounds: 2,
  });
  assert.deepEqual(results.map(({ text }) => text), ["repetitive", "jumping"]);
  const [{ drafted, accepted, ratio }] = results;
  assert.ok(accepted > 0 && accepted <= drafted && ratio > 0);
});
