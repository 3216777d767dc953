import assert from "node:assert/strict";
import { closeSync, openSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { openLibc } from "../src/flash/libc.ts";
import { askNotToCache } from "../src/flash/no_cache.ts";
import { RUNTIME } from "../src/runtime.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const libc = openLibc();
const skip = libc ? false : "no FFI to the C library here";
/** The same on Linux and macOS. */
const F_GETFL = 3, F_SETFL = 4, EBADF = 9;
const O_NONBLOCK = process.platform === "darwin" ? 4 : 0o4000;

test("Libc.fcntl() passes its variadic argument on, for a descriptor of node:fs", { skip }, () => {
  using folder = new TemporaryFolder();
  const path = folder.file("f");
  writeFileSync(path, "bytes");
  const descriptor = openSync(path, "r");
  try {
    const flags = libc!.fcntl(descriptor, F_GETFL, 0);
    assert.equal(flags & 3, 0, "opened for reading");
    assert.equal(flags & O_NONBLOCK, 0);
    // Often, as runtimes compile calls that are made often in another way.
    for (let i = 0; i < 20_000; i++) {
      const wanted = i % 2 === 0 ? flags | O_NONBLOCK : flags;
      assert.equal(libc!.fcntl(descriptor, F_SETFL, wanted), 0);
      assert.equal(libc!.fcntl(descriptor, F_GETFL, 0), wanted);
    }
  } finally {
    closeSync(descriptor);
  }
});

test("Libc.errno() says why a call failed", { skip }, () => {
  assert.equal(libc!.fcntl(99_999, F_GETFL, 0), -1);
  assert.equal(libc!.errno(), EBADF);
});

test("openLibc() is null in Node, which has no FFI without a flag", {
  skip: RUNTIME !== "node" && "not Node",
}, () => {
  assert.equal(libc, null);
});

test("askNotToCache() says no where there is no F_NOCACHE to ask for", {
  skip: process.platform === "darwin" && "macOS has it",
}, () => {
  assert.equal(askNotToCache(0), false);
});
