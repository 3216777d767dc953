import { crc32 } from "node:zlib";
import { openDisk, readFully } from "./flash/disk.ts";
import type { DiskFacts } from "./flash/bypass.ts";
import type { FlashDisk } from "./flash/disk.ts";
import { ModelFileError } from "./errors.ts";
import { alignUp } from "./format/align.ts";
import type { FlashHeader, StoredTensor } from "./format/header.ts";
import { predictorTensors, SECTION_ALIGNMENT } from "./format/header.ts";
import { matrixByteLength, vectorByteLength } from "./format/layout.ts";
import { NeuronOrder } from "./format/neuron_order.ts";
import { tileRows } from "./format/quantize.ts";
import type { LayerWeights, ModelWeights } from "./pipeline/options.ts";
import type { Plan } from "./plan.ts";
import { locatePredictor } from "./predict/layer_predictor.ts";

/** Bytes read at a time while loading. */
const LOAD_BYTES = 1 << 20;

/** Tells how far loading is, in bytes. */
export type LoadProgress = (progress: { doneBytes: number; totalBytes: number }) => void;

/**
 * Fills the arena with what must be resident: weights and predictors (checksums compared), the up projections for `exact`, and
 * all bundles if everything fits. Reads past the cache of the system, like the readers.
 */
export async function loadArena(
  memory: WebAssembly.Memory,
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
  const loader = new Loader(new Uint8Array(memory.buffer), path, disk.direct);
  const bundleBytes = header.layers.reduce((sum, { bundles }) => {
    return sum + bundles.count * bundles.bundleByteLength;
  }, 0);
  const passes = (plan.shape.hasResidentUp ? 1 : 0) + (plan.isResident ? 1 : 0);
  const sectionBytes = plan.shape.sections.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const totalBytes = sectionBytes + passes * bundleBytes;
  let doneBytes = 0;
  const step = async (byteLength: number) => {
    signal?.throwIfAborted();
    doneBytes += byteLength;
    onProgress?.({ doneBytes, totalBytes });
    // Lets timers, signals and progress bars have their turn.
    await new Promise((resolve) => setTimeout(resolve, 0));
  };
  try {
    for (const [index, section] of plan.shape.sections.entries()) {
      await loader.loadSection(section, plan.arena.sections[index], step);
    }
    verifyTensors(new Uint8Array(memory.buffer), path, header, plan);
    if (recallShifts) shiftBiases(memory.buffer, header, plan, recallShifts);
    for (let layer = 0; layer < header.layers.length; layer++) {
      if (plan.shape.hasResidentUp) await loader.loadUp(header, plan, layer, step);
      if (plan.isResident) await loader.loadBundles(header, plan, layer, step);
    }
  } finally {
    loader.close();
  }
}

type Step = (byteLength: number) => Promise<void>;

/** Reads the file in large direct reads, through a buffer of its own where alignment asks for it. */
class Loader {
  readonly #bytes: Uint8Array;
  readonly #path: string;
  readonly #disk: FlashDisk;
  readonly #buffer = new Uint8Array(
    new WebAssembly.Memory({ initial: (LOAD_BYTES + 2 * SECTION_ALIGNMENT) / 65536 + 1 }).buffer,
  );

  constructor(bytes: Uint8Array, path: string, direct: boolean) {
    this.#bytes = bytes;
    this.#path = path;
    this.#disk = openDisk({ path, direct });
  }

  close(): void {
    this.#disk.close();
  }

  /** The section lies in the arena with the same offset in its page, so its pages are read in place. */
  async loadSection(section: Range, address: number, step: Step): Promise<void> {
    const phase = section.byteOffset % SECTION_ALIGNMENT;
    const begin = section.byteOffset - phase;
    const end = alignUp(section.byteOffset + section.byteLength, SECTION_ALIGNMENT);
    for (let at = begin; at < end; at += LOAD_BYTES) {
      const byteLength = Math.min(LOAD_BYTES, end - at);
      const target = address - phase + (at - begin);
      readFully(this.#disk, this.#path, this.#bytes.subarray(target, target + byteLength), at);
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

  /** Takes the up rows out of the bundles and tiles them as a matrix, for `exact`. */
  async loadUp(header: FlashHeader, plan: Plan, layer: number, step: Step): Promise<void> {
    const { ffnQuantization, config } = header;
    const cols = config.hiddenSize;
    const rowBytes = vectorByteLength(ffnQuantization, cols);
    const stride = header.layers[layer].bundles.bundleByteLength;
    const at = plan.arena.residentUp[layer];
    const matrixBytes = matrixByteLength(ffnQuantization, config.intermediateSize, cols);
    const tiles = this.#bytes.subarray(at, at + matrixBytes);
    await this.#eachRun(header, layer, step, (run, neurons) => {
      const count = neurons.length;
      const rows = new Uint8Array(count * rowBytes);
      for (let i = 0; i < count; i++) {
        rows.set(run.subarray(i * stride, i * stride + rowBytes), i * rowBytes);
      }
      tileRows(ffnQuantization, rows, { rows: count, cols }, tiles, neurons);
    });
  }

  /** Puts every neuron's record into the slot of its number. */
  async loadBundles(header: FlashHeader, plan: Plan, layer: number, step: Step): Promise<void> {
    const { byteOffset, bundleByteLength: stride } = header.layers[layer].bundles;
    const { record } = plan, slotBytes = plan.shape.slotByteLength;
    await this.#eachRun(header, layer, step, (run, neurons, first) => {
      for (let i = 0; i < neurons.length; i++) {
        const phase = (byteOffset + (first + i) * stride + record.offset) % plan.blockByteLength;
        const from = i * stride + record.offset;
        const target = plan.arena.slots[layer] + neurons[i] * slotBytes + phase;
        this.#bytes.set(run.subarray(from, from + record.byteLength), target);
      }
    });
  }
}

