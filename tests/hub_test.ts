/** Packing from a hub, whose connections break in every way. */
import assert from "node:assert/strict";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { HubError } from "../src/errors.ts";
import { pack } from "../src/format/pack.ts";
import type { PackProgress } from "../src/format/pack.ts";
import { parseHubAddress } from "../src/hub/hub_repo.ts";
import { HubServer } from "./hub_server.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const FIXTURE = fileURLToPath(new URL("./fixtures/opt", import.meta.url));
const INPUTS = fileURLToPath(new URL("./fixtures/inputs/", import.meta.url));

/** Short, so that a test need not wait; the last connection may be silent for so long. */
const HASTE = { retryMsMin: 5, silenceMsMax: 500 };
const CREATED = "2026-01-01";

async function packLocal(folder: TemporaryFolder, source: string): Promise<Uint8Array> {
  const target = folder.file("local.flash");
  await pack({ source, target, quant: "q8", createdAt: CREATED });
  return readFileSync(target);
}

/** The bytes after the header's place: all weights. */
function weightsOf(bytes: Uint8Array, wanted: Uint8Array): Uint8Array {
  return bytes.subarray(4096, wanted.length - 65536);
}

async function packHub(
  folder: TemporaryFolder,
  server: HubServer,
  options: {
    token?: string;
    signal?: AbortSignal;
    onProgress?: (progress: PackProgress) => void;
    file?: string;
    quant?: "q8" | "q4";
  } = {},
): Promise<Uint8Array> {
  const { token, signal, onProgress, file, quant = "q8" } = options;
  const target = folder.file("hub.flash");
  await pack({
    source: `hf:${server.repo}${file ? `/${file}` : ""}`,
    target,
    quant,
    createdAt: CREATED,
    hub: { endpoint: server.endpoint, token, ...HASTE },
    signal,
    onProgress,
  });
  return readFileSync(target);
}

/** Stops a pack from the hub after so many pieces. */
async function stopAfter(
  most: number,
  folder: TemporaryFolder,
  server: HubServer,
  quant: "q8" | "q4" = "q8",
): Promise<void> {
  const stop = new AbortController();
  let pieces = 0, last = 0;
  const onProgress = ({ doneBytes }: PackProgress) => {
    if (doneBytes === last) return; // Something came, and nothing was written.
    last = doneBytes;
    if (++pieces === most) stop.abort(new Error("stopped"));
  };
  const packing = packHub(folder, server, { quant, signal: stop.signal, onProgress });
  await assert.rejects(packing, /stopped/);
}

test("pack() from a hub makes the weights that it makes of a folder, in one pass over each file", async () => {
  using folder = new TemporaryFolder();
  await using server = await HubServer.start({ folder: FIXTURE });
  const wanted = await packLocal(folder, FIXTURE);
  const found = await packHub(folder, server);
  assert.deepEqual(weightsOf(found, wanted), weightsOf(wanted, wanted));
  const size = readFileSync(join(FIXTURE, "model.safetensors")).length;
  const whole = server.requests.filter(({ name, to }) =>
    name === "model.safetensors" && to === size
  );
  assert.equal(whole.length, 1);
  assert.deepEqual(readdirSync(folder.path).sort(), ["hub.flash", "local.flash"]);
});

test("pack() from a hub reads PyTorch's shards and GGUF files", async () => {
  using folder = new TemporaryFolder();
  const torch = folder.file("torch");
  mkdirSync(torch);
  const config = fileURLToPath(
    new URL("./fixtures/llama_rope_llama3/config.json", import.meta.url),
  );
  copyFileSync(config, join(torch, "config.json"));
  for (const name of readdirSync(INPUTS)) {
    if (/00002\.bin$|index\.json$/.test(name)) copyFileSync(INPUTS + name, join(torch, name));
  }
  const wanted = await packLocal(folder, torch);
  await using server = await HubServer.start({ folder: torch });
  assert.deepEqual(weightsOf(await packHub(folder, server), wanted), weightsOf(wanted, wanted));
  for (const name of readdirSync(torch).filter((name) => name.endsWith(".bin"))) {
    const size = readFileSync(join(torch, name)).length;
    const short = server.requests.filter((asked) => asked.name === name && asked.to < size);
    const shortBytes = short.reduce((sum, { from, to }) => sum + to - from, 0);
    // Headers of its 21 tensors, between many of which there is little; and nothing of large ones.
    assert.ok(
      short.length < 16 && shortBytes < 0.6 * size,
      `${short.length}: ${shortBytes} of ${size}`,
    );
  }
  const gguf = await packLocal(folder, `${INPUTS}llama_q8_0.gguf`);
  await using other = await HubServer.start({ folder: INPUTS });
  const found = await packHub(folder, other, { file: "llama_q8_0.gguf" });
  assert.deepEqual(weightsOf(found, gguf), weightsOf(gguf, gguf));
});

