import assert from "node:assert/strict";
import { test } from "node:test";
import { stagingBuffers } from "../src/predict/staging.ts";

test("stagingBuffers() of any arenas share no flag, and those of one no byte", () => {
  const staging = {
    chunkCount: 3,
    chunkByteLength: 8192,
    placeByteLength: 2048,
    neuronsPerChunk: 4,
    flag: 100,
    flagsPerChunk: 4,
    flagsPerArena: 16,
  };
  const options = {
    arenas: [{ plan: { staging: 65_536 } }, { plan: { staging: 4096 } }],
    flash: { staging },
  } as unknown as Parameters<typeof stagingBuffers>[0];
  const buffers = [stagingBuffers(options, 0), stagingBuffers(options, 1)];
  assert.deepEqual(buffers[0].map(({ address }) => address), [65_536, 73_728, 81_920]);
  assert.deepEqual(buffers[1].map(({ address }) => address), [4096, 12_288, 20_480]);
  const flags = buffers.flat().flatMap(({ flag }) => [flag, flag + 1, flag + 2, flag + 3]);
  assert.equal(new Set(flags).size, flags.length);
  assert.equal(Math.min(...flags), 100);
  assert.ok(Math.max(...flags) < 100 + 2 * staging.flagsPerArena);
});
