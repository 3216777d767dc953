import assert from "node:assert/strict";
import { test } from "node:test";
import {
  FlashReadError,
  MemoryBudgetError,
  ModelFileError,
  printable,
  UnsupportedModelError,
} from "../src/errors.ts";

test("errors carry their data and say whose mistake they are", () => {
  const cause = new Error("EIO");
  const range = { path: "a.flash", byteOffset: 8192, byteLength: 4096 };
  const read = new FlashReadError("EIO", range, { cause });
  assert.equal(read.message, "Cannot read 4096 bytes at byte 8192 of a.flash: EIO");
  assert.deepEqual([read.name, read.exitCode, read.cause], ["FlashReadError", 1, cause]);
  const open = new FlashReadError("ENOENT", { path: "a.flash", byteOffset: 0, byteLength: 0 });
  assert.equal(open.message, "Cannot open a.flash: ENOENT");
  const place = { path: "a.flash", field: "layers.3.bundles.count", byteOffset: 4096 };
  const file = new ModelFileError("expected 96, found 95", place);
  assert.equal(
    file.message,
    "a.flash: expected 96, found 95 (layers.3.bundles.count, byte 4096)",
  );
  assert.deepEqual([file.field, file.byteOffset, file.exitCode], [place.field, 4096, 1]);
  assert.equal(new UnsupportedModelError("x").exitCode, 2);
  const budget = new MemoryBudgetError("too little", { requiredBytes: 5 });
  assert.deepEqual([budget.requiredBytes, budget.exitCode], [5, 2]);
});

test("printable() takes control characters and endless names from a file's text", () => {
  assert.equal(printable("a\x1b[31m\r\nb\x9b"), "a\ufffd[31m\ufffd\ufffdb\ufffd");
  assert.equal(printable("é 日本"), "é 日本");
  assert.equal(printable("x".repeat(1000)).length, 303);
});