test("pack() from a hub goes on where connections break, stall and fail", async () => {
  using folder = new TemporaryFolder();
  const fates = [
    { break: 0 },
    { status: 503 },
    { break: 70_000 },
    { stall: true },
    { break: 1 },
    { status: 429 },
    { break: 100_000 },
    { status: 500 },
    { break: 30_000 },
  ];
  let index = 0;
  await using server = await HubServer.start({
    folder: FIXTURE,
    onFile: ({ name, to }) => {
      // Long reads, not those of a header.
      if (name === "model.safetensors" && to > 100_000) return fates[index++];
    },
  });
  const wanted = await packLocal(folder, FIXTURE);
  assert.deepEqual(weightsOf(await packHub(folder, server), wanted), weightsOf(wanted, wanted));
  assert.ok(index > fates.length, `only ${index} tries`);
});

test("pack() from a hub goes on in another process where one was stopped", async () => {
  using folder = new TemporaryFolder();
  const wanted = await packLocal(folder, FIXTURE);
  await using server = await HubServer.start({ folder: FIXTURE });
  const size = readFileSync(join(FIXTURE, "model.safetensors")).length;
  await stopAfter(20, folder, server);
  assert.ok(!existsSync(folder.file("hub.flash")));
  const left = readdirSync(folder.path).sort();
  assert.deepEqual(left, ["hub.flash.partial", "hub.flash.partial.json", "local.flash"]);
  const journal = JSON.parse(readFileSync(folder.file("hub.flash.partial.json"), "utf8"));
  assert.ok(journal.parts.length > 0 && journal.files[0].position > 0);
  server.requests.length = 0;
  const found = await packHub(folder, server);
  assert.deepEqual(weightsOf(found, wanted), weightsOf(wanted, wanted));
  const resumed = server.requests.filter(({ to }) => to === size).map(({ from }) => from);
  assert.deepEqual(resumed, [journal.files[0].position]);
  assert.deepEqual(readdirSync(folder.path).sort(), ["hub.flash", "local.flash"]);
});

test("pack() from a hub goes on only where its own work was stopped, and alone", async () => {
  using folder = new TemporaryFolder();
  const wanted = await packLocal(folder, FIXTURE);
  await using server = await HubServer.start({ folder: FIXTURE });
  await stopAfter(20, folder, server);
  // Other work begins the same file anew, and ends before it has written down what it did.
  await stopAfter(1, folder, server, "q4");
  assert.deepEqual(weightsOf(await packHub(folder, server), wanted), weightsOf(wanted, wanted));
  await stopAfter(20, folder, server);
  // A journal without its file is none.
  rmSync(folder.file("hub.flash.partial"));
  assert.deepEqual(weightsOf(await packHub(folder, server), wanted), weightsOf(wanted, wanted));
  const lock = folder.file("hub.flash.partial.lock"), longAgo = new Date(Date.now() - 60_000);
  writeFileSync(lock, "");
  await assert.rejects(packHub(folder, server), /another process is packing it/);
  utimesSync(lock, longAgo, longAgo);
  await packHub(folder, server);
  assert.deepEqual(readdirSync(folder.path).sort(), ["hub.flash", "local.flash"]);
});

