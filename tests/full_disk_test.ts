/** What is left of a file whose writing did not come to its end: nothing, under the name that it was to have. */
import assert from "node:assert/strict";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
} from "node:fs";
import { writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { calibrationFolder } from "../src/calibrate.ts";
import { inspect } from "../src/format/inspect.ts";
import { PackedModels } from "./packed_models.ts";
import { runScript } from "./script_process.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

const TIMEOUT = { timeout: 120_000 };
const TALES = fileURLToPath(new URL("../models/tales", import.meta.url));
/** A device that has room for nothing. */
const FULL = "/dev/full";
const skip = whyNoFull();

function whyNoFull(): string | false {
  try {
    return !existsSync(FULL) && `there is no ${FULL}`;
  } catch (error) {
    // Deno opens devices with all permissions only; Bun and Node run this.
    return `${FULL} cannot be used: ${(error as Error).message}`;
  }
}

const WRITERS: Record<string, (target: string) => string[]> = {
  synth: (target) => ["synth", target, "--shape", "opt-125m", "--quant", "q8"],
  pack: (target) => ["pack", TALES, target, "--quant", "f32"],
};

for (const [name, argsFor] of Object.entries(WRITERS)) {
  test(
    `flashpipe ${name} says that the disk is full, and leaves nothing`,
    { ...TIMEOUT, skip },
    async () => {
      const place = models.file(`full-${name}`), target = `${place}/out.flash`;
      mkdirSync(place);
      const { exitCode, stderr } = await runScript("src/cli/main.ts", argsFor(target), {
        // What it writes aside goes to the device: it cannot know that yet.
        onStart: (child) => symlinkSync(FULL, `${target}.tmp-${child.pid}`),
      });
      assert.equal(exitCode, 1, stderr);
      assert.match(stderr, /^error: Cannot write .*out\.flash: the disk is full after 0 bytes$/m);
      assert.doesNotMatch(stderr, /^\s+at /m);
      assert.deepEqual(readdirSync(place), []);
    },
  );

  test(
    `flashpipe ${name} that is killed leaves no half file under the final name`,
    TIMEOUT,
    async () => {
      const place = models.file(`killed-${name}`), target = `${place}/out.flash`;
      mkdirSync(place);
      await runScript("src/cli/main.ts", argsFor(target), {
        onStart: async (child) => {
          while (readdirSync(place).length === 0 && child.exitCode === null) await setTimeout(1);
          child.kill("SIGKILL");
        },
      });
      // Whoever was faster: nothing, or all of it.
      if (!existsSync(target)) return;
      assert.deepEqual((await inspect(target, { verify: true })).checksums?.failures, []);
    },
  );
}

test("flashpipe calibrate says that the disk is full, and leaves the file as it was", {
  ...TIMEOUT,
  skip,
}, async () => {
  const path = models.file("calibrated.flash"), text = models.file("text.txt");
  copyFileSync(await models.flashOf("tales", "q8"), path);
  writeFileSync(text, "Once upon a time there was a fox. ".repeat(400));
  mkdirSync(calibrationFolder(path));
  symlinkSync(FULL, `${calibrationFolder(path)}/plan.part`);
  const args = ["calibrate", path, "--text", text, "--minutes", "0.05"];
  const { exitCode, stderr } = await runScript("src/cli/main.ts", args);
  assert.equal(exitCode, 1, stderr);
  assert.match(stderr, /^error: Cannot write .*plan: the disk is full after 0 bytes$/m);
  assert.ok(readFileSync(path).equals(readFileSync(await models.flashOf("tales", "q8"))));
});
