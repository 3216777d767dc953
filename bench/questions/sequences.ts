/**
 * How does the union of neurons grow with the number of sequences that are computed together? Documents of the trace run side
 * by side, a token of each a step; what several want is read once.
 */
import { missCurve } from "../../src/cache/miss_curve.ts";
import type { MissCurve } from "../../src/cache/miss_curve.ts";
import { DEFAULT_POLICY } from "../../src/cache/policies.ts";
import type { TopLevelSpec } from "vega-lite";
import { replayedWork, tokenTime } from "../../src/simulate/cost_model.ts";
import type { Machine, ResidentBytes } from "../../src/simulate/cost_model.ts";
import { NeuronTrace } from "../../src/simulate/neuron_trace.ts";
import { replay } from "../../src/simulate/replay.ts";
import { slotCountsOf, warmupOf } from "../../src/simulate/simulate.ts";
import { figure, milliseconds, percent } from "./table.ts";
import type { Table } from "./table.ts";
import type { Workbench } from "./workbench.ts";

const COUNTS = [1, 2, 4, 8];
const CACHE_SHARES = [0.2, 0.5];

/** Sequences side by side. */
export interface SequencesRow {
  sequences: number;
  steps: number;
  /** Neurons that a step computes, as a share of all: of the trace, and if sequences had nothing in common but how hot a neuron is. */
  unionShare: number;
  independentShare: number;
  /** Neurons that sequences list, what several want counted as often, over those of the union. */
  sharedBy: number;
  /** For one token of one sequence, with as many slots in all. */
  readsPerToken: number;
  bytesPerToken: number;
  /** By the cost model, s: each weight comes from memory once, and is multiplied for each sequence. */
  stepSeconds: number;
  passesPerList: number;
}

export interface SequencesBench {
  trace: NeuronTrace;
  machine: Machine;
  resident: ResidentBytes;
  cacheShare: number;
}

/** Every number of sequences that the trace has documents for. */
export function compareSequences(
  { trace, machine, resident, cacheShare }: SequencesBench,
  counts: readonly number[],
): SequencesRow[] {
  const { numLayers, intermediateSize } = trace.header, neurons = numLayers * intermediateSize;
  const policy = { name: DEFAULT_POLICY, window: Infinity } as const;
  return counts.filter((count) => count <= trace.documents.length).map((count) => {
    const union = sideBySide(trace, count), steps = union.tokenCount;
    const slotCounts = slotCountsOf(union, cacheShare);
    const result = replay(union, { slotCounts, policy, warmupTokens: warmupOf(union) });
    const work = replayedWork(union, result, resident);
    const unionShare = union.count(union.listed) / steps / neurons;
    const listShare = trace.count(trace.listed) / trace.tokenCount / neurons;
    return {
      sequences: count,
      steps,
      unionShare,
      independentShare: independentUnion(trace, count) / neurons,
      sharedBy: count * listShare / unionShare,
      readsPerToken: work.reads / count,
      bytesPerToken: work.readBytes / count,
      stepSeconds: tokenTime({ ...work, flopsPerByte: count * work.flopsPerByte }, machine).total,
      passesPerList: result.passes / result.tokens / numLayers,
    };
  });
}

/**
 * The trace of `count` sequences at once: a step's lists are the unions of what each sequence lists. Documents are dealt to the
 * sequences in turn, each following the one before; it ends when a sequence has no more.
 */
export function sideBySide(trace: NeuronTrace, count: number): NeuronTrace {
  const { documents, tokenCount, wordCount, header } = trace;
  const sequences: number[][] = Array.from({ length: count }, () => []);
  for (const [index, begin] of documents.entries()) {
    const end = documents[index + 1] ?? tokenCount;
    for (let token = begin; token < end; token++) sequences[index % count].push(token);
  }
  const steps = Math.min(...sequences.map(({ length }) => length));
  const masks = new Uint32Array(steps * header.numLayers * wordCount);
  for (let step = 0, at = 0; step < steps; step++) {
    for (let layer = 0; layer < header.numLayers; layer++, at += wordCount) {
      for (const tokens of sequences) {
        const mask = trace.mask(trace.listed, tokens[step], layer);
        for (let word = 0; word < wordCount; word++) masks[at + word] |= mask[word];
      }
    }
  }
  const sets = new Map([[trace.listed, masks]]);
  const borders = { tokenCount: steps, documents: [0], chunks: [] };
  const union = new NeuronTrace({ ...header, sets: [trace.listed] }, sets, borders);
  // Slots are divided by how long lists are and how they repeat: those of the union, not the model's of one sequence.
  return union.withHeader({ predictedShares: listShares(union), missCurves: curvesOf(union) });
}

