import assert from "node:assert/strict";
import { test } from "node:test";
import { benchPositions } from "../bench/positions.ts";
import { QUANTIZATIONS } from "../src/format/layout.ts";

test("benchPositions() measures each part with small parameters", () => {
  const results = benchPositions();
  assert.deepEqual(results.map((result) => result.name), [
    ...QUANTIZATIONS.flatMap((q) => [`matmat ${q} 128 x 2`, `matmat ${q} 128 x 5`]),
    "attention f32 40",
    "attention f16 40",
    "attention q8 40",
    "bundles up q8 128, again",
    "bundles down q8 128, again",
  ]);
  for (const result of results) assert(result.speed > 0, result.name);
  // What is computed does not depend on time or place.
  const checksums = results.map((result) => result.checksum);
  assert.deepEqual(benchPositions().map((result) => result.checksum), checksums);
});
