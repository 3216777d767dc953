/**
 * How does the union of neurons grow with the number of sequences that are computed together? Documents of the trace run side
 * by side, a token of each a step; what several want is read once.
 */
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
const CACHE_SHARE = 0.2;

/** Sequences side by side. */
export interface SequencesRow {
  sequences: number;
  steps: number;
  /** Neurons that a step computes, as a share of all: of the trace, and if sequences had nothing in common but how hot a neuron is. */
  unionShare: number;
  independentShare: number;
  /** Neurons that all sequences list together, counting what several want as often, over the union. */
  sharedBy: number;
  /** For one token of one sequence, with the same slots. */
  readsPerToken: number;
  bytesPerToken: number;
  /** Computing the union once a step, by the cost model, s. */
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
  const policy = { name: "frequency", window: Infinity } as const;
  const slotCounts = slotCountsOf(trace, cacheShare);
  return counts.filter((count) => count <= trace.documents.length).map((count) => {
    const union = sideBySide(trace, count), steps = union.tokenCount;
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
      // Weights come from memory once a step, but are multiplied for each sequence.
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
  return new NeuronTrace({ ...header, sets: [trace.listed] }, sets, borders);
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
  const rows = compareSequences({ ...bench, cacheShare: CACHE_SHARE }, COUNTS);
  await workbench.plot("question_sequences", unionPlot(rows));
  const layers = COUNTS.filter((count) => count <= trace.documents.length);
  return [
    {
      title:
        `Sequences side by side, a fifth of the FFN cached (time by the cost model, ${machine.name})`,
      head: [
        "sequences",
        "union",
        "if independent",
        "a neuron shared by",
        "reads a token",
        "KiB a token",
        "ms a step",
        "ms a token",
      ],
      rows: rows.map((row) => [
        `${row.sequences}`,
        percent(row.unionShare),
        percent(row.independentShare),
        figure(row.sharedBy),
        figure(row.readsPerToken),
        figure(row.bytesPerToken / 1024),
        milliseconds(row.stepSeconds),
        milliseconds(row.stepSeconds / row.sequences),
      ]),
    },
    {
      title: "The union by layer",
      head: ["layer", ...layers.map((count) => `${count}`)],
      rows: layerShares(trace, layers).map((shares, layer) => [
        `${layer}`,
        ...shares.map(percent),
      ]),
    },
  ];
}

/** Share of each layer's neurons in the union, by the number of sequences. */
function layerShares(trace: NeuronTrace, counts: readonly number[]): number[][] {
  const { numLayers, intermediateSize } = trace.header;
  const unions = counts.map((count) => sideBySide(trace, count));
  return Array.from({ length: numLayers }, (_, layer) =>
    unions.map((union) => {
      let sum = 0;
      for (let step = 0; step < union.tokenCount; step++) {
        sum += union.neurons(union.listed, step, layer).length;
      }
      return sum / union.tokenCount / intermediateSize;
    }));
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
