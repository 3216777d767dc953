/**
 * Calibration as a whole, on a tiny model of random weights with the embedded model's tokenizer: equal options give equal
 * bytes, however often a run is stopped; a failing disk leaves the file as it was.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { after, before, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { calibrate, calibrationFolder } from "../src/calibrate.ts";
import type { CalibrateOptions } from "../src/calibrate.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { updateFlash } from "../src/format/flash_update.ts";
import { inspect, renderInspection } from "../src/format/inspect.ts";
import { pack } from "../src/format/pack.ts";
import { open } from "../src/open.ts";
import { runScript } from "./script_process.ts";
import { TemporaryFolder, writeTinyModel } from "./tiny_model.ts";

const TALES = fileURLToPath(new URL("../models/tales/", import.meta.url));
const TEXT = readFileSync(`${TALES}calibration.txt`, "utf8").slice(0, 12_000);
const OPTIONS = { text: TEXT, minutes: 0.05, byteShare: 0.9, recall: 0.95 };
const TIMEOUT = { timeout: 120_000 };

const folder = new TemporaryFolder();
const packed = folder.file("packed.flash"), textFile = folder.file("sample.txt");
/** The bytes that a calibration with `OPTIONS` ends with. */
let expected: Uint8Array;

before(async () => {
  const source = folder.file("source");
  writeTinyModel(source, {
    config: { vocab_size: 4096, max_position_embeddings: 64, num_hidden_layers: 3 },
  });
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    copyFileSync(`${TALES}${name}`, `${source}/${name}`);
  }
  await pack({ source, target: packed, quant: "f16", createdAt: "2026-01-01", synthetic: true });
  writeFileSync(textFile, TEXT);
  const path = copyOf("unbroken");
  await calibrate({ path, ...OPTIONS });
  expected = readFileSync(path);
}, TIMEOUT);
after(() => folder[Symbol.dispose]());

function copyOf(name: string): string {
  const path = folder.file(`${name}.flash`);
  copyFileSync(packed, path);
  return path;
}

test("calibrate() writes predictors that open, and leaves no folder", async () => {
  const path = folder.file("unbroken.flash");
  assert.ok(!existsSync(calibrationFolder(path)));
  using file = FlashFile.open(path);
  assert.ok((await file.verify()).ok);
  const { layers, calibration, recallWanted, missCurves } = file.header.predictors!;
  assert.equal(layers.length, 3);
  assert.equal(missCurves.length, 3);
  assert.equal(recallWanted, 0.95);
  assert.ok(calibration.tokens > 1000);
  for (const { recall, recallCurve } of layers) {
    assert.ok(recall >= 0.95, `recall ${recall}`);
    const at = recallCurve!.recalls.indexOf(0.95);
    assert.equal(recallCurve!.shifts[at], 0);
  }
});

for (const [method, bits] of [["sign-sketch", 1], ["low-bit", 4]] as const) {
  test(`calibrate() by ${method} writes bit planes that open, and sets recalls`, async () => {
    const path = copyOf(method);
    await calibrate({ path, ...OPTIONS, method });
    assert.ok(!existsSync(calibrationFolder(path)));
    using file = FlashFile.open(path);
    assert.ok((await file.verify()).ok);
    const { kind, layers, missCurves, createdBy } = file.header.predictors!;
    assert.equal(kind, "bit-planes");
    assert.match(createdBy, method === "low-bit" ? /low-bit copy$/ : /sign sketch$/);
    assert.equal(missCurves.length, 3);
    for (const layer of layers) {
      assert.ok("bits" in layer && layer.bits === bits);
      assert.ok(layer.recall >= 0.95, `recall ${layer.recall}`);
      assert.ok(layer.predictedShare < 1);
    }
    const ids = Array.from({ length: 20 }, (_, k) => 3 + 7 * k);
    const listedAt = async (recall?: number) => {
      await using model = await open(path, { recall, readers: 1, ffnCache: "50%" });
      await model.logits(ids);
      return model.stats().prompt.neuronsPerToken;
    };
    const [few, calibrated, more] = [await listedAt(0.9), await listedAt(), await listedAt(0.99)];
    assert.ok(few < calibrated && calibrated < more, `${few}, ${calibrated}, ${more}`);
    assert.equal(await listedAt(0.95), calibrated);
    const rendered = renderInspection(await inspect(path));
    assert.match(rendered, new RegExp(`bit-planes, for recall 95.0 %[^]*layer 2 +bits ${bits}, `));
  });
}

test("calibrate() by low-bit that was aborted goes on, and ends with equal bytes", async () => {
  const unbroken = copyOf("planes-unbroken"), path = copyOf("planes-aborted");
  const options = { ...OPTIONS, method: "low-bit" as const, bits: 2 };
  await calibrate({ path: unbroken, ...options });
  await interrupted(path, options);
  assert.ok(existsSync(calibrationFolder(path)));
  await assert.rejects(
    calibrate({ path, ...options, bits: 3 }),
    /begun otherwise \(bits 2, now 3\)/,
  );
  await calibrate({ path, ...options });
  assert.deepEqual(readFileSync(path), readFileSync(unbroken));
});

