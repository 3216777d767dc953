import assert from "node:assert/strict";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { fitContext } from "../src/cli/conversation.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { pack } from "../src/format/pack.ts";
import { runScript } from "./script_process.ts";
import type { Finished, ScriptOptions } from "./script_process.ts";
import { TemporaryFolder, writeTinyModel } from "./tiny_model.ts";

const TALES = fileURLToPath(new URL("../models/tales", import.meta.url));
const folder = new TemporaryFolder();
const tales = folder.file("tales.flash");

before(() => pack({ source: TALES, target: tales, quant: "f16" }));
after(() => folder[Symbol.dispose]());

/** Runs `flashpipe COMMAND ...` with the permissions of its task. */
function flashpipe(
  [command, ...args]: string[],
  options: Omit<ScriptOptions, "task"> = {},
): Promise<Finished> {
  const task = command.startsWith("-") ? "inspect" : command;
  return runScript("src/cli/main.ts", [command, ...args], { task, ...options });
}

/** A copy of the packed model with some bytes changed. */
function damaged(name: string, change: (bytes: Uint8Array) => Uint8Array | void): string {
  const bytes = new Uint8Array(readFileSync(tales));
  const path = folder.file(name);
  writeFileSync(path, change(bytes) ?? bytes);
  return path;
}

/** Each row is a process; two at a time. */
async function expectFailures(rows: [args: string[], exitCode: number, message: RegExp][]) {
  const queue = [...rows];
  const work = async () => {
    for (let row = queue.shift(); row; row = queue.shift()) {
      const [args, exitCode, message] = row;
      const finished = await flashpipe(args);
      assert.match(finished.stderr, message);
      assert.equal(finished.exitCode, exitCode, `${args.join(" ")}: ${finished.stderr}`);
      assert.equal(finished.stdout, "");
      assert.doesNotMatch(finished.stderr, /^\s+at /m, "a stack trace without --debug");
    }
  };
  await Promise.all([work(), work()]);
}

const TIMEOUT = { timeout: 120_000 };

test("flashpipe helps", TIMEOUT, async () => {
  const main = await flashpipe(["--help"]);
  assert.equal(main.exitCode, 0);
  for (
    const name of [
      "run",
      "pack",
      "calibrate",
      "eval",
      "reorder",
      "inspect",
      "trace",
      "simulate",
      "synth",
      "probe",
      "plan",
      "bench",
    ]
  ) {
    assert.match(main.stdout, new RegExp(`^  ${name} `, "m"));
  }
  const [run, pack] = await Promise.all([flashpipe(["run", "--help"]), flashpipe(["pack", "-h"])]);
  for (const { stdout, exitCode } of [run, pack]) {
    assert.equal(exitCode, 0);
    assert.match(stdout, /Examples?:\n {2}flashpipe /);
  }
  for (
    const option of ["memory", "ffn-cache", "policy", "window", "readers", "lanes", "seed", "json"]
  ) {
    assert.match(run.stdout, new RegExp(`--${option}`));
  }
});

test("flashpipe run tells the caller's mistakes, with exit code 2", TIMEOUT, async () => {
  const run = (...args: string[]) => ["run", "--model", tales, "--ffn", "exact", ...args];
  await expectFailures([
    [["run", "--modle", tales, "x"], 2, /unknown option '--modle'/],
    [["run", "--model", folder.file("none"), "x"], 2, /Cannot open .*none: there is no such file/],
    [run("--seed", "abc", "x"), 2, /--seed <number>.*'abc'.*whole number from 0 to/],
    [run("--memory", "20MiB", "x"), 2, /the smallest memory that works is \d+ ?MiB/],
    [run("word ".repeat(600)), 2, /prompt of \d+ tokens: the context has 512/],
    [run("--ffn", "predicted", "x"), 2, /no predictors: run `flashpipe calibrate`/],
    [run(), 2, /standard input is empty/],
    [run("--logit-bias", "7", "x"), 2, /--logit-bias.*ID:NUMBER, such as 50256:-100/],
    [run("--repetition-penalty", "0", "x"), 2, /a number from 0.01 to 100/],
    [run("--json-schema", "nowhere.json", "x"), 2, /there is no such file/],
    [run("--system", "Be brief", "x"), 2, /that is of chats \(--chat\)/],
    [run("--chat", "x"), 2, /has no chat template/],
    [["pack", "hf:nobody", folder.file("x.flash"), "--quant", "q8"], 2, /hf:OWNER\/NAME/],
    [["pack", "none.gguf", folder.file("x.flash"), "--quant", "q8"], 2, /there is no such file/],
  ]);
});

