import { FlashFile } from "../../src/format/flash_file.ts";
import type { FlashHeader } from "../../src/format/header.ts";
import type { OpenOptions } from "../../src/open.ts";
import { ffnByteLength } from "../../src/plan.ts";

/** A rung: a file, and how it is opened. */
export interface LadderRow {
  name: string;
  modelPath: string;
  open: OpenOptions;
  /** Rows of one group must generate the same ids. */
  group: string;
}

/** What the engine may have. */
export type Budget = Pick<OpenOptions, "memory"> | Pick<OpenOptions, "ffnCache">;

/** The paper's: k = 4 to 5 (section 3.1.1). */
const WINDOW = 5;

/** What a process takes beside model, slots and KV cache: 150 to 250 MiB. */
const PROCESS_BYTES = 256 << 20;

/** Slots over the neurons that a layer predicts on average: what `divideAmongLayers` gives before all else. */
const SLOTS_PER_LIST = 1.4;

/** The rows of a ladder, in its order. `files[0]` is what all rungs but the last run on; `ordered` is the same model, reordered. */
export function ladderRows(
  { files, ordered, budget }: { files: readonly string[]; ordered?: string; budget?: Budget },
): LadderRow[] {
  const [modelPath, ...others] = files, header = headerOf(modelPath);
  if (!header.predictors) {
    throw new RangeError(`Cannot climb with ${modelPath} as it has no predictors: calibrate it`);
  }
  const within = budget ?? { memory: halfOf(header) };
  const listShare = SLOTS_PER_LIST * mean(header.predictors.layers.map((l) => l.predictedShare));
  const dense = (name: string, open: OpenOptions): LadderRow => ({
    name,
    modelPath,
    open: { ffn: "dense", ...open },
    group: "dense",
  });
  const sparse = (name: string, open: OpenOptions, path = modelPath): LadderRow => ({
    name,
    modelPath: path,
    open: { ffn: "predicted", ...open },
    group: path === ordered ? modelPath : path,
  });
  const apart = { unbundled: true, prefetch: false };
  const rows = [
    dense("naive", { naive: true }),
    dense("hybrid", within),
    sparse("+ predictor", { ffnCache: Math.min(1, listShare), window: 0, ...apart }),
    sparse("+ windowing", { ...within, window: WINDOW, ...apart }),
    sparse("+ bundling", { ...within, window: WINDOW, prefetch: false }),
    sparse("+ cache by frequency", { ...within, prefetch: false }),
    sparse("+ overlap", within),
  ];
  if (ordered !== undefined) rows.push(sparse("+ neuron order", within, ordered));
  for (const path of others) rows.push(sparse(`+ ${kindOf(headerOf(path))}`, within, path));
  return rows;
}

/** Half of the model, and room for runtime, threads and activations. */
export function halfOf(header: FlashHeader): number {
  return Math.round(modelByteLength(header) / 2) + PROCESS_BYTES;
}

/** Weights and bundles. */
export function modelByteLength(header: FlashHeader): number {
  const weights = header.tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
  return weights + ffnByteLength(header);
}

/** How a file's numbers are stored: "q8", or "q8, bundles q4". */
export function kindOf({ quantization, ffnQuantization }: FlashHeader): string {
  if (quantization === ffnQuantization) return quantization;
  return `${quantization}, bundles ${ffnQuantization}`;
}

export function headerOf(path: string): FlashHeader {
  using file = FlashFile.open(path);
  return file.header;
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
