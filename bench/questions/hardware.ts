/**
 * What hardware would help? What-if runs of the cost model: other ways to ask for reads, other disks, a disk that computes,
 * faster memory; and larger sectors by replaying the trace itself.
 */
import { DEFAULT_POLICY } from "../../src/cache/policies.ts";
import { tokenTime } from "../../src/simulate/cost_model.ts";
import { PAPER_SHARES, workOf } from "../../src/simulate/model_work.ts";
import type { DiskCost, Machine, TokenWork } from "../../src/simulate/cost_model.ts";
import { bytesOf, SHAPES } from "../../src/simulate/model_shape.ts";
import type { ModelShape } from "../../src/simulate/model_shape.ts";
import type { NeuronTrace } from "../../src/simulate/neuron_trace.ts";
import { replay } from "../../src/simulate/replay.ts";
import { slotCountsOf, warmupOf } from "../../src/simulate/simulate.ts";
import { figure, milliseconds } from "./table.ts";
import type { Table } from "./table.ts";
import type { Workbench } from "./workbench.ts";
import { halfMemory, OPT_175B_Q8, replayedWorkload } from "./workloads.ts";
import type { Workload } from "./workloads.ts";

const SECTORS = [512, 4096, 16_384, 65_536];
const CACHE_SHARE = 0.2;

/** A change of the hardware, or of how it is used. */
export interface WhatIf {
  name: string;
  change: (workload: Workload) => { work: TokenWork; machine: Machine };
}

const disk = (name: string, change: (disk: DiskCost) => Partial<DiskCost>): WhatIf => ({
  name,
  change: ({ work, machine }) => ({
    work,
    machine: { ...machine, disk: { ...machine.disk, ...change(machine.disk) } },
  }),
});

/** Channels of flash in a drive: what it could read inside, beside what its bus carries. */
const INNER_BANDWIDTH = 4;

export const WHAT_IFS: readonly WhatIf[] = [
  { name: "as it is", change: (workload) => workload },
  // bench readers, 4 KiB at depth 16: 25 000 to 28 000 reads a second.
  disk("reads by pread instead of io_uring", () => ({ secondsPerRead: 36e-6 })),
  disk("reads at half the cost", ({ secondsPerRead }) => ({ secondsPerRead: secondsPerRead / 2 })),
  disk("twice the bandwidth", ({ bytesPerSecond }) => ({ bytesPerSecond: 2 * bytesPerSecond })),
  // Data sheets of local drives: 1 000 000 and 2 500 000 reads of 4 KiB a second, 70 us.
  disk("NVMe drive, PCIe 4", () => ({
    bytesPerSecond: 7e9,
    secondsPerRead: 1e-6,
    firstReadSeconds: 70e-6,
  })),
  disk("NVMe drive, PCIe 5", () => ({
    bytesPerSecond: 14e9,
    secondsPerRead: 0.4e-6,
    firstReadSeconds: 60e-6,
  })),
  disk("PCIe 4, latency of 10 us", () => ({
    bytesPerSecond: 7e9,
    secondsPerRead: 1e-6,
    firstReadSeconds: 10e-6,
  })),
  {
    name: "the drive computes misses (4x inside)",
    // A list goes in, a sum of d numbers comes out: one command a layer, and no neuron crosses the bus.
    change: ({ work, machine }) => ({
      work: { ...work, reads: work.numLayers },
      machine: {
        ...machine,
        disk: {
          ...machine.disk,
          bytesPerSecond: INNER_BANDWIDTH * machine.disk.bytesPerSecond,
        },
      },
    }),
  },
  {
    name: "memory twice as fast",
    change: ({ work, machine: { memory, ...machine } }) => ({
      work,
      machine: {
        ...machine,
        flopsPerSecond: 2 * machine.flopsPerSecond,
        memory: {
          bytesPerSecond: 2 * memory.bytesPerSecond,
          sparseBytesPerSecond: 2 * memory.sparseBytesPerSecond,
        },
      },
    }),
  },
  {
    name: "threads that meet at no cost",
    change: ({ work, machine }) => ({ work, machine: { ...machine, secondsPerLayer: 0 } }),
  },
];

export function whatIf(workload: Workload): { name: string; tokenSeconds: number }[] {
  return WHAT_IFS.map(({ name, change }) => {
    const { work, machine } = change(workload);
    return { name, tokenSeconds: tokenTime(work, machine).total };
  });
}

/** What the trace reads from a disk of other sectors. */
export function withSectors(trace: NeuronTrace, blockByteLength: number) {
  const { reads, bytes, tokens } = replay(trace.withHeader({ blockByteLength }), {
    slotCounts: slotCountsOf(trace, CACHE_SHARE),
    policy: { name: DEFAULT_POLICY, window: Infinity },
    warmupTokens: warmupOf(trace),
  });
  return { readsPerToken: reads / tokens, bytesPerToken: bytes / tokens };
}

/** Bytes of whole sectors for each byte of bundles. */
export function sectorOverhead(shape: ModelShape, disk: DiskCost): number {
  const { reads, readBytes } = workOf(shape, PAPER_SHARES, disk);
  return readBytes / (reads * bytesOf(shape).bundle);
}

export async function ask(workbench: Workbench): Promise<Table[]> {
  const { machine } = workbench, trace = await workbench.trace();
  const workloads = [
    replayedWorkload(trace, { machine, resident: workbench.residentBytes() }),
    halfMemory(SHAPES.opt6_7b, machine),
    halfMemory(OPT_175B_Q8, machine),
  ];
  const columns = workloads.map(whatIf);
  return [
    {
      title: `What if? ms a token (x faster); ${machine.name}, half of the larger models in memory`,
      head: ["hardware", ...workloads.map(({ name }) => name)],
      rows: columns[0].map(({ name }, index) => [
        name,
        ...columns.map((rows) => {
          const { tokenSeconds } = rows[index];
          return `${milliseconds(tokenSeconds)} (${figure(rows[0].tokenSeconds / tokenSeconds)}x)`;
        }),
      ]),
    },
    sectorTable(trace, machine),
  ];
}

function sectorTable(trace: NeuronTrace, { disk }: Machine): Table {
  const { strideBytes } = trace.header;
  const shapes = [SHAPES.opt6_7b, OPT_175B_Q8];
  return {
    title:
      "Larger sectors: what the trace reads a token; of larger shapes, bytes read for each one wanted",
    head: [
      "sector",
      `traced model (${strideBytes} bytes): reads`,
      "KiB",
      ...shapes.map(({ name }) => `${name}`),
    ],
    rows: SECTORS.map((blockBytes) => {
      const { readsPerToken, bytesPerToken } = withSectors(trace, blockBytes);
      return [
        `${blockBytes}`,
        figure(readsPerToken),
        figure(bytesPerToken / 1024),
        ...shapes.map((shape) => figure(sectorOverhead(shape, { ...disk, blockBytes }))),
      ];
    }),
  };
}