/** Misses of each layer by its slots, as calibration finds them. */
function curvesOf(trace: NeuronTrace): MissCurve[] {
  const { tokenCount, listed, wordCount, header: { numLayers, intermediateSize } } = trace;
  return Array.from({ length: numLayers }, (_, layer) => {
    const masks = new Uint32Array(tokenCount * wordCount);
    for (let token = 0; token < tokenCount; token++) {
      masks.set(trace.mask(listed, token, layer), token * wordCount);
    }
    return missCurve({ masks, tokenCount, neuronCount: intermediateSize });
  });
}

/** Share of each layer's neurons that a step lists, in the mean. */
function listShares(trace: NeuronTrace): number[] {
  const { tokenCount, listed, header: { numLayers, intermediateSize } } = trace;
  return Array.from({ length: numLayers }, (_, layer) => {
    let sum = 0;
    for (let token = 0; token < tokenCount; token++) {
      sum += trace.neurons(listed, token, layer).length;
    }
    return sum / tokenCount / intermediateSize;
  });
}

/** Neurons in the union of `count` tokens that were drawn at random from the trace, expected: sum of 1 - (1 - p)^count. */
function independentUnion(trace: NeuronTrace, count: number): number {
  const { header: { numLayers, intermediateSize }, tokenCount, listed } = trace;
  let expected = 0;
  for (let layer = 0; layer < numLayers; layer++) {
    const uses = new Float64Array(intermediateSize);
    for (let token = 0; token < tokenCount; token++) {
      for (const neuron of trace.neurons(listed, token, layer)) uses[neuron]++;
    }
    for (const use of uses) expected += 1 - (1 - use / tokenCount) ** count;
  }
  return expected;
}

export async function ask(workbench: Workbench): Promise<Table[]> {
  const trace = await workbench.trace(), { machine } = workbench;
  const bench = { trace, machine, resident: workbench.residentBytes() };
  const bySize = CACHE_SHARES.map((cacheShare) =>
    compareSequences({ ...bench, cacheShare }, COUNTS)
  );
  await workbench.plot("question_sequences", unionPlot(bySize[0]));
  const counts = bySize[0].map(({ sequences }) => sequences);
  const layers = counts.map((count) => listShares(sideBySide(trace, count)));
  return [
    {
      title: "Neurons that a step of several sequences computes",
      head: ["sequences", "union", "if independent", "a neuron shared by"],
      rows: bySize[0].map((row) => [
        `${row.sequences}`,
        percent(row.unionShare),
        percent(row.independentShare),
        figure(row.sharedBy),
      ]),
    },
    ...bySize.map((rows, index) => costTable(rows, CACHE_SHARES[index], machine)),
    {
      title: "The union by layer",
      head: ["layer", ...counts.map((count) => `${count}`)],
      rows: layers[0].map((_, layer) => [
        `${layer}`,
        ...layers.map((shares) => percent(shares[layer])),
      ]),
    },
  ];
}

function costTable(rows: SequencesRow[], cacheShare: number, { name }: Machine): Table {
  return {
    title: `${percent(cacheShare)} of the FFN cached (time by the cost model, ${name})`,
    head: ["sequences", "reads a token", "KiB a token", "passes a list", "ms a step", "ms a token"],
    rows: rows.map((row) => [
      `${row.sequences}`,
      figure(row.readsPerToken),
      figure(row.bytesPerToken / 1024),
      figure(row.passesPerList),
      milliseconds(row.stepSeconds),
      milliseconds(row.stepSeconds / row.sequences),
    ]),
  };
}

function unionPlot(rows: readonly SequencesRow[]): TopLevelSpec {
  const values = rows.flatMap(({ sequences, unionShare, independentShare }) => [
    { sequences, share: 100 * unionShare, what: "union" },
    { sequences, share: 100 * independentShare, what: "if independent" },
    { sequences, share: 100 * Math.min(1, sequences * rows[0].unionShare), what: "nothing shared" },
  ]);
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    title: "Neurons that a step of several sequences computes",
    background: "white",
    width: 420,
    height: 300,
    data: { values },
    mark: { type: "line", point: true },
    encoding: {
      x: { field: "sequences", type: "quantitative", scale: { type: "log", base: 2 } },
      y: { field: "share", type: "quantitative", title: "FFN neurons (%)" },
      color: { field: "what", type: "nominal", sort: null, title: null },
    },
  };
}
