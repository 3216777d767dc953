/** Training-free predictors: rows in few bits, their layout, and what they find. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { fitBitPlanes } from "../src/fit/bit_planes_fit.ts";
import { heldOutActive } from "../src/fit/observations.ts";
import type { LayerObservations } from "../src/fit/observations.ts";
import { ArrayPositions } from "../src/fit/positions.ts";
import { quantizeRows } from "../src/fit/quantize_rows.ts";
import { storePlanes } from "../src/format/bit_planes.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { inspect } from "../src/format/inspect.ts";
import { loadKernelModule } from "../src/kernels.ts";
import { open } from "../src/open.ts";
import { ReplayedLooks } from "../src/predict/replayed_looks.ts";
import { levelsTwin, planeScoreTwin } from "./kernel_twins.ts";
import { seededRandom } from "../src/random.ts";
import { addBitPlanes, packTiny } from "./tiny_flash.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const folder = new TemporaryFolder();
after(() => folder[Symbol.dispose]());

test("storePlanes() puts the bits of 16 rows side by side, plane after plane", () => {
  const rows = 32, cols = 16, bits = 2;
  const levels = new Int8Array(rows * cols).fill(-3); // No bit is set.
  levels[17 * cols + 10] = -1; // Plane 0 alone.
  levels[17 * cols + 3] = 3; // Both.
  const planes = storePlanes(levels, { rows, cols, bits });
  assert.equal(planes.length, rows * cols * bits / 8);
  const set = [...planes.entries()].filter(([, byte]) => byte !== 0);
  // Group 1 begins at byte 64, its plane 1 at 96; columns 8 to 15 are 16 bytes further; row 17 is byte 1.
  assert.deepEqual(set, [[64 + 1, 1 << 3], [64 + 16 + 1, 1 << 2], [96 + 1, 1 << 3]]);
});

test("quantizeRows() comes nearer with each bit, and keeps signs with one", () => {
  const random = seededRandom(5), rows = 3, cols = 64;
  const values = Float32Array.from({ length: rows * cols }, () => random() + random() - 1);
  values.fill(0, 2 * cols); // A row of zeros has scale 0.
  let before = Infinity;
  for (const bits of [1, 2, 3, 4]) {
    const { levels, scales } = quantizeRows(values, { rows, cols, bits });
    assert.ok(levels.every((level) => Math.abs(level) < 2 ** bits && level % 2 !== 0));
    let error = 0;
    for (let row = 0; row < 2; row++) {
      for (let i = row * cols; i < (row + 1) * cols; i++) {
        error += (values[i] - levels[i] * scales[row]) ** 2;
        if (bits === 1) assert.equal(levels[i], values[i] < 0 ? -1 : 1);
      }
    }
    assert.equal(scales[2], 0);
    // Each bit takes at least half of the error's square.
    assert.ok(error < 0.5 * before, `${bits} bits: ${error} after ${before}`);
    before = error;
  }
});

const D = 96, N = 64, FIT = 1200, HELD_OUT = 600;

/** A layer whose inputs have a large mean, and of whose neurons a tenth is active. */
function randomLayer(): LayerObservations {
  const random = seededRandom(8);
  const normal = () => random() + random() + random() + random() - 2;
  const mean = Float32Array.from({ length: D }, () => 3 * normal());
  const inputs = Float32Array.from(
    { length: (FIT + HELD_OUT) * D },
    (_, i) => mean[i % D] + normal(),
  );
  const up = Float32Array.from({ length: N * D }, normal);
  const upBias = Float32Array.from({ length: N }, (_, i) => {
    let product = 0;
    for (let c = 0; c < D; c++) product += up[i * D + c] * mean[c];
    return -product - 6;
  });
  // What the early look sees has another mean.
  const earlyInputs = inputs.map((value, i) => value + 0.3 * normal() + (i % D) % 7);
  return { hiddenSize: D, neuronCount: N, up, upBias, inputs, earlyInputs, fitCount: FIT };
}