test("pack() from a hub asks once for a matrix that holds queries, keys and values", async () => {
  using folder = new TemporaryFolder();
  const falcon = fileURLToPath(new URL("./fixtures/falcon_relu", import.meta.url));
  const wanted = await packLocal(folder, falcon);
  await using server = await HubServer.start({ folder: falcon });
  assert.deepEqual(weightsOf(await packHub(folder, server), wanted), weightsOf(wanted, wanted));
  const size = readFileSync(join(falcon, "model.safetensors")).length;
  const header = 8 + 64 * 1024;
  const asked = server.requests.filter(({ name, from }) =>
    name === "model.safetensors" && from > header
  );
  assert.deepEqual(asked, [], `of ${size} bytes`);
});

test("pack() from a hub asks once for experts in a stack, and tells what has come", async () => {
  using folder = new TemporaryFolder();
  const file = "mixtral_silu_q8_0.gguf", wanted = await packLocal(folder, INPUTS + file);
  await using server = await HubServer.start({ folder: INPUTS });
  const seen: PackProgress[] = [];
  const found = await packHub(folder, server, { file, onProgress: (state) => seen.push(state) });
  assert.deepEqual(weightsOf(found, wanted), weightsOf(wanted, wanted));
  const size = readFileSync(INPUTS + file).length;
  assert.equal(server.requests.length, 2, "its header, and all of it once");
  const fetched = seen.map(({ fetched }) => fetched!.doneBytes);
  assert.deepEqual(fetched, fetched.toSorted((a, b) => a - b));
  assert.deepEqual(seen.at(-1)!.fetched, { doneBytes: size, totalBytes: size });
  // Something came before anything of the first part was written.
  assert.ok(seen[0].doneBytes === 0 && seen[0].fetched!.doneBytes > 0);
});

test("pack() from a hub refuses a file that is not what the hub says", async () => {
  for (const corrupt of ["model.safetensors", "config.json"]) {
    using folder = new TemporaryFolder();
    await using server = await HubServer.start({ folder: FIXTURE, corrupt });
    await assert.rejects(packHub(folder, server), /its checksum is [0-9a-f]+, not [0-9a-f]+/);
    assert.deepEqual(readdirSync(folder.path), []);
  }
});

test("pack() from a hub shows its token to the hub alone, and says when it needs one", async () => {
  using folder = new TemporaryFolder();
  await using server = await HubServer.start({ folder: FIXTURE, token: "secret" });
  await assert.rejects(packHub(folder, server), (error: Error) => {
    assert.ok(error instanceof HubError);
    assert.equal(error.status, 401);
    assert.match(error.message, /HF_TOKEN/);
    return true;
  });
  await packHub(folder, server, { token: "secret" });
  assert.ok(server.requests.length > 0);
  for (const { authorization } of server.requests) assert.equal(authorization, undefined);
});

test("pack() from a hub gives up when nothing comes, and says what was tried", async () => {
  using folder = new TemporaryFolder();
  await using server = await HubServer.start({ folder: FIXTURE, onFile: () => ({ status: 500 }) });
  await assert.rejects(packHub(folder, server), /the server answers 500, \d+ times in a row/);
  await using other = await HubServer.start({ folder: FIXTURE, repo: "tests/other" });
  const missing = pack({
    source: "hf:tests/missing",
    target: folder.file("x.flash"),
    quant: "q8",
    hub: { endpoint: other.endpoint, ...HASTE },
  });
  await assert.rejects(missing, /there is no such model or file/);
});

test("parseHubAddress() reads owner, name, revision and file, and refuses all else", () => {
  const repo = "facebook/opt-1.3b";
  assert.deepEqual(parseHubAddress(`hf:${repo}`), { repo, revision: "main", file: null });
  assert.deepEqual(parseHubAddress(`hf:${repo}@v2/sub/a.gguf`), {
    repo,
    revision: "v2",
    file: "sub/a.gguf",
  });
  for (const bad of ["hf:", "hf:x", "hf:a/../b", "hf:a/b/../c", "hf:a//b", "hf:/a/b", "a/b"]) {
    assert.throws(() => parseHubAddress(bad), RangeError, bad);
  }
});
