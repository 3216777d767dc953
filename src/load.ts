import { crc32 } from "node:zlib";
import { openDisk, readFully } from "./flash/disk.ts";
import type { DiskFacts } from "./flash/bypass.ts";
import type { FlashDisk } from "./flash/disk.ts";
import { ModelFileError } from "./errors.ts";
import { alignUp } from "./format/align.ts";
import type { FlashHeader, StoredTensor } from "./format/header.ts";
import { bundleFormOf, predictorTensors, SECTION_ALIGNMENT } from "./format/header.ts";
import { matrixByteLength, vectorByteLength } from "./format/layout.ts";
import { NeuronOrder } from "./format/neuron_order.ts";
import { tileRows } from "./format/quantize.ts";
import { takeVectors } from "./format/sparse_vectors.ts";
import type { LayerWeights, ModelWeights } from "./pipeline/options.ts";
import type { LayerPlan, Section } from "./arena.ts";
import type { Plan } from "./plan.ts";
import { routerAt } from "./predict/router_look.ts";
import { locatePredictor } from "./predict/layer_predictor.ts";

/** Bytes read at a time while loading. */
const LOAD_BYTES = 1 << 20;

/** Tells how far loading is, in bytes. */
export type LoadProgress = (progress: { doneBytes: number; totalBytes: number }) => void;

/**
 * Fills the arenas with what must be resident: weights and predictors (checksums compared), the up projections for `exact`, and
 * the bundles of layers that stay in memory. Reads past the cache of the system, like the readers.
 */
export async function loadArenas(
  memories: WebAssembly.Memory[],
  { path, header, plan, disk, recallShifts = null }: {
    path: string;
    header: FlashHeader;
    plan: Plan;
    disk: DiskFacts;
    /** Added to each layer's biases; null for none. */
    recallShifts?: readonly number[] | null;
  },
  { onProgress, signal }: { onProgress?: LoadProgress; signal?: AbortSignal } = {},
): Promise<void> {
  const places = new Places(plan);
  const bytes = memories.map(({ buffer }) => new Uint8Array(buffer));
  const loader = new Loader(bytes, path, disk.direct);
  const { residentLayers, shape: { hasResidentUp } } = plan;
  const bundleBytes = header.layers.reduce((sum, { bundles }, layer) => {
    const passes = (hasResidentUp ? 1 : 0) + (residentLayers[layer] ? 1 : 0);
    return sum + passes * bundles.count * bundles.bundleByteLength;
  }, 0);
  const sections = plan.arenas.flatMap((arena, index) =>
    arena.sections.map((section) => ({ ...section, arena: index }))
  );
  const sectionBytes = sections.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const totalBytes = sectionBytes + bundleBytes;
  let doneBytes = 0;
  const step = async (byteLength: number) => {
    signal?.throwIfAborted();
    doneBytes += byteLength;
    onProgress?.({ doneBytes, totalBytes });
    // Lets timers, signals and progress bars have their turn.
    await new Promise((resolve) => setTimeout(resolve, 0));
  };
  try {
    for (const section of sections) await loader.loadSection(section, step);
    verifyTensors(bytes, path, header, places);
    if (recallShifts) shiftBiases(bytes, header, places, recallShifts);
    for (let layer = 0; layer < header.layers.length; layer++) {
      if (hasResidentUp) await loader.loadUp(header, plan, layer, step);
      if (residentLayers[layer]) await loader.loadBundles(header, plan, layer, step);
    }
  } finally {
    loader.close();
  }
}

type Step = (byteLength: number) => Promise<void>;

