/** `flashpipe plan` and `flashpipe probe`, each in a process with the permissions of its task. */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Forecast } from "../src/forecast/forecast.ts";
import { keepProbe } from "../src/probe/kept_probe.ts";
import { runScript } from "./script_process.ts";
import type { ScriptOptions } from "./script_process.ts";
import { handMadeProbe } from "./hand_made_probe.ts";
import { PackedModels } from "./packed_models.ts";

const models = new PackedModels();
let tales: string;
before(async () => {
  tales = await models.flashOf("tales", "f16");
  keepProbe(handMadeProbe(tales), tales);
});
after(() => models[Symbol.dispose]());

const TIMEOUT = { timeout: 120_000 };

function flashpipe([command, ...args]: string[], options: Omit<ScriptOptions, "task"> = {}) {
  return runScript("src/cli/main.ts", [command, ...args], { task: command, ...options });
}

interface Printed {
  smallestMemoryBytes: number;
  probe: { kept: string; isNew: boolean };
  budgets: { now: Forecast; next: Forecast | null }[];
}

test("flashpipe plan foresees budgets from the smallest to all of the model", TIMEOUT, async () => {
  const { stdout, stderr, exitCode } = await flashpipe(["plan", tales, "--json"]);
  assert.equal(exitCode, 0, stderr);
  const { smallestMemoryBytes, budgets, probe } = JSON.parse(stdout) as Printed;
  assert.equal(probe.isNew, false);
  assert.equal(budgets.length, 5);
  assert.equal(budgets[0].now.memoryBytes, smallestMemoryBytes);
  for (const { now: { bytes, memoryBytes, slotCounts, readsPerToken, msPerToken } } of budgets) {
    assert.ok(bytes.total <= memoryBytes!);
    assert.ok(slotCounts.length === 6 && readsPerToken >= 0 && msPerToken.total > 0);
  }
  const reads = budgets.map(({ now }) => now.readsPerToken);
  assert.deepEqual(reads, [...reads].sort((a, b) => b - a));
  const { now, next } = budgets[4];
  assert.ok(now.isResident && next!.isResident && now.readsPerToken === 0);
});

test(
  "flashpipe plan prints a table, and refuses what cannot be with the smallest that can",
  TIMEOUT,
  async () => {
    const { stdout, exitCode, stderr } = await flashpipe([
      "plan",
      tales,
      "--ffn-cache",
      "5%,20%",
      "--context",
      "64",
      "--plot",
      models.file("plan.svg"),
    ]);
    assert.equal(exitCode, 0, stderr);
    assert.match(stdout, /^opt, 6 layers of 256, f16; ffn exact, context 64, policy frequency/);
    for (
      const line of [
        /of the FFN +5\.0 % +20\.0 %/,
        /attention +\d/,
        /waiting: flash +\d/,
        /tokens\/s +\d/,
      ]
    ) {
      assert.match(stdout, line);
    }
    assert.ok(readdirSync(models.path).includes("plan.svg"));
    const least = Number(/Smallest memory that works: (\d+)MiB/.exec(stdout)![1]);
    assert.ok(least > 0);

    const refused = await flashpipe(["plan", tales, "--memory", "1GiB,2MiB"]);
    assert.equal(refused.exitCode, 2);
    assert.match(
      refused.stderr,
      /Cannot run within 2\.00 MiB: the smallest memory that works is \d+MiB/,
    );
    assert.equal(refused.stdout, "");
    const rows: [string[], RegExp][] = [
      [["plan", "no.flash"], /there is no such file/],
      [["plan", tales, "--memory", "much"], /size such as 512MiB/],
      [["plan", tales, "--memory", "1GiB", "--ffn-cache", "5%"], /at once/],
      [["plan", tales, "--ffn", "predicted"], /has no predictors/],
      [["probe", join(models.path, "no")], /there is no such path/],
    ];
    for (const [args, message] of rows) {
      const { exitCode, stderr } = await flashpipe(args);
      assert.match(stderr, message);
      assert.equal(exitCode, 2, args.join(" "));
    }
  },
);

test("flashpipe run says what a kept probe foresees before it loads", TIMEOUT, async () => {
  const args = [
    "run",
    "--model",
    tales,
    "--ffn-cache",
    "20%",
    "--backend",
    "pread",
    "-n",
    "2",
    "Once",
  ];
  const { stderr, exitCode } = await flashpipe(args);
  assert.equal(exitCode, 0, stderr);
  assert.match(
    stderr,
    /^memory .*\n.*\nffn .*\nexpected {2}[\d.]+ tokens\/s, .* reads a token, hit rate/m,
  );
});

test("flashpipe probe takes its file away at Ctrl-C", TIMEOUT, async () => {
  const folder = models.file("probed");
  mkdirSync(folder);
  const { exitCode, stdout } = await flashpipe(["probe", folder], {
    onStart: (child) => {
      const timer = setInterval(() => {
        if (readdirSync(folder).length === 0) return;
        clearInterval(timer);
        child.kill("SIGINT");
      }, 20);
      child.on("exit", () => clearInterval(timer));
    },
  });
  assert.equal(exitCode, 130);
  assert.equal(stdout, "");
  assert.deepEqual(readdirSync(folder), []);
});