test(
  "flashpipe run --json-schema writes JSON, and packs a GGUF file before that",
  TIMEOUT,
  async () => {
    const gguf = fileURLToPath(new URL("fixtures/inputs/mistral_f16.gguf", import.meta.url));
    const target = folder.file("mistral.flash"), schema = folder.file("schema.json");
    const packed = await flashpipe(["pack", gguf, target, "--quant", "q8"]);
    assert.equal(packed.exitCode, 0, packed.stderr);
    writeFileSync(schema, '{"enum":["yes","no"]}');
    const options = ["--model", target, "--json-schema", schema, "--stop", "never", "--top-k", "9"];
    const { stdout, stderr, exitCode } = await flashpipe(["run", ...options, "abc"]);
    assert.equal(exitCode, 0, stderr);
    assert.match(stdout, /^"(yes|no)"\n$/);
  },
);

test("flashpipe families lists what can be packed, and its proofs", TIMEOUT, async () => {
  const { stdout, exitCode, stderr } = await flashpipe(["families"]);
  assert.equal(exitCode, 0, stderr);
  assert.match(stdout, /^opt .* opt, opt_post_norm$/m);
  assert.match(stdout, /^mixtral .* mixtral_silu, mixtral_relu$/m);
});

test(
  "flashpipe inspect and run tell where a file is damaged, with exit code 1",
  TIMEOUT,
  async () => {
    using file = FlashFile.open(tales);
    const header = file.slot.byteOffset;
    const { byteOffset } = file.tensor("layers.2.attention.key.weight");
    const flip = (at: number) => (bytes: Uint8Array) => void (bytes[at] ^= 1);
    const section = damaged("section.flash", flip(byteOffset + 100));
    const truncated = damaged("truncated.flash", (bytes) => bytes.subarray(0, 100_000));
    await expectFailures([
      [["inspect", truncated], 1, /truncated\.flash: .*byte \d+/],
      [["inspect", damaged("header.flash", flip(header + 20))], 1, /header\.flash: .*byte \d+/],
      [["inspect", damaged("version.flash", flip(8))], 1, /version\.flash: .*version/],
      [["run", "--model", section, "x"], 1, /layers\.2\.attention\.key\.weight.*byte \d+/],
    ]);
    const verified = await flashpipe(["inspect", section, "--verify"]);
    assert.equal(verified.exitCode, 1);
    assert.match(verified.stdout, /WRONG\n +layers\.2\.attention\.key\.weight: bytes \d+/);
  },
);

