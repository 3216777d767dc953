/** `memory` as a ceiling of the process: each run is a process of its own, as only such a one begins small. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { PackedModels } from "./packed_models.ts";
import { runScript } from "./script_process.ts";

const GENERATE = fileURLToPath(new URL("../bench/generate.ts", import.meta.url));

for (const backend of [undefined, "pread"]) {
  test(`the smallest memory that a refusal names does in the next process: ${backend ?? "any"} backend`, async () => {
    using models = new PackedModels();
    const path = await models.flashOf("tales", "q8");
    const options = JSON.stringify({ ffn: "exact", lanes: 1, backend });
    const generate = (memory: string) =>
      runScript(GENERATE, [path, "--memory", memory, "--options", options, "--json"]);
    const refused = await generate("1MiB");
    assert.notEqual(refused.exitCode, 0);
    const mebibytes = /the smallest memory that works is (\d+)MiB/.exec(refused.stderr)?.[1];
    const { exitCode, stdout, stderr } = await generate(`${mebibytes}MiB`);
    assert.equal(exitCode, 0, stderr);
    const { peakBytes, decode } = JSON.parse(stdout), ceiling = Number(mebibytes) * 2 ** 20;
    assert.equal(decode.tokens, 63);
    assert.ok(peakBytes <= ceiling, `${peakBytes / 2 ** 20} of ${mebibytes} MiB`);
  });
}
