import assert from "node:assert/strict";
import { test } from "node:test";
import { NeuronCache } from "../src/cache/neuron_cache.ts";
import { makePolicy } from "../src/cache/policies.ts";
import { LentPools } from "../src/predict/lent_pools.ts";

const SLOT_BYTES = 1536, CHUNK_BYTES = 8192, NEURONS = 64, STRIDE_BYTES = 1024;
/** Of each layer. Four and a bit hold a layer of 64 neurons. */
const SLOTS = 11;
const NONE = { passesDone: 0, list: 0, desperate: false };

/** Layers with full slots; `flagsPerChunk` as where neurons are read one by one, or as where a chunk is one read. */
function makeLayers(layerCount: number, { slots = SLOTS, flagsPerChunk = 1 } = {}) {
  const words = new Int32Array(16 + layerCount * slots).fill(1);
  const layers = Array.from({ length: layerCount }, (_, layer) => {
    const flag = layer * slots,
      policy = makePolicy({ name: "lru", window: Infinity }, {
        slotCount: slots,
        neuronCount: NEURONS,
      });
    const cache = new NeuronCache(NEURONS, { count: slots, flagWord: 16 + flag }, policy, words);
    for (let neuron = 0; neuron < slots; neuron++) cache.land(cache.admit(neuron, 0, NONE));
    return { layer, address: 65536 * (layer + 1), flag, cache };
  });
  const staging = {
    chunkCount: 2,
    chunkByteLength: CHUNK_BYTES,
    placeByteLength: SLOT_BYTES,
    neuronsPerChunk: 4,
    flag: layerCount * slots,
    flagsPerChunk,
    flagsPerArena: 0,
  };
  const seat = {
    readPlan: { awaitLanding: () => assert.fail("nothing is under way") },
    options: {
      sizes: { intermediateSize: NEURONS },
      flash: { strideBytes: STRIDE_BYTES, slotByteLength: SLOT_BYTES, staging },
    },
  };
  return { layers, pools: new LentPools(seat, layers) };
}

for (const flagsPerChunk of [1, 4]) {
  test(`LentPools.lend() gives buffers of the last layers that lie apart, flags too (${flagsPerChunk} a chunk)`, () => {
    const { layers, pools } = makeLayers(20, { flagsPerChunk });
    assert.equal(pools.firstLayer, 17, "one of six layers");
    assert.ok(pools.lend(1));
    const perLayer = Math.floor(SLOTS * SLOT_BYTES / CHUNK_BYTES);
    assert.equal(pools.buffers.length, 3 * perLayer);
    const flags = new Set<number>();
    pools.buffers.forEach(({ address, flag }, i) => {
      const { address: begin, flag: first } = layers[17 + Math.floor(i / perLayer)];
      assert.equal(address, begin + (i % perLayer) * CHUNK_BYTES);
      assert.ok(address + CHUNK_BYTES <= begin + SLOTS * SLOT_BYTES, "within the slots");
      for (let f = flag; f < flag + flagsPerChunk; f++) {
        assert.ok(f >= first && f < first + SLOTS, `flag ${f} is one of its layer's`);
        assert.ok(!flags.has(f), `flag ${f} is nobody else's`);
        flags.add(f);
      }
    });
  });
}

test("LentPools.lend() takes all neurons of the layers that lend, and giveBack() makes their slots free", () => {
  const { layers, pools } = makeLayers(12);
  for (let time = 0; time < 2; time++) {
    assert.ok(pools.lend(1));
    assert.deepEqual(layers.map(({ cache }) => cache.limit), [...Array(10).fill(SLOTS), 0, 0]);
    assert.equal(layers[11].cache.find(3), -1);
    assert.notEqual(layers[9].cache.find(3), -1, "others keep theirs");
    pools.giveBack();
    assert.deepEqual(layers.map(({ cache }) => cache.limit), Array(12).fill(SLOTS));
    assert.equal(layers[11].cache.residentCount, 0);
    for (let neuron = 0; neuron < SLOTS; neuron++) {
      assert.ok(layers[11].cache.admit(neuron, 1, NONE) >= 0);
      layers[11].cache.land(layers[11].cache.find(neuron));
    }
  }
});

test("LentPools.lend() gives what a context has left of the slots", () => {
  const { layers, pools } = makeLayers(6);
  layers[5].cache.setLimit(6);
  assert.ok(pools.lend(1));
  assert.equal(pools.buffers.length, 1);
  pools.giveBack();
  assert.equal(layers[5].cache.limit, 6);
});

test("LentPools.lend() takes nothing where it is too little", () => {
  const few = makeLayers(5).pools;
  assert.equal(few.firstLayer, Infinity);
  assert.equal(few.lend(0), false, "no layer lends");
  const { layers, pools } = makeLayers(12);
  assert.equal(pools.lend(5), false);
  assert.equal(layers[11].cache.residentCount, SLOTS);
});

test("LentPools asks no more layers than hold a layer's bundles", () => {
  // 64 bundles of 1024 bytes are 43 slots: one layer of 50 slots, or two of 22, hold them.
  assert.equal(makeLayers(24, { slots: 50 }).pools.firstLayer, 23);
  assert.equal(makeLayers(24, { slots: 22 }).pools.firstLayer, 22);
});
