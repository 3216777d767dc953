/** Bundles of pruned models, stored without their zeros: nothing but bytes may differ from the same bundles with them. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { LayerForward } from "../src/fit/layer_forward.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { updateFlash } from "../src/format/flash_update.ts";
import type { FlashHeader } from "../src/format/header.ts";
import { inspect, renderInspection } from "../src/format/inspect.ts";
import { bundleByteLength, bundleVectors, vectorByteLength } from "../src/format/layout.ts";
import type { BundleForm, PrunableQuantization } from "../src/format/layout.ts";
import { NeuronOrder } from "../src/format/neuron_order.ts";
import { pack } from "../src/format/pack.ts";
import type { PackOptions } from "../src/format/pack.ts";
import { storeRows } from "../src/format/quantize.ts";
import { reorderFlash } from "../src/format/reorder.ts";
import {
  chooseCapacities,
  countStored,
  storeSparse,
  takeVectors,
} from "../src/format/sparse_vectors.ts";
import {
  accumulatorByteLength,
  ACTIVATION,
  bundleKernels,
  downScratchByteLength,
  loadKernelModule,
  preparedByteLength,
} from "../src/kernels.ts";
import type { Kernels } from "../src/kernels.ts";
import { open } from "../src/open.ts";
import type { OpenOptions } from "../src/open.ts";
import { ReplayedLooks } from "../src/predict/replayed_looks.ts";
import { seededRandom } from "../src/random.ts";
import { BUILDS, bytesAt, KernelArena, kernelsOf, wordsAt } from "./kernel_arena.ts";
import { addPredictors } from "./tiny_flash.ts";
import { TemporaryFolder } from "./tiny_model.ts";

const folder = new TemporaryFolder();
after(() => folder[Symbol.dispose]());

/** Bundles with zeros, of which `zeros` is the share, and the form that they are stored in without them. */
interface Case {
  form: BundleForm;
  count: number;
  bundles: Uint8Array<ArrayBuffer>;
}

const cases: fc.Arbitrary<Case> = fc.record({
  quantization: fc.constantFrom<PrunableQuantization>("f16", "q8"),
  hiddenSize: fc.integer({ min: 1, max: 12 }).map((blocks) => 32 * blocks),
  isGated: fc.boolean(),
  count: fc.integer({ min: 1, max: 13 }),
  zeros: fc.constantFrom(0, 0.5, 0.75, 0.95, 1),
  room: fc.constantFrom(0, 2, 6),
  seed: fc.nat(),
}).map(({ quantization, hiddenSize: d, isGated, count, zeros, room, seed }) => {
  const random = seededRandom(seed), vectors = isGated ? 3 : 2;
  // -0 is a zero, too.
  const zero = () => random() < 0.5 ? 0 : -0;
  const values = Float32Array.from(
    { length: count * vectors * d },
    () => random() < zeros ? zero() : random() - 0.5,
  );
  const bundles = new Uint8Array(count * vectors * vectorByteLength(quantization, d));
  storeRows(quantization, values, { rows: count * vectors, cols: d }, bundles);
  const form: BundleForm = { quantization, hiddenSize: d, isGated, capacities: null };
  const most = Array<number>(vectors).fill(0);
  countStored(form, bundles, count, most);
  const capacities = most.map((stored) => Math.min(d, Math.ceil(stored / 2) * 2 + room));
  return { form: { ...form, capacities }, count, bundles };
});

function stored(
  { form, count, bundles }: Case,
): { bytes: Uint8Array<ArrayBuffer>; stride: number } {
  const { quantization, hiddenSize, isGated, capacities } = form;
  const stride = bundleByteLength(quantization, hiddenSize, isGated, capacities);
  const bytes = new Uint8Array(count * stride);
  storeSparse(form, bundles, count, bytes);
  return { bytes, stride };
}

