import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { toFloats } from "../src/checkpoint/checkpoint.ts";
import { BLOCK_TYPES } from "../src/checkpoint/ggml_blocks.ts";

/** Made by tests/fixtures/make_inputs.py with llama.cpp's own Python package. */
const GOLDEN: Record<string, { blocks: string; values: string }> = JSON.parse(
  readFileSync(new URL("fixtures/inputs/ggml_blocks.json", import.meta.url), "utf8"),
);

function bytesOf(base64: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.from(base64, "base64"));
}

for (const [dtype, { blocks, values }] of Object.entries(GOLDEN)) {
  test(`toFloats() reads ${dtype} as llama.cpp's package does, bit for bit`, () => {
    const bytes = bytesOf(blocks), wanted = new Float32Array(bytesOf(values).buffer);
    const { length, byteLength } = BLOCK_TYPES[dtype];
    assert.equal(bytes.length / byteLength, wanted.length / length);
    const found = new Float32Array(wanted.length);
    toFloats(dtype, bytes, found.length, found);
    assert.deepEqual(found, wanted);
  });
}

test("BLOCK_TYPES and their golden numbers are the same kinds", () => {
  assert.deepEqual(Object.keys(BLOCK_TYPES).sort(), Object.keys(GOLDEN).sort());
});