interface Range {
  byteOffset: number;
  byteLength: number;
}

/** Compares every resident tensor with its checksum; throws `ModelFileError` naming the first that differs. */
function verifyTensors(bytes: Uint8Array, path: string, header: FlashHeader, plan: Plan): void {
  const tensors: [string, StoredTensor][] = header.tensors.map((tensor) => [tensor.name, tensor]);
  for (const [index, layer] of (header.predictors?.layers ?? []).entries()) {
    for (const [name, tensor] of predictorTensors(layer)) {
      tensors.push([`predictors.layers.${index}.${name}`, tensor]);
    }
  }
  for (const [field, { byteOffset, byteLength, checksum }] of tensors) {
    const address = addressOf(plan, byteOffset);
    if (crc32(bytes.subarray(address, address + byteLength)) === checksum) continue;
    throw new ModelFileError("its bytes do not match their checksum", { path, field, byteOffset });
  }
}

/** Moves the thresholds of both looks; in memory only, after checksums were compared. */
function shiftBiases(
  buffer: ArrayBufferLike,
  { predictors, config }: FlashHeader,
  plan: Plan,
  shifts: readonly number[],
): void {
  for (const [layer, { bias, earlyBias }] of predictors!.layers.entries()) {
    for (const { byteOffset } of [bias, earlyBias]) {
      const address = addressOf(plan, byteOffset);
      const values = new Float32Array(buffer, address, config.intermediateSize);
      for (let neuron = 0; neuron < values.length; neuron++) values[neuron] += shifts[layer];
    }
  }
}

/** Where a byte of a resident section lies in the arena. */
function addressOf(plan: Plan, byteOffset: number): number {
  const index = plan.shape.sections.findIndex((section) =>
    byteOffset >= section.byteOffset && byteOffset < section.byteOffset + section.byteLength
  );
  return plan.arena.sections[index] + byteOffset - plan.shape.sections[index].byteOffset;
}

/** Addresses of all resident weights, by name. */
export function locateWeights(header: FlashHeader, plan: Plan): ModelWeights {
  const tensors = new Map(header.tensors.map((tensor) => [tensor.name, tensor]));
  const at = (name: string) => addressOf(plan, tensors.get(name)!.byteOffset);
  const pair = (name: string) => ({ weight: at(`${name}.weight`), bias: at(`${name}.bias`) });
  const layer = (index: number): LayerWeights => {
    const prefix = `layers.${index}`;
    const predictor = header.predictors?.layers[index];
    return {
      attentionNorm: pair(`${prefix}.attentionNorm`),
      query: pair(`${prefix}.attention.query`),
      key: pair(`${prefix}.attention.key`),
      value: pair(`${prefix}.attention.value`),
      output: pair(`${prefix}.attention.output`),
      ffnNorm: pair(`${prefix}.ffnNorm`),
      upBias: at(`${prefix}.ffn.up.bias`),
      downBias: at(`${prefix}.ffn.down.bias`),
      predictor: predictor
        ? locatePredictor(predictor, ({ byteOffset }) => addressOf(plan, byteOffset))
        : null,
    };
  };
  const positions = tensors.get("embedPositions")!;
  return {
    embedTokens: at("embedTokens"),
    embedPositions: {
      address: at("embedPositions"),
      dtype: positions.dtype === "f32" ? "f32" : "f16",
      rows: positions.shape[0],
    },
    finalNorm: pair("finalNorm"),
    output: at(header.config.tiedEmbedding ? "embedTokens" : "lmHead"),
    layers: Array.from({ length: header.config.numLayers }, (_, index) => layer(index)),
  };
}
