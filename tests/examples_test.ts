import assert from "node:assert/strict";
import { test } from "node:test";
import { runScript } from "./script_process.ts";

test("examples/embed.ts generates text with the library", async () => {
  const { exitCode, stdout, stderr } = await runScript("examples/embed.ts", []);
  assert.equal(exitCode, 0, stderr);
  assert.ok(stdout.length > 100, stdout);
  assert.match(stderr, /\d+ tokens\/s, \d+ KiB in \d+ reads per token/);
});
