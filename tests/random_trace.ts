import { seededRandom } from "../src/random.ts";
import { NeuronTrace } from "../src/simulate/neuron_trace.ts";
import type { SetName, TraceHeader } from "../src/simulate/trace_format.ts";
import { TraceWriter } from "../src/simulate/trace_writer.ts";

/** A trace of random lists: some neurons are hot, some documents are short. */
export interface RandomTrace {
  bytes: Uint8Array;
  header: TraceHeader;
  /** By set: neurons of each token and layer. */
  lists: Record<SetName, number[][][]>;
  documents: number[];
}

export function makeTrace(
  { seed, tokens = 40, numLayers = 2, neurons = 96, share = 0.2, predictors = true }: {
    seed: number;
    tokens?: number;
    numLayers?: number;
    neurons?: number;
    /** Of a layer's neurons in a list, in the mean. */
    share?: number;
    predictors?: boolean;
  },
): RandomTrace {
  const random = seededRandom(seed);
  const sets: SetName[] = predictors ? ["active", "predicted", "early"] : ["active"];
  const header: TraceHeader = {
    createdBy: "tests",
    modelName: "random",
    textName: "none",
    mode: predictors ? "predicted" : "dense",
    sets,
    numLayers,
    intermediateSize: neurons,
    hiddenSize: 64,
    quantization: "f16",
    strideBytes: 256,
    layerByteOffsets: Array.from({ length: numLayers }, (_, layer) => 4096 + layer * 65536),
    orders: [],
    blockByteLength: 512,
    missCurves: [],
    predictedShares: predictors ? new Array(numLayers).fill(share) : [],
  };
  const parts: Uint8Array[] = [], documents: number[] = [];
  const writer = new TraceWriter(header, (bytes) => parts.push(bytes.slice()));
  const lists: RandomTrace["lists"] = { active: [], predicted: [], early: [] };
  for (let token = 0; token < tokens; token++) {
    if (token === 0 || random() < 0.1) {
      writer.begin("document");
      documents.push(token);
    }
    writer.beginToken();
    for (const set of sets) lists[set].push([]);
    for (let layer = 0; layer < numLayers; layer++) {
      for (const set of sets) {
        const density = random() < 0.1 ? 0.9 : share;
        const list = Array.from({ length: neurons }, (_, neuron) => neuron)
          .filter((neuron) => random() < density * 2 * (1 - neuron / neurons));
        lists[set][token].push(list);
        writer.addSet(maskOf(list, neurons));
      }
    }
  }
  writer.finish();
  const bytes = joined(parts);
  return { bytes, header, lists, documents };
}

/** A trace of one layer whose tokens list these neurons, in one document. */
export function traceOfLists(tokens: number[][], { neurons }: { neurons: number }): RandomTrace {
  const { header } = makeTrace({ seed: 0, tokens: 1, numLayers: 1, neurons, predictors: false });
  const parts: Uint8Array[] = [];
  const writer = new TraceWriter(header, (bytes) => parts.push(bytes.slice()));
  writer.begin("document");
  for (const list of tokens) {
    writer.beginToken();
    writer.addSet(maskOf(list, neurons));
  }
  writer.finish();
  const lists = { active: tokens.map((list) => [list]), predicted: [], early: [] };
  return { bytes: joined(parts), header, lists, documents: [0] };
}

export function parseTrace(trace: RandomTrace): NeuronTrace {
  return NeuronTrace.parse(trace.bytes, "random.trace");
}

function maskOf(list: number[], neurons: number): Uint32Array {
  const mask = new Uint32Array(Math.ceil(neurons / 32));
  for (const neuron of list) mask[neuron >> 5] |= 1 << (neuron & 31);
  return mask;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes;
}