test(
  "calibrate() that is aborted again and again ends with the bytes of an unbroken run",
  TIMEOUT,
  async () => {
    const path = copyOf("aborted");
    let abortCount = 0;
    for (let ms = 1;; ms = ms * 1.6 + 10) {
      try {
        await calibrate({ path, ...OPTIONS, signal: AbortSignal.timeout(Math.round(ms)) });
        break;
      } catch (error) {
        assert.equal((error as Error).name, "TimeoutError");
        abortCount++;
      }
    }
    assert.ok(abortCount >= 3, `${abortCount} aborts`);
    assert.deepEqual(readFileSync(path), expected);
  },
);

test(
  "flashpipe calibrate that is killed goes on where it was, with equal bytes",
  TIMEOUT,
  async () => {
    const path = copyOf("killed");
    const args = ["calibrate", path, "--text", textFile, "--minutes", "0.05"];
    const all = [...args, "--bytes-share", "90%", "--recall", "95%"];
    // Each is killed as soon as it has done something that the one before had not.
    for (const record of ["plan", "observed", "layer-0.trials", "layer-0.fit"]) {
      const killed = await runScript("src/cli/main.ts", all, {
        task: "calibrate",
        onStart: async (child) => {
          while (!existsSync(`${calibrationFolder(path)}/${record}`) && child.exitCode === null) {
            await setTimeout(1);
          }
          child.kill("SIGKILL");
        },
      });
      assert.notEqual(killed.exitCode, 2, killed.stderr);
      if (killed.exitCode === 0) break;
    }
    const { exitCode, stderr } = existsSync(calibrationFolder(path))
      ? await runScript("src/cli/main.ts", all, { task: "calibrate" })
      : { exitCode: 0, stderr: "" };
    assert.equal(exitCode, 0, stderr);
    // The command line names the text by its file.
    const named = copyOf("named");
    await calibrate({ path: named, ...OPTIONS, textName: "sample.txt" });
    assert.deepEqual(readFileSync(path), readFileSync(named));
    assert.ok(!existsSync(calibrationFolder(path)));
  },
);

/** A working folder of an unfinished run. */
async function interrupted(path: string, options: Partial<CalibrateOptions> = {}): Promise<void> {
  const abort = new AbortController();
  const run = calibrate({ path, ...OPTIONS, ...options, signal: abort.signal });
  while (!existsSync(`${calibrationFolder(path)}/observed`)) await setTimeout(1);
  abort.abort();
  await run.catch(() => {});
}

test(
  "calibrate() takes away what a cut-off update left, and applies none twice",
  TIMEOUT,
  async () => {
    const path = copyOf("torn");
    await interrupted(path);
    // Killed while it appended: bytes behind the end that no header names.
    writeFileSync(path, new Uint8Array(5000).fill(7), { flag: "a" });
    await calibrate({ path, ...OPTIONS });
    assert.deepEqual(readFileSync(path), expected);
    // Killed between the update and the folder's removal.
    const late = copyOf("late");
    await interrupted(late);
    copyFileSync(path, late);
    await calibrate({ path: late, ...OPTIONS });
    assert.deepEqual(readFileSync(late), expected);
    assert.ok(!existsSync(calibrationFolder(late)));
  },
);

