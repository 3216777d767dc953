import assert from "node:assert/strict";
import { after, test } from "node:test";
import { LayerForward } from "../src/fit/layer_forward.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { loadKernelModule } from "../src/kernels.ts";
import { open } from "../src/open.ts";
import { PackedModels } from "./packed_models.ts";

const models = new PackedModels();
after(() => models[Symbol.dispose]());

const CHUNKS = [[1, 5, 9, 30, 200, 17, 3], [2], [40, 41, 42, 43, 44, 45, 46, 47, 48]];

for (const quant of ["f32", "f16", "q8"] as const) {
  test(`LayerForward.run() sees what the engine sees, ${quant}`, async () => {
    const path = await models.flashOf("opt", quant);
    await using model = await open(path, {
      kv: "f32",
      lanes: 1,
      readers: 2,
      ffn: "dense",
      observations: true,
    });
    using file = FlashFile.open(path);
    const { hiddenSize: d, intermediateSize: n, numLayers } = file.header.config;
    const sizes = { positionsMax: 17, chunkLengthMax: 9 };
    const forward = new LayerForward(file, loadKernelModule(), sizes);
    const seen: Float32Array[] = [];
    forward.embed(CHUNKS);
    for (let layer = 0; layer < numLayers; layer++) {
      forward.run(layer, CHUNKS.map(({ length }) => length));
      seen.push(forward.ffnInput.slice());
      let activeCount = 0;
      for (const word of forward.active) {
        for (let bits = word; bits !== 0; bits &= bits - 1) activeCount++;
      }
      assert.ok(activeCount > 0 && activeCount < 17 * n);
    }
    // For q8 the engine rounds activations to 16 bits.
    const tolerance = quant === "q8" ? 2e-3 : 1e-4;
    let first = 0;
    for (const ids of CHUNKS) {
      await model.eachObservation(ids, (layers, position) => {
        layers.forEach(({ ffnInput }, layer) => {
          const from = (first + position) * d;
          ffnInput.forEach((value, k) => {
            const difference = Math.abs(value - seen[layer][from + k]);
            assert.ok(difference < tolerance, `layer ${layer}, ${k}: ${difference}`);
          });
        });
      });
      first += ids.length;
    }
  });
}
