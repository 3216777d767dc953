import { basename } from "node:path";
import { documentsOf } from "../documents.ts";
import { FlashFile } from "../format/flash_file.ts";
import { isReordered } from "../format/header.ts";
import { NeuronOrder } from "../format/neuron_order.ts";
import { magnitudeCuts } from "../magnitude_cuts.ts";
import { open } from "../open.ts";
import type { OpenOptions } from "../open_options.ts";
import { ReplayedLooks } from "../predict/replayed_looks.ts";
import { VERSION } from "../version.ts";
import { NeuronTrace } from "./neuron_trace.ts";
import type { SetName, TraceHeader } from "./trace_format.ts";
import { TraceWriter } from "./trace_writer.ts";

/** What to record. */
export interface RecordOptions {
  path: string;
  /** Text whose documents end with `<|endoftext|>`, or the ids of documents. */
  text: string | readonly (readonly number[])[];
  textName: string;
  /** Stop after so many tokens. */
  tokensMax: number;
  /** Gets the trace's bytes in order. */
  write: (bytes: Uint8Array) => void;
  onProgress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
  /** How the model is opened; no option changes what is recorded, but for `ffn` and `sparsity`. */
  open?: OpenOptions;
}

/**
 * Runs a text through the model and records which neurons each layer of each token used: those active, and with predictors
 * (or a router, whose experts' neurons they are) those that the late and the early look named. Returns how many tokens there were.
 */
export async function recordTrace(options: RecordOptions): Promise<number> {
  const { path, signal, onProgress, tokensMax } = options;
  using file = FlashFile.open(path);
  const { predictors, config } = file.header;
  await using model = await open(path, {
    ffn: predictors ? "predicted" : config.experts ? undefined : "dense",
    // In chunks that stream: a large model reads its layers once for many positions.
    promptChunk: 32,
    logitsRows: 64,
    ...options.open,
    observations: true,
    signal,
  });
  const { ffn, sparsity } = options.open ?? {};
  const cut = ffn === "magnitude" ? magnitudeCuts(file.header, sparsity, path) : undefined;
  const looks = new ReplayedLooks(file, { build: model.build, cuts: cut?.cuts });
  const looksAhead = predictors !== null || model.plan.mode === "routed";
  const sets: SetName[] = looksAhead ? ["active", "predicted", "early"] : ["active"];
  const header = headerOf(file, { sets, mode: model.plan.mode, textName: options.textName });
  const writer = new TraceWriter(
    { ...header, blockByteLength: model.disk.blockByteLength },
    options.write,
  );
  const documents = typeof options.text === "string"
    ? documentsOf(options.text).map((document) => model.encode(document))
    : options.text;
  const available = documents.reduce((sum, ids) => sum + ids.length, 0);
  const total = Math.min(tokensMax, available);
  for (const ids of documents) {
    for (let at = 0; at < ids.length; at += model.contextLength) {
      const left = total - writer.tokenCount;
      if (left === 0) break;
      writer.begin(at === 0 ? "document" : "chunk");
      const end = Math.min(ids.length, at + model.contextLength, at + left);
      await model.eachObservation(ids.slice(at, end), (layers) => {
        writer.beginToken();
        for (const [layer, observation] of layers.entries()) {
          looks.lookExactly(layer, observation);
          // Where nothing else names neurons, those count that `exact` reads.
          writer.addSet(looksAhead ? looks.active : looks.gates);
          if (!looksAhead) continue;
          looks.lookLate(layer, observation);
          writer.addSet(looks.predicted);
          looks.lookEarly(layer, observation);
          writer.addSet(looks.early);
        }
        if (writer.tokenCount % 16 === 0) onProgress?.({ done: writer.tokenCount, total });
      }, signal);
    }
  }
  if (writer.tokenCount === 0) throw new RangeError("Cannot record a trace of an empty text");
  writer.finish();
  return writer.tokenCount;
}

/** Records a trace and reads it again, all in memory: three sets of n bits a layer and token (see `recordTrace`). */
export async function traceInMemory(options: Omit<RecordOptions, "write">): Promise<NeuronTrace> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  await recordTrace({ ...options, write: (bytes) => parts.push(bytes.slice()) });
  return NeuronTrace.parse(new Uint8Array(await new Blob(parts).arrayBuffer()), "the trace");
}

function headerOf(
  { path, header }: FlashFile,
  facts: Pick<TraceHeader, "sets" | "mode" | "textName">,
): Omit<TraceHeader, "blockByteLength"> {
  const { config, layers, predictors, ffnQuantization, ffnCapacities } = header;
  return {
    createdBy: `flashpipe ${VERSION}`,
    modelName: basename(path),
    ...facts,
    numLayers: config.numLayers,
    intermediateSize: config.intermediateSize,
    hiddenSize: config.hiddenSize,
    quantization: ffnQuantization,
    ...(ffnCapacities ? { capacities: ffnCapacities } : {}),
    strideBytes: layers[0].bundles.bundleByteLength,
    layerByteOffsets: layers.map(({ bundles }) => bundles.byteOffset),
    orders: isReordered(header)
      ? layers.map(({ bundles }) => [...NeuronOrder.of(bundles).neuronAt])
      : [],
    missCurves: predictors?.missCurves ?? [],
    predictedShares: predictors?.layers.map(({ predictedShare }) => predictedShare) ?? [],
  };
}