test(
  "calibrate() refuses a folder that was begun otherwise, unless told to begin anew",
  TIMEOUT,
  async () => {
    const path = copyOf("other");
    await interrupted(path);
    await assert.rejects(
      calibrate({ path, ...OPTIONS, recall: 0.9 }),
      /Cannot go on in .*\.flash\.calibration as it was begun otherwise \(recallWanted 0\.95, now 0\.9\).*--fresh/,
    );
    await assert.rejects(
      calibrate({ path, ...OPTIONS, text: `${TEXT} ` }),
      /begun otherwise \(text/,
    );
    await calibrate({ path, ...OPTIONS, fresh: true });
    assert.deepEqual(readFileSync(path), expected);
    // A plan that is not whole is no plan.
    const torn = copyOf("torn-plan");
    await interrupted(torn);
    writeFileSync(`${calibrationFolder(torn)}/plan`, "half of a pl");
    await calibrate({ path: torn, ...OPTIONS });
    assert.deepEqual(readFileSync(torn), expected);
  },
);

test("calibrate() refuses options that make no sense, before it begins", async () => {
  const path = copyOf("refused");
  const rows: [Partial<CalibrateOptions>, RegExp][] = [
    [{ recall: 1 }, /recall of 1/],
    [{ minutes: 0 }, /0 minutes/],
    [
      { method: "magic" as "trained" },
      /"magic": one of trained, closed-form, sign-sketch, low-bit/,
    ],
    [{ method: "low-bit", bits: 5 }, /Cannot keep 5 bits: 2 to 4/],
    [{ method: "low-bit", bits: 2.5 }, /Cannot keep 2.5 bits/],
    [{ method: "sign-sketch", bits: 2 }, /Cannot keep 2 bits by sign-sketch/],
    [{ text: "short" }, /Cannot calibrate with \d+ tokens of text: at least 64/],
    [{ byteShare: 0.01 }, /rank 32 into \d+ bytes: \d+ more are needed/],
    [{ memory: "20MiB", fresh: true }, /the smallest memory that works is \d+MiB/],
  ];
  for (const [options, message] of rows) {
    await assert.rejects(calibrate({ path, ...OPTIONS, ...options }), message);
  }
  assert.deepEqual(readFileSync(path), readFileSync(packed));
});

test(
  "flashpipe calibrate: exit code 2 for the caller's mistakes, 1 for the world's",
  TIMEOUT,
  async () => {
    const path = copyOf("codes");
    const run = (...args: string[]) =>
      runScript("src/cli/main.ts", ["calibrate", path, "--text", textFile, ...args], {
        task: "calibrate",
      });
    for (
      const args of [["--minutes", "soon"], ["--memory", "lots"], ["--method", "magic"], [
        "--bits",
        "5",
      ]]
    ) {
      assert.equal((await run(...args)).exitCode, 2);
    }
    writeFileSync(calibrationFolder(path), "a file where the folder would be");
    const { exitCode, stderr } = await run("--bytes-share", "90%");
    assert.equal(exitCode, 1, stderr);
    assert.match(stderr, /codes\.flash\.calibration/);
    assert.deepEqual(readFileSync(path), readFileSync(packed));
  },
);

/** Runs the command with files bounded to so many KiB, as on a disk that is full. */
function runBounded(kibibytes: number, args: string[]): Promise<{ code: number; stderr: string }> {
  const main = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
  const isDeno = "deno" in process.versions;
  const command = [process.execPath, ...(isDeno ? ["run", "--allow-all"] : []), main, ...args];
  const script = `trap '' XFSZ; ulimit -f ${2 * kibibytes}; exec "$@"`;
  const child = spawn("sh", ["-c", script, "sh", ...command]);
  const { promise, resolve, reject } = Promise.withResolvers<{ code: number; stderr: string }>();
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text);
  child.on("error", reject);
  child.on("close", (code) => resolve({ code: code ?? -1, stderr }));
  return promise;
}

test("flashpipe calibrate on a disk that is full leaves the file as it was", {
  ...TIMEOUT,
  skip: process.platform === "win32" && "ulimit is a shell's",
}, async () => {
  for (const [name, kibibytes] of [["full-early", 4], ["full-late", 300]] as const) {
    const path = copyOf(name);
    const args = ["calibrate", path, "--text", textFile, "--minutes", "0.05"];
    const all = [...args, "--bytes-share", "90%", "--recall", "95%"];
    const { code, stderr } = await runBounded(kibibytes, all);
    assert.equal(code, 1, stderr);
    assert.match(stderr, /error: .*(too large|EFBIG)/i);
    assert.deepEqual(readFileSync(path), readFileSync(packed));
    // With room again it goes on.
    await calibrate({ path, ...OPTIONS, textName: "sample.txt" });
    using file = FlashFile.open(path);
    assert.equal(file.header.predictors?.layers.length, 3);
  }
});

test("open() sets the recall by the curve, and refuses what it does not cover", async () => {
  const path = folder.file("unbroken.flash");
  const ids = Array.from({ length: 20 }, (_, k) => 3 + 7 * k);
  const logitsAt = async (recall?: number | string) => {
    await using model = await open(path, { recall, readers: 1, ffnCache: "50%" });
    return await model.logits(ids);
  };
  const calibrated = await logitsAt();
  assert.deepEqual(await logitsAt(0.95), calibrated);
  assert.notDeepEqual(await logitsAt("99.9%"), calibrated);
  await assert.rejects(logitsAt(0.5), /Cannot set a recall of 50 %: .* has 90 % to 99.9 %/);
  await assert.rejects(logitsAt(0.9999), RangeError);
  await assert.rejects(open(path, { recall: 0.95, ffn: "exact" }), /Cannot set a recall in exact/);
  const old = folder.file("old.flash");
  copyFileSync(path, old);
  updateFlash(old, ({ header }) => {
    const predictors = structuredClone(header.predictors!);
    for (const layer of predictors.layers) delete layer.recallCurve;
    return { ...header, predictors };
  });
  await using _model = await open(old, { readers: 1 });
  await assert.rejects(open(old, { recall: 0.95 }), /run `flashpipe calibrate` again/);
});