/** Rows of one vector of bundles that have their zeros; f16: -0 is 0. */
function vectorsOf({ form, count, bundles }: Case, vector: number): Uint8Array {
  const byteLength = vectorByteLength(form.quantization, form.hiddenSize);
  const rows = new Uint8Array(count * byteLength);
  takeVectors({ ...form, capacities: null }, bundles, { vector, count }, rows);
  if (form.quantization === "f16") {
    const halves = new Uint16Array(rows.buffer);
    halves.forEach((half, i) => halves[i] = half === 0x8000 ? 0 : half);
  }
  return rows;
}

test("takeVectors() gives back what storeSparse() stored", () => {
  fc.assert(
    fc.property(cases, (given) => {
      const { form, count } = given, { bytes } = stored(given);
      for (let vector = 0; vector < form.capacities!.length; vector++) {
        const expected = vectorsOf(given, vector), found = new Uint8Array(expected.length);
        takeVectors(form, bytes, { vector, count }, found);
        assert.deepEqual(found, expected);
      }
    }),
    { numRuns: 60 },
  );
});

for (const build of BUILDS) {
  test(`expand() gives the bytes of takeVectors(), and writes nowhere else, ${build}`, () => {
    const kernels = kernelsOf(build);
    fc.assert(
      fc.property(cases, fc.nat(), fc.nat(), fc.boolean(), (given, a, b, isDamaged) => {
        const { form, count } = given, { quantization, hiddenSize: d, capacities } = form;
        const { bytes, stride } = stored(given), vector = a % capacities!.length;
        const vectorBytes = vectorByteLength(quantization, d);
        const offset = bundleVectors(form).slice(0, vector)
          .reduce((sum, byteLength) => sum + byteLength, 0);
        // Of a file that was changed any bit may be set: then any numbers will do, but none outside of the target.
        if (isDamaged) bytes.fill(0xff);
        const blocks = d / 32, from = 32 * (a % blocks);
        const to = from + 32 * (1 + b % (blocks - from / 32));
        const arena = new KernelArena();
        const bundles = arena.reserve(bytes.length + 64, { offset: 2 });
        bytesAt(bundles, bytes.length).set(bytes);
        const target = arena.bytes(new Uint8Array(count * (vectorBytes + 14)).fill(0x5a));
        const addresses = arena.words(
          Array.from({ length: count }, (_, i) => bundles + i * stride),
        );
        // The list backwards.
        const order = arena.words(Array.from({ length: count }, (_, i) => count - 1 - i));
        const expanded = arena.words(new Uint32Array(count));
        const expand = kernels.expand[form.quantization as PrunableQuantization];
        const step = vectorBytes + 14;
        const done = expand(
          addresses,
          order,
          0,
          count,
          offset,
          target,
          step,
          expanded,
          from,
          to,
          d,
        );
        assert.equal(done, count);
        arena.assertCanaries();
        if (isDamaged) return;
        const expected = vectorsOf(given, vector), scales = quantization === "q8" ? d / 16 : 0;
        const size = quantization === "q8" ? 1 : 2;
        const found = [...wordsAt(expanded, count)];
        assert.deepEqual(found, found.map((_, i) => target + (count - 1 - i) * step));
        found.forEach((at, i) => {
          const row = expected.subarray(i * vectorBytes, (i + 1) * vectorBytes);
          const columns = (bytes: Uint8Array) => [
            bytes.slice(0, scales),
            bytes.slice(scales + from * size, scales + to * size),
          ];
          assert.deepEqual(columns(bytesAt(at, vectorBytes)), columns(row));
        });
      }),
      { numRuns: 80 },
    );
  });
}