test("flashpipe pack writes a whole file or none", TIMEOUT, async () => {
  const other = folder.file("other");
  writeTinyModel(other, { config: { model_type: "mamba" } });
  const tiny = folder.file("tiny");
  writeTinyModel(tiny);
  const out = folder.file("tiny.flash");
  await expectFailures([
    [["pack", other, out, "--quant", "q8"], 2, /mamba.*opt/s],
    [["pack", tiny, out], 2, /--quant/],
    [["pack", tiny, tales, "--quant", "q8"], 2, /exists already \(--force/],
  ]);
  assert.deepEqual(readdirSync(folder.path).filter((name) => name.startsWith("tiny.flash")), []);
  const packed = await flashpipe(["pack", tiny, out, "--quant", "q8", "--ffn-quant", "q4"]);
  assert.equal(packed.exitCode, 0, packed.stderr);
  const inspected = await flashpipe(["inspect", out, "--json"]);
  const { quantization, ffnQuantization, smallestMemoryBytes } = JSON.parse(inspected.stdout);
  assert.deepEqual([quantization, ffnQuantization], ["q8", "q4"]);
  assert.equal(smallestMemoryBytes.predicted, null);
  assert.ok(smallestMemoryBytes.exact > 1e6);
});

test("flashpipe trace records what flashpipe simulate replays", { timeout: 120_000 }, async () => {
  const text = folder.file("trace.txt");
  writeFileSync(text, "Once there was a miller.<|endoftext|>The old king went into the wood.");
  const trace = folder.file("tales.trace"), svg = folder.file("tales.svg");
  const recorded = await flashpipe(["trace", tales, trace, "--text", text]);
  assert.equal(recorded.exitCode, 0, recorded.stderr);
  assert.match(recorded.stdout, /tales\.trace: \d+ tokens, /);
  const [table, curve, json] = await Promise.all([
    flashpipe(["simulate", trace, "--cache", "30%", "--plot", svg]),
    flashpipe(["simulate", trace, "--window", "1..3"]),
    flashpipe([
      "simulate",
      trace,
      "--cache",
      "30%",
      "--policy",
      "lru",
      "--gap",
      "0,8KiB",
      "--json",
    ]),
  ]);
  assert.match(table.stdout, /30\.0 % {2}frequency /, table.stderr);
  assert.match(table.stdout, /30\.0 % {2}belady .* 1\.00x\n/);
  assert.match(readFileSync(svg, "utf8"), /^<svg /);
  assert.equal(curve.stdout.split("\n").length, 5, curve.stderr);
  const { rows, listed } = JSON.parse(json.stdout);
  assert.equal(listed, "active");
  assert.equal(rows.length, 2);
  assert.ok(rows[0].readsPerToken >= rows[1].readsPerToken);
  const cut = folder.file("cut.trace");
  writeFileSync(cut, readFileSync(trace).subarray(0, -5));
  await expectFailures([
    [["simulate", cut], 1, /cut\.trace: its end is missing/],
    [["simulate", tales], 1, /not a neuron trace/],
    [["simulate", folder.file("none.trace")], 2, /there is no such file/],
    [["simulate", trace, "--policy", "luck"], 2, /"luck" is none of frequency, /],
    [["simulate", trace, "--policy", "window"], 2, /give --window too/],
    [["simulate", trace, "--window", "0"], 2, /windows such as 1\.\.16/],
    [["simulate", trace, "--cache", "200%"], 2, /a share such as/],
    [["simulate", trace, "--cache", "20%", "--early"], 2, /recorded without predictors/],
    [["trace", tales, trace], 2, /--text/],
    [["trace", tales, `${folder.path}/none/x`, "--text", text], 2, /there is no folder/],
  ]);
  assert.deepEqual(readdirSync(folder.path).filter((name) => name.includes(".tmp-")), []);
});

test("flashpipe run reads a prompt from a pipe and writes JSON", TIMEOUT, async () => {
  const golden = JSON.parse(readFileSync(`${TALES}/golden.json`, "utf8")).prompts[0];
  const options = ["--ffn", "exact", "--temperature", "0", "-n", "24", "--ffn-cache", "20%"];
  const args = ["run", "--model", tales, "--json", "-q", ...options];
  const { stdout, stderr, exitCode } = await flashpipe(args, { input: `${golden.text}\n` });
  assert.equal(exitCode, 0, stderr);
  assert.equal(stderr, "");
  const result = JSON.parse(stdout);
  assert.equal(result.tokenCount, 24);
  assert.ok(golden.greedy_text.startsWith(result.text), result.text);
  assert.equal(result.endReason, "max-tokens");
  assert.equal(result.statistics.ffn, "exact");
  assert.equal(result.statistics.decode.tokens, 23);
  assert.ok(result.statistics.decode.bytesPerToken > 0);
});

/** Enough tokens, slowly enough, that what happens at the first one happens in the middle. */
const LONG = ["--ffn", "exact", "--ffn-cache", "1%", "-n", "500", "The old king"];

test("flashpipe run ends cleanly at Ctrl-C, with its statistics", TIMEOUT, async () => {
  const { stderr, exitCode } = await flashpipe(["run", "--model", tales, ...LONG], {
    onOutput: (child) => {
      child.kill("SIGINT"); // Twice, as `deno task` does.
      setTimeout(() => child.kill("SIGINT"), 30);
    },
  });
  assert.match(stderr, /speed .* tokens\/s; \d+ tokens after a prompt of \d+ .*; interrupted/);
  assert.match(stderr, /compute .* waiting for flash .* waiting for the predictor .* other/);
  assert.match(stderr, /reads per token; (OS cache|whether)/);
  assert.match(stderr, /hit rate .* early rate .* hidden/);
  assert.match(stderr, /peak \d/);
  assert.match(stderr, /--seed \d+ repeats it/);
  assert.equal(exitCode, 130);
});

test("flashpipe run ends quietly when nobody reads on", TIMEOUT, async () => {
  const { stderr, exitCode } = await flashpipe(["run", "--model", tales, "-q", ...LONG], {
    onOutput: (child) => child.stdout.destroy(),
  });
  assert.equal(stderr, "");
  assert.equal(exitCode, 0);
});

const TEXT = folder.file("text.txt");

test("flashpipe eval writes JSON and a plot", TIMEOUT, async () => {
  writeFileSync(TEXT, "Once upon a time there was a king<|endoftext|>The sea is wide and deep");
  // Where the task's permissions let it write: in the folder that it runs in.
  const plot = `eval-${process.pid}_tmp.svg`;
  try {
    const args = ["--text", TEXT, "--tokens", "12", "--ffn-cache", "20%", "--plot", plot, "--json"];
    const { stdout, stderr, exitCode } = await flashpipe(["eval", tales, ...args]);
    assert.equal(exitCode, 0, stderr);
    const { ffn, isComplete, tokens, dense, layers, all } = JSON.parse(stdout);
    assert.deepEqual({ ffn, isComplete, tokens }, { ffn: "exact", isComplete: true, tokens: 12 });
    assert.equal(dense.divergenceMean, 0);
    assert.equal(layers.length, 6);
    assert.ok(all.activeShare > 0 && all.activeShare < 0.5);
    const svg = readFileSync(plot, "utf8");
    assert.match(svg, /^<svg [^>]*xmlns="http:\/\/www.w3.org\/2000\/svg"/);
    assert.match(svg, /<\/svg>\s*$/);
    for (const word of ["tales.flash, exact, 12 tokens", "active", "hit rate", "layer"]) {
      assert.ok(svg.includes(`>${word}<`), word);
    }
  } finally {
    rmSync(plot, { force: true });
  }
});

test("flashpipe eval leaves the reference out, and tells people", TIMEOUT, async () => {
  writeFileSync(TEXT, "Once upon a time there was a king");
  const args = ["--text", TEXT, "--ffn-cache", "20%", "--no-reference"];
  const { stdout, stderr, exitCode } = await flashpipe(["eval", tales, ...args]);
  assert.equal(exitCode, 0, stderr);
  assert.match(stdout, /^perplexity +[\d.]+ over 8 scored of 9 tokens\nflash .* reads per token/);
  assert.match(stdout, /\nlayer +active +hit rate\n +0 +[\d.]+ % +[\d.]+ %\n/);
});

test("flashpipe eval tells the caller's mistakes, with exit code 2", TIMEOUT, async () => {
  const empty = folder.file("empty.txt");
  writeFileSync(empty, " <|endoftext|>\n");
  writeFileSync(TEXT, "Once upon a time");
  const evaluate = (...args: string[]) => ["eval", tales, "--text", TEXT, ...args];
  await expectFailures([
    [["eval", tales], 2, /required option '--text <file>'/],
    [
      ["eval", tales, "--text", folder.file("none")],
      2,
      /Cannot open .*none: there is no such file/,
    ],
    [["eval", tales, "--text", empty], 2, /Cannot evaluate an empty text/],
    [evaluate("--tokens", "1"), 2, /--tokens <count>.*'1'.*whole number from 2 to/],
    [evaluate("--ffn", "predicted"), 2, /no predictors: run `flashpipe calibrate`/],
    [evaluate("--ffn", "dense", "--plot", "x_tmp.svg"), 2, /Cannot plot the layers of dense/],
    [
      evaluate("--plot", folder.file("no/x.svg")),
      2,
      /Cannot write .*no.x\.svg: there is no folder/,
    ],
    [["eval", TEXT, "--text", TEXT], 1, /text\.txt: 16 bytes are too few for a \.flash file/],
  ]);
});

test("flashpipe eval ends cleanly at Ctrl-C, with what was measured", TIMEOUT, async () => {
  writeFileSync(TEXT, "word ".repeat(40_000));
  const args = ["eval", tales, "--text", TEXT, "--ffn-cache", "1%", "--no-reference"];
  const { stdout, exitCode } = await flashpipe(args, {
    onError: (child) => child.kill("SIGINT"), // The first line of its progress.
  });
  assert.match(stdout, /^perplexity .* tokens; interrupted\n/);
  assert.match(stdout, /\n {2}all/);
  assert.equal(exitCode, 130);
});

test("fitContext() forgets the oldest text", () => {
  // A token a character, and one in front.
  const model = {
    contextLength: 20,
    encode: (text: string) => [2, ...Array.from(text, (character) => character.charCodeAt(0))],
    decode: (ids: number[]) => String.fromCharCode(...ids.filter((id) => id !== 2)),
  };
  assert.deepEqual(fitContext("abcdefghi", model, 200), { prompt: "abcdefghi", forgottenCount: 0 });
  assert.deepEqual(fitContext("abcdefghijkl", model, 200), {
    prompt: "defghijkl",
    forgottenCount: 3,
  });
  assert.deepEqual(fitContext("abcdefghijkl", model, 5), {
    prompt: "abcdefghijkl",
    forgottenCount: 0,
  });
  const tiny = { ...model, contextLength: 1 };
  assert.deepEqual(fitContext("abc", tiny, 5), { prompt: "", forgottenCount: 3 });
});
