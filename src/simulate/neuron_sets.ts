import { FlashFile } from "../format/flash_file.ts";
import { open } from "../open.ts";
import type { OpenOptions } from "../open_options.ts";
import type { Observation } from "../pipeline/client.ts";
import { ReplayedLooks } from "../predict/replayed_looks.ts";
import { freeBytes } from "../runtime.ts";

/** Masks of one layer, u32[tokens][ceil(n / 32)] each: active neurons, and those that the late and the early look named. */
export interface LayerSets {
  readonly active: Uint32Array;
  readonly predicted: Uint32Array;
  readonly early: Uint32Array;
}

export interface NeuronSetsOptions {
  path: string;
  /** Each begins with an empty KV cache. */
  documents: readonly (readonly number[])[];
  open?: OpenOptions;
  onProgress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** What waits to be looked at again: layer by layer, as up projections may have to be read for each. */
const WAITING_BYTES = 128 << 20;
/** Up projections of all layers are held if they take no more than this, and than a quarter of what is free. */
const HELD_BYTES_MAX = 1 << 30;

/**
 * Runs documents through the engine, `predicted`, and tells which neurons each layer used for each token: as `recordTrace` does,
 * but for models whose up projections do not fit in memory. Throws `RangeError` for a file without predictors.
 */
export async function observeNeuronSets(options: NeuronSetsOptions): Promise<LayerSets[]> {
  const { path, documents, onProgress, signal } = options;
  using file = FlashFile.open(path);
  if (!file.header.predictors) {
    throw new RangeError(`Cannot tell what ${path} predicts as it has no predictors`);
  }
  await using model = await open(path, {
    ...options.open,
    ffn: "predicted",
    observations: true,
    signal,
  });
  const heldBytesMax = Math.min(HELD_BYTES_MAX, freeBytes() / 4);
  const looks = new ReplayedLooks(file, { build: model.build, heldBytesMax });
  const { numLayers, hiddenSize: d, intermediateSize: n } = file.header.config;
  const total = documents.reduce((sum, ids) => sum + ids.length, 0);
  const wordCount = Math.ceil(n / 32), positionLength = 2 * numLayers * d;
  const waitingMax = Math.max(1, Math.min(total, Math.floor(WAITING_BYTES / (4 * positionLength))));
  const waiting = new Float32Array(waitingMax * positionLength);
  const mask = () => new Uint32Array(total * wordCount);
  const sets = Array.from(
    { length: numLayers },
    (): LayerSets => ({ active: mask(), predicted: mask(), early: mask() }),
  );
  let looked = 0, waitingCount = 0;
  const lookAgain = () => {
    for (let layer = 0; layer < numLayers; layer++) {
      for (let index = 0; index < waitingCount; index++) {
        const at = index * positionLength + layer * 2 * d;
        const layerInput = waiting.subarray(at, at + d);
        const ffnInput = waiting.subarray(at + d, at + 2 * d);
        const { active, predicted, early } = sets[layer], word = (looked + index) * wordCount;
        looks.lookExactly(layer, { ffnInput });
        active.set(looks.active, word);
        looks.lookLate(layer, { ffnInput });
        predicted.set(looks.predicted, word);
        looks.lookEarly(layer, { layerInput });
        early.set(looks.early, word);
      }
    }
    looked += waitingCount;
    waitingCount = 0;
  };
  const take = (layers: Observation[]) => {
    layers.forEach(({ layerInput, ffnInput }, layer) => {
      const at = waitingCount * positionLength + layer * 2 * d;
      waiting.set(layerInput, at);
      waiting.set(ffnInput, at + d);
    });
    waitingCount++;
    onProgress?.({ done: looked + waitingCount, total });
    if (waitingCount === waitingMax) lookAgain();
  };
  for (const ids of documents) await model.eachObservation(ids, take, signal);
  lookAgain();
  return sets;
}
