/**
 * What is the largest speed-up that is possible, and where does the engine stand under it? The roofline by bytes: what must come
 * from flash, by the policy that knows what comes, and what must come from memory. The engine is measured beside it, and the
 * cost model is held against the engine.
 */
import { replayedWork, rooflineOf, tokenTime } from "../../src/simulate/cost_model.ts";
import type { Machine, ResidentBytes, TokenWork } from "../../src/simulate/cost_model.ts";
import { MACHINES } from "../../src/simulate/machines.ts";
import { SHAPES } from "../../src/simulate/model_shape.ts";
import type { NeuronTrace } from "../../src/simulate/neuron_trace.ts";
import type { SimulatedRow } from "../../src/simulate/simulate.ts";
import { simulate } from "../../src/simulate/simulate.ts";
import type { Cost } from "../../src/statistics.ts";
import { median } from "../median.ts";
import { benchTokens } from "../tokens.ts";
import { figure, milliseconds, percent } from "./table.ts";
import type { Table } from "./table.ts";
import type { Workbench } from "./workbench.ts";
import { halfMemory, OPT_175B_Q8 } from "./workloads.ts";

const CACHE_SHARE = 0.2;
const NOTHING_HIDES = { earlyShare: 0, overlapsHits: false };
const CACHE_SHARES = [0.1, 0.2, 0.3, 0.4, 0.6];
const TOKENS_MAX = 256;

/** Bytes and reads that somebody needs for a token. */
export interface LimitRow {
  name: string;
  work: TokenWork;
}

/**
 * What must be read with so many slots: by the engine; by MIN with the engine's slots and its own; and if prediction were
 * perfect, so that only active neurons were listed.
 */
export function limitsOf(
  trace: NeuronTrace,
  { resident, cacheShare }: { resident: ResidentBytes; cacheShare: number },
): LimitRow[] {
  const options = { cacheShares: [cacheShare] };
  const rows: LimitRow[] = [];
  const add = (prefix: string, trace: NeuronTrace, row: SimulatedRow) =>
    rows.push({ name: `${prefix}${row.policy}`, work: workOfRow(trace, row, resident) });
  const policies = ["frequency", "belady", "belady-divided"] as const;
  for (const row of simulate(trace, { ...options, policies })) add("", trace, row);
  if (!trace.has("predicted")) return rows;
  const perfect = trace.perfectlyPredicted();
  for (const row of simulate(perfect, { ...options, policies })) {
    add("perfect prediction, ", perfect, row);
  }
  return rows;
}

function workOfRow(trace: NeuronTrace, row: SimulatedRow, resident: ResidentBytes): TokenWork {
  const listed = row.missesPerToken / Math.max(1e-9, 1 - row.hitRate);
  const counts = {
    tokens: 1,
    listed,
    hits: listed - row.missesPerToken,
    reads: row.readsPerToken,
    bytes: row.bytesPerToken,
    earlyStarted: 0,
  };
  return replayedWork(trace, counts, resident);
}

/** A token of the engine, and what the cost model says of the same reads. */
export interface MeasuredRow {
  cacheShare: number;
  work: TokenWork;
  measuredSeconds: number;
  /** If all hides that may, and if nothing does. */
  modelSeconds: number;
  openSeconds: number;
}

/**
 * Measures the engine with caches of several sizes, the largest last, and with everything in memory. The largest, which
 * reads hardly anything, tells what a layer takes.
 */
export async function measureEngine(
  workbench: Workbench,
  cacheShares: readonly number[],
): Promise<{ machine: Machine; rows: MeasuredRow[]; residentSeconds: number }> {
  const { modelPath, repeat } = workbench.options, trace = await workbench.trace();
  const shares = [...cacheShares, 1];
  const results = await benchTokens({
    ways: shares.map((ffnCache) => ({ modelPath, options: { ffnCache } })),
    tokens: Math.min(TOKENS_MAX, workbench.options.tokens),
    repeat,
    prompt: "Once upon a time",
    temperature: 0.7,
    topP: 0.9,
  });
  const measured = results.map(({ runs }, index) => ({
    cacheShare: shares[index],
    work: workOfRuns(trace, runs, workbench.residentBytes()),
    measuredSeconds: median(runs.map(({ msPerToken }) => msPerToken.total)) / 1000,
  }));
  const [largest, resident] = measured.slice(-2);
  const machine = withLayerSeconds(workbench.machine, largest.work, largest.measuredSeconds);
  const rows = measured.slice(0, -1).map((row) => ({
    ...row,
    modelSeconds: tokenTime(row.work, machine).total,
    openSeconds: tokenTime({ ...row.work, ...NOTHING_HIDES }, machine).total,
  }));
  return { machine, rows, residentSeconds: resident.measuredSeconds };
}

