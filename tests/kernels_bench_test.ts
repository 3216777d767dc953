import assert from "node:assert/strict";
import { test } from "node:test";
import { benchKernels } from "../bench/kernels.ts";

test("benchKernels() measures each form with small parameters", () => {
  const results = benchKernels({ build: "plain" });
  assert.deepEqual(results.map((result) => result.name), [
    "read",
    "matvec f32 256",
    "matvec f16 256",
    "matvec q8 256",
    "matvec q4 256",
    "planes 4 bits 256",
    "planes 3 bits 256",
    "planes 2 bits 256",
    "sparse f32 256",
    "sparse f16 256",
    "sparse q8 256",
    "sparse q4 256",
    "pruned f16 256 75%",
    "pruned q8 256 75%",
  ]);
  for (const result of results) assert(result.gigabytesPerSecond > 0, result.name);
  // What is computed does not depend on time or place.
  const checksums = results.map((result) => result.checksum);
  assert.deepEqual(benchKernels({ build: "plain" }).map((result) => result.checksum), checksums);
});
