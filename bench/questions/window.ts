/**
 * How does a window of k tokens trade memory for loading, and which k is best? With room for all that the window holds; and
 * in a memory that is given, against policies that fill it.
 */
import type { TopLevelSpec } from "vega-lite";
import { replayedWork, tokenTime } from "../../src/simulate/cost_model.ts";
import type { Machine, ResidentBytes } from "../../src/simulate/cost_model.ts";
import type { NeuronTrace } from "../../src/simulate/neuron_trace.ts";
import { replay } from "../../src/simulate/replay.ts";
import type { ReplayOptions } from "../../src/simulate/replay.ts";
import { slotCountsOf, warmupOf } from "../../src/simulate/simulate.ts";
import { figure, mebibytes, milliseconds, percent } from "./table.ts";
import type { Table } from "./table.ts";
import type { Workbench } from "./workbench.ts";

const WINDOWS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32];
const CACHE_SHARES = [0.1, 0.2, 0.4];
const WINDOWS_WITHIN = [1, 2, 4, 8, 16, 32];

/** What a cache costs and saves. */
export interface WindowRow {
  name: string;
  window: number;
  /** As shares of the FFN's neurons. */
  residentShare: number;
  missShare: number;
  readsPerToken: number;
  bytesPerToken: number;
  /** By the cost model, s. */
  tokenSeconds: number;
}

export interface WindowBench {
  trace: NeuronTrace;
  machine: Machine;
  resident: ResidentBytes;
}

/** Windows with room for all. */
export function windowsWithRoom(bench: WindowBench, windows: readonly number[]): WindowRow[] {
  const { numLayers, intermediateSize } = bench.trace.header;
  const slotCounts = new Array(numLayers).fill(intermediateSize);
  return windows.map((window) =>
    rowOf(bench, `${window}`, { slotCounts, policy: { name: "window", window } })
  );
}

/** Windows in a memory for a share of the neurons, and what uses all of it: LRU and decayed frequency. */
export function windowsWithin(
  bench: WindowBench,
  cacheShare: number,
  windows: readonly number[],
): WindowRow[] {
  const slotCounts = slotCountsOf(bench.trace, cacheShare);
  const policies = [
    ...windows.map((window) => ({ name: "window", window } as const)),
    { name: "lru", window: Infinity } as const,
    { name: "frequency", window: Infinity } as const,
  ];
  return policies.map((policy) => {
    const name = policy.name === "window" ? `window ${policy.window}` : policy.name;
    return rowOf(bench, name, { slotCounts, policy });
  });
}

function rowOf(
  { trace, machine, resident }: WindowBench,
  name: string,
  options: Pick<ReplayOptions, "slotCounts" | "policy"> & { policy: { window: number } },
): WindowRow {
  const { numLayers, intermediateSize } = trace.header, neurons = numLayers * intermediateSize;
  const result = replay(trace, { ...options, warmupTokens: warmupOf(trace) });
  const work = replayedWork(trace, result, resident);
  return {
    name,
    window: options.policy.window,
    residentShare: result.residentNeurons / neurons,
    missShare: (result.listed - result.hits) / result.tokens / neurons,
    readsPerToken: work.reads,
    bytesPerToken: work.readBytes,
    tokenSeconds: tokenTime(work, machine).total,
  };
}

export async function ask(workbench: Workbench): Promise<Table[]> {
  const trace = await workbench.trace(), { machine } = workbench;
  const { numLayers, intermediateSize, strideBytes } = trace.header;
  const ffnBytes = numLayers * intermediateSize * strideBytes;
  const bench = { trace, machine, resident: workbench.residentBytes() };
  const curve = windowsWithRoom(bench, WINDOWS);
  await workbench.plot("question_window", windowTimePlot(curve));
  const within = CACHE_SHARES.map((share) => windowsWithin(bench, share, WINDOWS_WITHIN));
  return [
    {
      title:
        `A window of k tokens with room for all that it holds (time by the cost model, ${machine.name})`,
      head: ["k", "in memory", "MiB", "read a token", "reads", "KiB", "ms a token"],
      rows: curve.map((row) => [
        row.name,
        percent(row.residentShare),
        mebibytes(row.residentShare * ffnBytes),
        percent(row.missShare),
        figure(row.readsPerToken),
        figure(row.bytesPerToken / 1024),
        milliseconds(row.tokenSeconds),
      ]),
    },
    {
      title: "The same memory, filled in other ways: reads a token, ms a token",
      head: ["policy", ...CACHE_SHARES.flatMap((share) => [`${percent(share)}: reads`, "ms"])],
      rows: within[0].map(({ name }, index) => [
        name,
        ...within.flatMap((rows) => [
          figure(rows[index].readsPerToken),
          milliseconds(rows[index].tokenSeconds),
        ]),
      ]),
    },
  ];
}

/** Memory against time, a point a window. */
function windowTimePlot(rows: readonly WindowRow[]): TopLevelSpec {
  const values = rows.map(({ window, residentShare, tokenSeconds }) => ({
    window,
    memory: 100 * residentShare,
    ms: 1000 * tokenSeconds,
  }));
  const x = { field: "memory", type: "quantitative", title: "FFN neurons in memory (%)" } as const;
  const y = { field: "ms", type: "quantitative", title: "ms a token" } as const;
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    title: "What a window of k tokens holds, and how long a token takes",
    background: "white",
    width: 420,
    height: 300,
    data: { values },
    layer: [
      { mark: { type: "line", point: true }, encoding: { x, y } },
      {
        mark: { type: "text", dy: -10 },
        encoding: { x, y, text: { field: "window", type: "quantitative" } },
      },
    ],
  };
}
