/** How sensitive is a token's time to each parameter of the cost model? Each is halved and doubled, the others left as they are. */
import { tokenTime } from "../../src/simulate/cost_model.ts";
import type { Machine, TokenWork } from "../../src/simulate/cost_model.ts";
import { MACHINES } from "../../src/simulate/machines.ts";
import { SHAPES } from "../../src/simulate/model_shape.ts";
import type { Table } from "./table.ts";
import { milliseconds } from "./table.ts";
import type { Workbench } from "./workbench.ts";
import { halfMemory, OPT_175B_Q8, replayedWorkload } from "./workloads.ts";
import type { Workload } from "./workloads.ts";

type Change = (workload: Workload, factor: number) => { work: TokenWork; machine: Machine };

const withDisk =
  (change: (disk: Machine["disk"], factor: number) => Machine["disk"]): Change =>
  ({ work, machine }, factor) => ({
    work,
    machine: { ...machine, disk: change(machine.disk, factor) },
  });
const withMachine = (change: (machine: Machine, factor: number) => Machine): Change =>
(
  { work, machine },
  factor,
) => ({ work, machine: change(machine, factor) });
const withWork = (change: (work: TokenWork, factor: number) => TokenWork): Change =>
(
  { work, machine },
  factor,
) => ({ work: change(work, factor), machine });

/** Every parameter that could have been measured wrongly, or changed. */
export const PARAMETERS: Record<string, Change> = {
  "disk: bytes a second": withDisk((disk, by) => ({
    ...disk,
    bytesPerSecond: by * disk.bytesPerSecond,
  })),
  "disk: time of a read": withDisk((disk, by) => ({
    ...disk,
    secondsPerRead: by * disk.secondsPerRead,
  })),
  "disk: latency of the first": withDisk((disk, by) => ({
    ...disk,
    firstReadSeconds: by * disk.firstReadSeconds,
  })),
  "memory: streamed": withMachine((machine, by) => ({
    ...machine,
    memory: { ...machine.memory, bytesPerSecond: by * machine.memory.bytesPerSecond },
  })),
  "memory: sparse": withMachine((machine, by) => ({
    ...machine,
    memory: { ...machine.memory, sparseBytesPerSecond: by * machine.memory.sparseBytesPerSecond },
  })),
  "arithmetic": withMachine((machine, by) => ({
    ...machine,
    flopsPerSecond: by * machine.flopsPerSecond,
  })),
  "time of a layer": withMachine((machine, by) => ({
    ...machine,
    secondsPerLayer: by * machine.secondsPerLayer,
  })),
  "misses": withWork((work, by) => ({
    ...work,
    reads: by * work.reads,
    readBytes: by * work.readBytes,
    hitShare: Math.max(0, 1 - by * (1 - work.hitShare)),
  })),
  "bytes read for the same misses": withWork((work, by) => ({
    ...work,
    readBytes: by * work.readBytes,
  })),
  "neurons listed, all hits": withWork((work, by) => ({
    ...work,
    listedBytes: by * work.listedBytes,
  })),
  "bytes resident": withWork((work, by) => ({
    ...work,
    layerBytes: by * work.layerBytes,
    logitsBytes: by * work.logitsBytes,
  })),
};

/** Share by which a token's time changes. */
export interface SensitivityRow {
  parameter: string;
  halved: number;
  doubled: number;
}

export function sensitivityOf(workload: Workload): SensitivityRow[] {
  const before = tokenTime(workload.work, workload.machine).total;
  return Object.entries(PARAMETERS).map(([parameter, change]) => {
    const by = (factor: number) => {
      const { work, machine } = change(workload, factor);
      return tokenTime(work, machine).total / before - 1;
    };
    return { parameter, halved: by(0.5), doubled: by(2) };
  });
}

export async function ask(workbench: Workbench): Promise<Table[]> {
  const { machine } = workbench, trace = await workbench.trace();
  const workloads = [
    replayedWorkload(trace, { machine, resident: workbench.residentBytes() }),
    halfMemory(SHAPES.opt6_7b, machine),
    halfMemory(SHAPES.opt6_7b, MACHINES.m1),
    halfMemory(OPT_175B_Q8, machine),
  ];
  return [tableOf(workloads), overlapTable(workloads)];
}

function tableOf(workloads: readonly Workload[]): Table {
  const columns = workloads.map(sensitivityOf);
  const signed = (share: number) => `${share > 0.0005 ? "+" : ""}${(100 * share).toFixed(0)}`;
  return {
    title: "Change of a token's time (%) with half / twice of each parameter",
    head: ["parameter", ...workloads.map(nameOf)],
    rows: columns[0].map(({ parameter }, index) => [
      parameter,
      ...columns.map((rows) => `${signed(rows[index].halved)} / ${signed(rows[index].doubled)}`),
    ]),
  };
}

/** The one parameter that no factor fits: how much of the reading hides. */
function overlapTable(workloads: readonly Workload[]): Table {
  const ways: [string, Partial<TokenWork>][] = [
    ["nothing hides", { earlyShare: 0, overlapsHits: false }],
    ["late reads behind hits", { earlyShare: 0, overlapsHits: true }],
    ["and half of the reads early, behind attention", { earlyShare: 0.5, overlapsHits: true }],
    ["and all of the reads early", { earlyShare: 1, overlapsHits: true }],
  ];
  return {
    title: "What hides reading: ms a token",
    head: ["overlap", ...workloads.map(nameOf)],
    rows: ways.map(([name, way]) => [
      name,
      ...workloads.map(({ work, machine }) =>
        milliseconds(tokenTime({ ...work, ...way }, machine).total)
      ),
    ]),
  };
}

function nameOf({ name, machine }: Workload): string {
  return `${name}, ${machine.name}`;
}
