/** Layers with a window keep few pages, which are taken in turn, and that changes no number. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { PAGE_POSITIONS, WindowGuard, windowPageCount } from "../src/kv_page.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { seededRandom } from "../src/random.ts";
import { idsOf, PackedModels } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

test("windowPageCount() is the fewest pages in which no step overwrites what it looks back at", () => {
  for (const window of [1, 2, 8, 15, 16, 17, 40]) {
    for (const most of [1, 3, 9, 16, 33]) {
      const first = 1000, end = first + most;
      const isEnough = (pages: number) => {
        const holders = new Map<number, number>(), places = pages * PAGE_POSITIONS;
        for (let position = 0; position < end; position++) holders.set(position % places, position);
        for (let seen = first - window + 1; seen < end; seen++) {
          if (holders.get(seen % places) !== seen) return false;
        }
        return true;
      };
      const count = windowPageCount(window, most), where = `window ${window}, steps of ${most}`;
      assert.ok(isEnough(count), where);
      assert.ok(count === 1 || !isEnough(count - 1), where);
    }
  }
});

test("WindowGuard lets texts grow by steps that go back a draft, and refuses what was given up", () => {
  const window = 8, most = 4, random = seededRandom(1);
  const guard = new WindowGuard(window, windowPageCount(window, most));
  for (let text = 0; text < 3; text++) {
    for (let position = 0; position < 200;) {
      const positions = 1 + Math.floor(most * random());
      guard.check({ position, positions });
      position += 1 + Math.floor(positions * random());
    }
  }
  guard.check({ position: 195, positions: 1 });
  assert.throws(() => guard.check({ position: 100, positions: 1 }), RangeError);
  guard.check({ position: 0, positions: 1 });
});

const random = seededRandom(2);
const IDS = Array.from({ length: 100 }, () => Math.floor(300 * random()));

for (const name of ["mistral_window", "gemma3_gelu"] as const) {
  test(`${name}: pages that are taken in turn change no logit`, async () => {
    const path = await models.flashOf(name);
    const all: OpenOptions = { lanes: 1, readers: 2, context: 128, promptChunk: 128, drafts: 0 };
    await using whole = await open(path, { ...all, ffnCache: "50%" });
    assert.equal(whole.plan.shape.pages.windowed, undefined);
    const wanted = await whole.logits(IDS);
    // The same words again, so that drafts are made, and refused.
    const prompt = [...IDS.slice(0, 40), ...IDS.slice(0, 30)];
    const ids = await idsOf(whole, prompt, { maxTokens: 40 });
    for (
      const options of [
        { promptChunk: 12, logitsRows: 24, drafts: 3, ffnCache: "50%", lanes: 2 },
        { promptChunk: 1, drafts: 0, ffnCache: "20%", sharesPools: true },
      ] satisfies OpenOptions[]
    ) {
      await using model = await open(path, { ...all, ...options });
      const { plan } = model, { windowed } = plan.shape.pages;
      assert.ok(windowed && windowed.count < plan.shape.pages.count);
      assert.ok(plan.bytes.keyValueCache < whole.plan.bytes.keyValueCache);
      assert.deepEqual(await model.logits(IDS), wanted, JSON.stringify(options));
      assert.deepEqual(await idsOf(model, prompt, { maxTokens: 40 }), ids);
    }
  });
}