test("fitBitPlanes() has the wanted recall with fewer neurons for each bit", () => {
  const layer = randomLayer(), from = FIT * D;
  const heldOut = new ArrayPositions({
    inputs: layer.inputs.subarray(from),
    earlyInputs: layer.earlyInputs!.subarray(from),
    active: heldOutActive(layer),
  }, D);
  let before = 0.8;
  for (const bits of [1, 2, 3, 4]) {
    const options = { bits, recallWanted: 0.97, earlyCost: 0.5 };
    const { measured, planes } = fitBitPlanes(layer, heldOut, options, loadKernelModule());
    const { recall, predictedShare, activeShare, earlyRecall, earlyPredictedShare } = measured;
    assert.equal(planes.length, N * bits * D / 8);
    assert.ok(recall >= 0.97, `recall ${recall}`);
    assert.ok(predictedShare < 0.9 * before, `${bits} bits: ${predictedShare} after ${before}`);
    assert.ok(activeShare > 0.02 && activeShare < 0.2);
    // The other mean is made up for.
    if (bits > 1) assert.ok(earlyRecall > 0.5 && earlyPredictedShare < 2 * predictedShare);
    before = predictedShare;
  }
  // Four bits are all but exact.
  assert.ok(before < 0.13, `${before}`);
});

test("looks by bit planes equal their twin, whichever the kernels' build", async () => {
  const path = await packTiny(folder, "f16");
  const d = 32, n = 96, random = seededRandom(3);
  for (const bits of [1, 4]) {
    addBitPlanes(path, bits);
    using file = FlashFile.open(path);
    const predictors = file.header.predictors!;
    assert.ok(predictors.kind === "bit-planes");
    const builds = (["plain", "relaxed"] as const).map((build) =>
      new ReplayedLooks(file, { build })
    );
    for (const [index, layer] of predictors.layers.entries()) {
      const floats = (name: "rowScales" | "mean" | "bias") =>
        new Float32Array(new Uint8Array(file.readRange(layer[name])).buffer);
      const [rowScales, mean, bias] = [floats("rowScales"), floats("mean"), floats("bias")];
      const weights = weightsOf(file.readRange(layer.planes), { n, d, bits });
      for (let repeat = 0; repeat < 8; repeat++) {
        const ffnInput = Float32Array.from({ length: d }, () => 4 * random() - 2);
        const seen = levelsTwin(ffnInput, mean);
        const expected = Array.from({ length: n }, (_, i) => {
          const score = planeScoreTwin(weights.subarray(i * d, (i + 1) * d), seen, rowScales[i]);
          return Math.fround(score + bias[i]) > 0;
        });
        for (const looks of builds) {
          const count = looks.lookLate(index, { ffnInput });
          assert.equal(count, expected.filter(Boolean).length);
          expected.forEach((isNamed, i) =>
            assert.equal((looks.predicted[i >> 5] >>> (i & 31)) & 1, isNamed ? 1 : 0)
          );
        }
      }
    }
  }
});

test("open() plans and reports the bytes of bit planes, and runs both looks by them", async () => {
  const path = await packTiny(folder, "q8");
  addBitPlanes(path, 2);
  const { sizes } = await inspect(path);
  // 2 layers, d = 32, n = 96: planes; scales and thresholds; means.
  assert.equal(sizes.predictors, 2 * (96 * 2 * 32 / 8 + 4 * (3 * 96 + 2 * 32)));
  await using model = await open(path, { readers: 1, ffnCache: "30%", lanes: 2 });
  await model.logits([1, 5, 9, 30]);
  const { predictorBytes, prompt } = model.stats();
  assert.equal(predictorBytes, sizes.predictors);
  assert.equal(model.plan.bytes.predictors, sizes.predictors);
  assert.ok(prompt.neuronsPerToken > 0 && prompt.neuronsPerToken < 2 * 96);
  assert.ok(prompt.earlyRate > 0, "no read began early");
});

/** The odd weights that bit planes stand for, i8[n][d]: the layout as docs/model_format.md tells it. */
function weightsOf(
  planes: Uint8Array,
  { n, d, bits }: { n: number; d: number; bits: number },
): Int8Array {
  return Int8Array.from({ length: n * d }, (_, i) => {
    const row = Math.floor(i / d), col = i % d;
    let weight = 0;
    for (let plane = 0; plane < bits; plane++) {
      const byte = ((row >> 4) * bits + plane) * 2 * d + (col >> 3) * 16 + row % 16;
      weight += ((planes[byte] >> (col & 7)) & 1) === 1 ? 1 << plane : -1 << plane;
    }
    return weight;
  });
}