/** The machine with the time of a layer that explains a token of this work. */
export function withLayerSeconds(machine: Machine, work: TokenWork, seconds: number): Machine {
  const { total } = tokenTime(work, { ...machine, secondsPerLayer: 0 });
  return { ...machine, secondsPerLayer: Math.max(0, seconds - total) / work.numLayers };
}

function workOfRuns(trace: NeuronTrace, runs: Cost[], resident: ResidentBytes): TokenWork {
  const middle = (pick: (cost: Cost) => number) => median(runs.map(pick));
  const listed = middle(({ neuronsPerToken }) => neuronsPerToken);
  const misses = middle(({ missesPerToken }) => missesPerToken);
  const counts = {
    tokens: 1,
    listed,
    hits: listed - misses,
    reads: middle(({ readsPerToken }) => readsPerToken),
    bytes: middle(({ bytesPerToken }) => bytesPerToken),
    earlyStarted: middle(({ earlyRate }) => earlyRate) * misses,
  };
  return replayedWork(trace, counts, resident);
}

export async function ask(workbench: Workbench): Promise<Table[]> {
  const trace = await workbench.trace(), resident = workbench.residentBytes();
  const { machine, rows, residentSeconds } = await measureEngine(workbench, CACHE_SHARES);
  const engine = rows.find(({ cacheShare }) => cacheShare === CACHE_SHARE)!;
  const { numLayers, intermediateSize, strideBytes } = trace.header;
  const ffnBytes = numLayers * intermediateSize * strideBytes;
  // The naive way on the same machine: all of the FFN in long reads, then a token that has it in memory.
  const naive = ffnBytes / machine.disk.bytesPerSecond + residentSeconds;
  const limits = limitsOf(trace, { resident, cacheShare: CACHE_SHARE });
  return [
    {
      title: `The cost model against the engine, ${machine.name}; a layer's time (${
        figure(1e6 * machine.secondsPerLayer)
      } us) from the last row`,
      head: [
        "cached",
        "reads",
        "KiB",
        "measured, ms",
        "all hides, ms",
        "off by",
        "nothing hides, ms",
        "off by",
      ],
      rows: rows.map(({ cacheShare, work, measuredSeconds, modelSeconds, openSeconds }) => [
        percent(cacheShare),
        figure(work.reads),
        figure(work.readBytes / 1024),
        milliseconds(measuredSeconds),
        ...[modelSeconds, openSeconds].flatMap((seconds) => [
          milliseconds(seconds),
          `${(100 * (seconds / measuredSeconds - 1)).toFixed(0)} %`,
        ]),
      ]),
    },
    limitTable(limits, machine, naive),
    {
      title: "Where the engine stands",
      head: ["", "ms a token", "x over naive"],
      rows: [
        ["naive: the FFN read for each token", milliseconds(naive), "1.00"],
        [
          "engine, a fifth cached",
          milliseconds(engine.measuredSeconds),
          figure(naive / engine.measuredSeconds),
        ],
        [
          "engine, all in memory",
          milliseconds(residentSeconds),
          figure(naive / residentSeconds),
        ],
      ],
    },
    shapeTable([
      halfMemory(SHAPES.opt6_7b, workbench.machine),
      halfMemory(SHAPES.opt6_7b, MACHINES.m1),
      halfMemory(OPT_175B_Q8, workbench.machine),
    ]),
  ];
}

function limitTable(limits: LimitRow[], machine: Machine, naiveSeconds: number): Table {
  return {
    title:
      "Rooflines of a token, a fifth cached, ms: the larger of flash and memory is the limit by bytes",
    head: [
      "lists and policy",
      "KiB",
      "flash",
      "in its reads",
      "memory",
      "limit",
      "x over naive",
      "model",
    ],
    rows: limits.map(({ name, work }) => {
      const { flash, reads, memory, bound } = rooflineOf(work, machine);
      return [
        name,
        figure(work.readBytes / 1024),
        milliseconds(flash),
        milliseconds(reads),
        milliseconds(memory),
        milliseconds(bound),
        figure(naiveSeconds / bound),
        milliseconds(tokenTime(work, machine).total),
      ];
    }),
  };
}

function shapeTable(workloads: ReturnType<typeof halfMemory>[]): Table {
  return {
    title: "Larger shapes, half in memory, ms: all hidden behind the slowest",
    head: ["model", "flash", "in its reads", "memory", "limit", "model", "model over limit"],
    rows: workloads.map(({ name, machine, work }) => {
      const { flash, reads, memory, bound } = rooflineOf(work, machine);
      const { total } = tokenTime(work, machine);
      return [
        `${name}, ${machine.name}`,
        milliseconds(flash),
        milliseconds(reads),
        milliseconds(memory),
        milliseconds(bound),
        milliseconds(total),
        figure(total / bound),
      ];
    }),
  };
}