/** Activations after `up`, and sums after `down`, of the first vector and of the last, from column `from` on. */
function compute(
  kernels: Kernels,
  { form, count }: Case,
  { bytes, isPruned, from, seed }: {
    bytes: Uint8Array;
    isPruned: boolean;
    from: number;
    seed: number;
  },
): Uint32Array[] {
  const { quantization, hiddenSize: d } = form, random = seededRandom(seed);
  const vectors = bundleVectors({ ...form, capacities: isPruned ? form.capacities : null });
  const stride = vectors.reduce((sum, byteLength) => sum + byteLength, 0);
  const arena = new KernelArena(), bundles = arena.reserve(bytes.length + 64, { offset: 2 });
  bytesAt(bundles, bytes.length).set(bytes);
  const addresses = arena.words(Array.from({ length: count }, (_, i) => bundles + i * stride));
  const neurons = arena.words(Array.from({ length: count }, (_, i) => i));
  const x = arena.floats(Float32Array.from({ length: d }, () => random() - 0.5));
  const prepared = arena.reserve(preparedByteLength(d));
  kernels.prepare[quantization](x, prepared, d);
  const dots = arena.floats(new Float32Array(count));
  const { up, down } = bundleKernels(kernels, { ffnQuantization: quantization, isPruned });
  const { relu } = ACTIVATION;
  const active = up(addresses, neurons, 0, 0, count, 0, prepared, 0, dots, d, relu, 0);
  // Some are zero, and of very different sizes, so that there are several grids.
  const activations = arena.floats(
    Float32Array.from({ length: count }, () => random() < 0.3 ? 0 : 2 ** (30 * random() - 10)),
  );
  const accumulator = arena.bytes(new Uint8Array(accumulatorByteLength(quantization, d)));
  const scratch = arena.reserve(downScratchByteLength(d)),
    residual = arena.floats(new Float32Array(d));
  const downOffset = stride - vectors[vectors.length - 1];
  down(addresses, downOffset, activations, count, accumulator, from, d, d, scratch);
  kernels.finishDown[quantization](accumulator, 0, residual, from, d, d);
  arena.assertCanaries();
  return [wordsAt(dots, count).slice(), wordsAt(residual, d).slice(), Uint32Array.of(active)];
}

for (const build of BUILDS) {
  test(`upPruned() and downPruned() give the bits of up() and down(), ${build}`, () => {
    const kernels = kernelsOf(build);
    fc.assert(
      fc.property(cases, fc.nat(), fc.nat(), (given, seed, a) => {
        const from = 32 * (a % (given.form.hiddenSize / 32)), about = { from, seed };
        const { bytes } = stored(given);
        const found = compute(kernels, given, { bytes, isPruned: true, ...about });
        const whole = { bytes: given.bundles, isPruned: false, ...about };
        assert.deepEqual(found, compute(kernels, given, whole));
        // Bitmaps with more bits than there are numbers harm nobody.
        compute(kernels, given, { bytes: bytes.fill(0xff), isPruned: true, ...about });
      }),
      { numRuns: 60 },
    );
  });
}

test("chooseCapacities() leaves zeros out only where that saves a tenth, and fills blocks", () => {
  const form = (quantization: PrunableQuantization, hiddenSize: number): BundleForm => ({
    quantization,
    hiddenSize,
    isGated: false,
    capacities: null,
  });
  assert.equal(chooseCapacities(form("q8", 4096), [3500, 3500]), null);
  assert.equal(chooseCapacities(form("f16", 4096), [3500, 3600]), null);
  assert.deepEqual(chooseCapacities(form("f16", 64), [19, 21]), [20, 22]);
  const capacities = chooseCapacities(form("q8", 4096), [1101, 4001])!;
  assert.ok(capacities[0] >= 1101 && capacities[1] >= 4001 && capacities[1] <= 4096);
  assert.equal(bundleByteLength("q8", 4096, false, capacities) % 512, 0);
});