/** Reads the file in large direct reads, through a buffer of its own where alignment asks for it. */
class Loader {
  /** All of each arena. */
  readonly #arenas: Uint8Array[];
  readonly #path: string;
  readonly #disk: FlashDisk;
  readonly #buffer = new Uint8Array(
    new WebAssembly.Memory({ initial: (LOAD_BYTES + 2 * SECTION_ALIGNMENT) / 65536 + 1 }).buffer,
  );

  constructor(arenas: Uint8Array[], path: string, direct: boolean) {
    this.#arenas = arenas;
    this.#path = path;
    this.#disk = openDisk({ path, direct });
  }

  close(): void {
    this.#disk.close();
  }

  /** The section lies in the arena with the same offset in its page, so its pages are read in place. */
  async loadSection(
    section: Section & { arena: number; address: number },
    step: Step,
  ): Promise<void> {
    const bytes = this.#arenas[section.arena], { address } = section;
    const phase = section.byteOffset % SECTION_ALIGNMENT;
    const begin = section.byteOffset - phase;
    const end = alignUp(section.byteOffset + section.byteLength, SECTION_ALIGNMENT);
    for (let at = begin; at < end; at += LOAD_BYTES) {
      const byteLength = Math.min(LOAD_BYTES, end - at);
      const target = address - phase + (at - begin);
      readFully(this.#disk, this.#path, bytes.subarray(target, target + byteLength), at);
      await step(Math.min(byteLength, section.byteLength));
    }
  }

  /** Hands bundles of a layer out in runs, as they lie in the file, with the neurons of each. */
  async #eachRun(
    header: FlashHeader,
    layer: number,
    step: Step,
    use: (run: Uint8Array, neurons: Int32Array, first: number) => void,
  ): Promise<void> {
    const { bundles } = header.layers[layer], { neuronAt } = NeuronOrder.of(bundles);
    const { byteOffset, bundleByteLength, count } = bundles;
    const perRun = Math.max(8, Math.floor(LOAD_BYTES / bundleByteLength / 8) * 8);
    for (let first = 0; first < count; first += perRun) {
      const neurons = Math.min(perRun, count - first);
      const from = byteOffset + first * bundleByteLength;
      const begin = Math.floor(from / SECTION_ALIGNMENT) * SECTION_ALIGNMENT;
      const end = alignUp(from + neurons * bundleByteLength, SECTION_ALIGNMENT);
      const target = this.#bufferOf(end - begin);
      readFully(this.#disk, this.#path, target, begin);
      const run = target.subarray(from - begin, from - begin + neurons * bundleByteLength);
      use(run, neuronAt.subarray(first, first + neurons), first);
      await step(neurons * bundleByteLength);
    }
  }

  #large?: Uint8Array;

  #bufferOf(byteLength: number): Uint8Array {
    if (byteLength <= this.#buffer.length) return this.#buffer.subarray(0, byteLength);
    if (!this.#large || this.#large.length < byteLength) {
      const initial = Math.ceil(byteLength / 65536);
      this.#large = new Uint8Array(new WebAssembly.Memory({ initial }).buffer);
    }
    return this.#large.subarray(0, byteLength);
  }

  #rows = new Uint8Array(0);

  /** One buffer for all runs: garbage of a model's size would lie about for a while, and count against the ceiling. */
  #rowsOf(byteLength: number): Uint8Array {
    if (this.#rows.length < byteLength) this.#rows = new Uint8Array(byteLength);
    return this.#rows.subarray(0, byteLength);
  }

  /** Takes the up rows out of the bundles and tiles them as a matrix, for `exact`. */
  async loadUp(header: FlashHeader, plan: Plan, layer: number, step: Step): Promise<void> {
    const { ffnQuantization, config } = header, form = bundleFormOf(header);
    const cols = config.hiddenSize;
    const rowBytes = vectorByteLength(ffnQuantization, cols);
    const { arena, layerPlan } = layerPlaceOf(plan, layer), at = layerPlan.residentUp;
    const matrixBytes = matrixByteLength(ffnQuantization, config.intermediateSize, cols);
    const tiles = this.#arenas[arena].subarray(at, at + matrixBytes);
    await this.#eachRun(header, layer, step, (run, neurons) => {
      const count = neurons.length, rows = this.#rowsOf(count * rowBytes);
      takeVectors(form, run, { vector: 0, count }, rows);
      tileRows(ffnQuantization, rows, { rows: count, cols }, tiles, neurons);
    });
  }

  /** Puts every neuron's record into the slot of its number. */
  async loadBundles(header: FlashHeader, plan: Plan, layer: number, step: Step): Promise<void> {
    const { byteOffset, bundleByteLength: stride } = header.layers[layer].bundles;
    const { record } = plan, slotBytes = plan.shape.slotByteLength;
    const { arena, layerPlan } = layerPlaceOf(plan, layer), bytes = this.#arenas[arena];
    await this.#eachRun(header, layer, step, (run, neurons, first) => {
      for (let i = 0; i < neurons.length; i++) {
        const phase = (byteOffset + (first + i) * stride + record.offset) % plan.blockByteLength;
        const from = i * stride + record.offset;
        const target = layerPlan.slots + neurons[i] * slotBytes + phase;
        bytes.set(run.subarray(from, from + record.byteLength), target);
      }
    });
  }
}

/** The arena of a layer, and the layer's plan there. */
export function layerPlaceOf(plan: Plan, layer: number): { arena: number; layerPlan: LayerPlan } {
  const arena = plan.arenas.findIndex(({ range }) => layer < range.to);
  const { layers, range } = plan.arenas[arena];
  return { arena, layerPlan: layers[layer - range.from] };
}

/** Where a byte of the file that is resident lies. */
interface Place {
  arena: number;
  address: number;
}

/** Finds the places of resident bytes. */
class Places {
  readonly #sections: (Section & Place)[];

