import assert from "node:assert/strict";
import { test } from "node:test";
import { benchBounds } from "../bench/bounds.ts";
import { PackedModels } from "./packed_models.ts";

test("benchBounds() has a figure for each line, or says why not", async () => {
  using models = new PackedModels();
  const modelPath = await models.flashOf("tales", "q8");
  const bounds = await benchBounds({
    modelPath,
    options: { ffn: "exact", ffnCache: "20%", lanes: 1 },
    prompt: 8,
    tokens: 6,
    longPrompt: 20,
    rounds: 1,
    seconds: 0.1,
    kernelBytes: 2 ** 20,
    llama: { gigabytesPerSecond: 20 },
  });
  const figures = new Map(bounds.map((bound) => [bound.name, bound]));
  assert.equal(figures.size, 9);
  for (const { name, figure, how } of bounds) {
    if (figure === null) {
      assert.match(how, /no fio here|no io_uring here|\? \(--llama|flash \?/, name);
    } else assert.ok(figure >= 0 && Number.isFinite(figure), `${name}: ${figure}`);
  }
  assert.equal(figures.get("dense q8 matvec over llama.cpp, per core")?.atLeast, 0.9);
  assert.equal(figures.get("batched q8 over llama.cpp's prompt, per core")?.atLeast, null);
  assert.ok(figures.get("memory management, share of a token")!.figure! > 0);
});