/** Copies a fixture, with the smallest 70 % of each FFN matrix as zeros. */
function prune(name: string): string {
  const target = folder.file(name);
  cpSync(fileURLToPath(new URL(`./fixtures/${name}/`, import.meta.url)), target, {
    recursive: true,
  });
  const path = `${target}/model.safetensors`, bytes = new Uint8Array(readFileSync(path));
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  for (const [tensor, { dtype, data_offsets }] of Object.entries<Record<string, never>>(header)) {
    if (!/fc[12]\.weight|mlp\.\w+\.weight|experts\.\d+\.w\d\.weight/.test(tensor)) continue;
    const [from, to] = data_offsets as number[],
      data = bytes.slice(8 + length + from, 8 + length + to);
    const isSingle = (dtype as string) === "F32";
    const numbers = isSingle ? new Uint32Array(data.buffer) : new Uint16Array(data.buffer);
    const magnitude = (bits: number) => bits & (isSingle ? 0x7fff_ffff : 0x7fff);
    const sorted = Array.from(numbers, magnitude).sort((a, b) => a - b);
    const least = sorted[Math.floor(0.7 * sorted.length)];
    numbers.forEach((bits, i) => numbers[i] = magnitude(bits) < least ? 0 : bits);
    bytes.set(data, 8 + length + from);
  }
  writeFileSync(path, bytes);
  return target;
}

const sources = new Map<string, string>();

/** A pruned fixture, packed. */
async function packed(name: string, options: Partial<PackOptions>): Promise<string> {
  let source = sources.get(name);
  if (!source) sources.set(name, source = prune(name));
  const { quant = "q8", ffnQuant = quant, keepZeros = false } = options;
  const target = folder.file(`${name}-${quant}-${ffnQuant}-${keepZeros}.flash`);
  await pack({ source, target, quant, createdAt: "2026-01-01", ...options });
  return target;
}

const IDS = [1, 5, 9, 30, 200, 17, 3, 40, 41, 42, 43, 44];

async function logitsOf(path: string, options: OpenOptions): Promise<Float32Array> {
  await using model = await open(path, { lanes: 2, readers: 2, kv: "f32", ...options });
  return await model.logits(IDS);
}

/** Neurons as a stream and in slots, one position at a time (an audit wants that) and several, one lane and two. */
const WAYS: [string, PrunableQuantization, OpenOptions[]][] = [
  ["opt", "f16", [
    { ffn: "dense", ffnCache: 0, promptChunk: 1, lanes: 1 },
    { ffn: "exact", ffnCache: "10%" },
  ]],
  ["opt", "q8", [
    { ffn: "dense", ffnCache: 0 },
    { ffn: "predicted", ffnCache: "5%", audit: true },
  ]],
  ["llama_relu", "f16", [
    { ffn: "exact", ffnCache: "50%", promptChunk: 1, lanes: 1 },
    { ffn: "predicted", ffnCache: "20%" },
  ]],
  ["llama_relu", "q8", [
    { ffn: "dense", ffnCache: "100%" },
    { ffn: "predicted", ffnCache: "5%", promptChunk: 1 },
  ]],
];

for (const [name, quant, ways] of WAYS) {
  test(`A pruned ${name} in ${quant} takes less room, and has the logits of one with its zeros`, async () => {
    const sparse = await packed(name, { quant });
    const plain = await packed(name, { quant, keepZeros: true });
    using file = FlashFile.open(sparse);
    using whole = FlashFile.open(plain);
    assert.equal(whole.header.ffnCapacities, undefined);
    const bytesOf = ({ header }: FlashFile) => header.layers[0].bundles.bundleByteLength;
    assert.ok(bytesOf(file) < 0.8 * bytesOf(whole), `${bytesOf(file)}, ${bytesOf(whole)} bytes`);
    assert.ok(file.byteLength < whole.byteLength);
    for (const path of [sparse, plain]) addPredictors(path);
    const answers: Record<string, Promise<Float32Array>> = {};
    for (const way of ways) {
      const ffn = way.ffn === "predicted" ? "predicted" : "dense"; // `exact` gives what `dense` gives.
      const expected = await (answers[ffn] ??= logitsOf(plain, { ffn, ffnCache: "50%" }));
      assert.deepEqual(await logitsOf(sparse, way), expected, JSON.stringify(way));
    }
  });
}