  constructor(plan: Plan) {
    this.#sections = plan.arenas.flatMap(({ sections }, arena) =>
      sections.map((section) => ({ ...section, arena }))
    ).sort((a, b) => a.byteOffset - b.byteOffset);
  }

  of(byteOffset: number): Place {
    const sections = this.#sections;
    let low = 0, high = sections.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (sections[middle].byteOffset <= byteOffset) low = middle;
      else high = middle - 1;
    }
    const { arena, address } = sections[low];
    return { arena, address: address + byteOffset - sections[low].byteOffset };
  }
}

/** Compares every resident tensor with its checksum; throws `ModelFileError` naming the first that differs. */
function verifyTensors(
  arenas: Uint8Array[],
  path: string,
  header: FlashHeader,
  places: Places,
): void {
  const tensors: [string, StoredTensor][] = header.tensors.map((tensor) => [tensor.name, tensor]);
  for (const [index, layer] of (header.predictors?.layers ?? []).entries()) {
    for (const [name, tensor] of predictorTensors(layer)) {
      tensors.push([`predictors.layers.${index}.${name}`, tensor]);
    }
  }
  for (const [field, { byteOffset, byteLength, checksum }] of tensors) {
    const { arena, address } = places.of(byteOffset);
    if (crc32(arenas[arena].subarray(address, address + byteLength)) === checksum) continue;
    throw new ModelFileError("its bytes do not match their checksum", { path, field, byteOffset });
  }
}

/** Moves the thresholds of both looks; in memory only, after checksums were compared. */
function shiftBiases(
  arenas: Uint8Array[],
  { predictors, config }: FlashHeader,
  places: Places,
  shifts: readonly number[],
): void {
  for (const [layer, { bias, earlyBias }] of predictors!.layers.entries()) {
    for (const { byteOffset } of [bias, earlyBias]) {
      const { arena, address } = places.of(byteOffset);
      const values = new Float32Array(arenas[arena].buffer, address, config.intermediateSize);
      for (let neuron = 0; neuron < values.length; neuron++) values[neuron] += shifts[layer];
    }
  }
}

/** Addresses of all resident weights, by name: those of a layer in its arena, the others in the first. */
export function locateWeights(header: FlashHeader, plan: Plan): ModelWeights {
  const tensors = new Map(header.tensors.map((tensor) => [tensor.name, tensor]));
  const places = new Places(plan);
  const at = (name: string) => {
    const tensor = tensors.get(name);
    return tensor ? places.of(tensor.byteOffset).address : 0;
  };
  const pair = (name: string) => ({ weight: at(`${name}.weight`), bias: at(`${name}.bias`) });
  const pairIf = (name: string) => tensors.has(`${name}.weight`) ? pair(name) : null;
  const layer = (index: number): LayerWeights => {
    const prefix = `layers.${index}`;
    const predictor = header.predictors?.layers[index];
    const attentionNorm = pair(`${prefix}.attentionNorm`);
    const router = routerAt(header, at(`${prefix}.ffn.router.weight`));
    return {
      attentionNorm,
      query: pair(`${prefix}.attention.query`),
      key: pair(`${prefix}.attention.key`),
      value: pair(`${prefix}.attention.value`),
      queryNorm: pairIf(`${prefix}.attention.queryNorm`),
      keyNorm: pairIf(`${prefix}.attention.keyNorm`),
      output: pair(`${prefix}.attention.output`),
      attentionOutputNorm: pairIf(`${prefix}.attentionOutputNorm`),
      ffnOutputNorm: pairIf(`${prefix}.ffnOutputNorm`),
      ffnNorm: pairIf(`${prefix}.ffnNorm`) ?? attentionNorm,
      gateBias: at(`${prefix}.ffn.gate.bias`),
      upBias: at(`${prefix}.ffn.up.bias`),
      downBias: at(`${prefix}.ffn.down.bias`),
      predictor: router
        ? { kind: "router", ...router }
        : predictor
        ? locatePredictor(predictor, ({ byteOffset }) => places.of(byteOffset).address)
        : null,
    };
  };
  const positions = tensors.get("embedPositions");
  return {
    embedTokens: at("embedTokens"),
    embedPositions: positions
      ? {
        address: at("embedPositions"),
        dtype: positions.dtype === "f32" ? "f32" : "f16",
        rows: positions.shape[0],
      }
      : null,
    projectIn: at("projectIn"),
    projectOut: at("projectOut"),
    finalNorm: pairIf("finalNorm"),
    output: {
      weight: at(header.config.tiedEmbedding ? "embedTokens" : "lmHead"),
      bias: at("lmHead.bias"),
    },
    layers: Array.from({ length: header.config.numLayers }, (_, index) => layer(index)),
  };
}