test("Experts that are pruned have the logits of those with their zeros, wherever neurons lie", async () => {
  const options = { quant: "q8", ffnQuant: "f16" } as const;
  const sparse = await packed("mixtral_relu", options);
  const plain = await packed("mixtral_relu", { ...options, keepZeros: true });
  const expected = await logitsOf(plain, { ffnCache: "30%" });
  assert.deepEqual(await logitsOf(sparse, { ffnCache: "30%" }), expected);
  using file = FlashFile.open(sparse);
  const { layers, config } = file.header, { intermediateSize: n } = config;
  const backwards = new NeuronOrder(Array.from({ length: n }, (_, i) => n - 1 - i));
  await reorderFlash(sparse, layers.map(() => backwards));
  assert.deepEqual(await logitsOf(sparse, { ffnCache: "30%", lanes: 1 }), expected);
});

test("What fits predictors and what looks again read the same of both", async () => {
  const quant = "q8";
  const paths = [
    await packed("llama_relu", { quant }),
    await packed("llama_relu", { quant, keepZeros: true }),
  ];
  const [sparse, plain] = paths.map((path) => {
    using file = FlashFile.open(path);
    const forward = new LayerForward(file, loadKernelModule(), {
      positionsMax: 12,
      chunkLengthMax: 12,
    });
    forward.embed([IDS]);
    forward.run(0, [IDS.length]);
    const looks = new ReplayedLooks(file);
    looks.lookExactly(1, { ffnInput: forward.ffnInput.slice(0, file.header.config.hiddenSize) });
    return [forward.residual.slice(), looks.activations.slice()];
  });
  assert.deepEqual(sparse, plain);
});

test("pack() keeps the zeros of what is not pruned, and of other kinds of numbers", async () => {
  const source = fileURLToPath(new URL("./fixtures/opt/", import.meta.url));
  const { header } = await pack({ source, target: folder.file("whole.flash"), quant: "q8" });
  assert.equal(header.ffnCapacities, undefined);
  using file = FlashFile.open(await packed("opt", { quant: "q4" }));
  assert.equal(file.header.ffnCapacities, undefined);
});

test("inspect() says that zeros are left out, and compares checksums", async () => {
  const path = await packed("opt", { quant: "q8" });
  const found = await inspect(path, { verify: true });
  assert.equal(found.checksums?.ok, true);
  assert.equal(found.bundleByteLengthWithZeros, 136);
  assert.match(renderInspection(found), /bytes a neuron, without zeros: \d+\.\d % of 136/);
  await assert.rejects(open(path, { ffn: "exact", unbundled: true }), /--keep-zeros/);
});

const BAD_CAPACITIES: [string, (header: FlashHeader) => Partial<FlashHeader>, RegExp][] = [
  [
    "an odd one",
    () => ({ ffnCapacities: [21, 20] }),
    /ffnCapacities.*21 is no even number|21 is no even.*ffnCapacities/,
  ],
  [
    "one beyond the hidden size",
    () => ({ ffnCapacities: [20, 66] }),
    /66 is no even number up to 64/,
  ],
  ["one too many", () => ({ ffnCapacities: [20, 20, 20] }), /3 capacities, expected 2/],
  ["a single one", () => ({ ffnCapacities: [20] }), /ffnCapacities/],
  ["a negative one", () => ({ ffnCapacities: [-2, 20] }), /ffnCapacities/],
  [
    "others than the bundles have",
    ({ ffnCapacities }) => ({ ffnCapacities: ffnCapacities!.map((capacity) => capacity - 2) }),
    /bundleByteLength/,
  ],
  ["none", () => ({ ffnCapacities: undefined }), /bundleByteLength|ffnCapacities/],
  ["those of q4", () => ({ ffnQuantization: "q4" }), /bundles of q4 have none/],
];

test("FlashFile.open() refuses capacities that do not fit", async () => {
  const path = await packed("opt", { quant: "f16" });
  using file = FlashFile.open(path);
  for (const [name, change, message] of BAD_CAPACITIES) {
    const bad = { ...file.header, ...change(file.header) };
    assert.throws(() => updateFlash(path, () => bad), message, name);
  }
});
