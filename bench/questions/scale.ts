/**
 * What changes at 175 B parameters? The shapes of OPT by the cost model, with the shares that the paper found for 6.7 B; and
 * the cost model against the paper's own figures.
 */
import { tokenTime } from "../../src/simulate/cost_model.ts";
import {
  memoryBytesOf,
  naiveTime,
  PAPER_SHARES,
  sharesWithin,
  workOf,
  workWithin,
} from "../../src/simulate/model_work.ts";
import type { Machine } from "../../src/simulate/cost_model.ts";
import type { RunShares } from "../../src/simulate/model_work.ts";
import { MACHINES } from "../../src/simulate/machines.ts";
import {
  BYTES_PER_WEIGHT,
  bytesOf,
  keyValueBytes,
  SHAPES,
} from "../../src/simulate/model_shape.ts";
import type { ModelShape } from "../../src/simulate/model_shape.ts";
import { figure, gibibytes, milliseconds, percent } from "./table.ts";
import type { Table } from "./table.ts";
import type { Workbench } from "./workbench.ts";

const LARGE = [SHAPES.opt6_7b, SHAPES.opt13b, SHAPES.opt30b, SHAPES.opt66b, SHAPES.opt175b];
const CONTEXT = 2048;

/** One shape on one machine. */
export interface ScaleRow {
  shape: ModelShape;
  totalBytes: number;
  /** Attention, embedding and predictors; and those with the cache. */
  residentBytes: number;
  memoryBytes: number;
  keyValueBytes: number;
  bundleBytes: number;
  reads: number;
  /** What the disk gives of its speed in reads of this size. */
  diskShare: number;
  tokenSeconds: number;
  /** Share of the time in which only reads are waited for. */
  readingShare: number;
  /** Over reading the whole model for each token, and over half of it. */
  speedup: number;
  halfSpeedup: number;
}

export function scaleRow(shape: ModelShape, machine: Machine, shares: RunShares): ScaleRow {
  const bytes = bytesOf(shape), work = workOf(shape, shares, machine.disk);
  const time = tokenTime(work, machine);
  const longSeconds = work.readBytes / machine.disk.bytesPerSecond;
  return {
    shape,
    totalBytes: bytes.total,
    residentBytes: work.layerBytes + work.logitsBytes,
    memoryBytes: memoryBytesOf(shape, shares),
    keyValueBytes: keyValueBytes(shape, CONTEXT),
    bundleBytes: bytes.bundle,
    reads: work.reads,
    diskShare: longSeconds / time.reading,
    tokenSeconds: time.total,
    readingShare: (time.reading - time.hidden) / time.total,
    speedup: naiveTime(shape, machine, 0).total / time.total,
    halfSpeedup: naiveTime(shape, machine, bytes.total / 2).total / time.total,
  };
}

/** The cost model beside a figure of the paper's for OPT 6.7B. */
export interface PaperCheck {
  what: string;
  paper: number;
  model: number;
}

/** Tables 2 and 3 of the paper, ms and GB: what was not used to set the machines' figures. */
export function checkAgainstPaper(): PaperCheck[] {
  const { opt6_7b: shape } = SHAPES, { m1, rtx4090 } = MACHINES;
  const bytes = bytesOf(shape), work = workOf(shape, PAPER_SHARES, m1.disk);
  const ms = (seconds: number) => 1000 * seconds;
  const predictedOnly = { ...PAPER_SHARES, missed: PAPER_SHARES.listed };
  const apart = (shares: RunShares) => {
    // Without bundles the row and the column of a neuron are two reads.
    const work = workOf(shape, { ...shares, readsPerMiss: 2 }, m1.disk);
    return ms(tokenTime(work, m1).reading);
  };
  const inF32 = { ...shape, bytesPerWeight: 4 };
  const computed = tokenTime(
    { ...workOf(inF32, PAPER_SHARES, m1.disk), readBytes: 0, reads: 0 },
    m1,
  );
  return [
    { what: "model, GB", paper: 13.4, model: bytes.total / 1e9 },
    {
      what: "in memory, share of the model (%)",
      paper: 52.1,
      model: 100 * memoryBytesOf(shape, PAPER_SHARES) / bytes.total,
    },
    { what: "predictor: GB read a token", paper: 0.9, model: 0.1 * bytes.ffn / 1e9 },
    { what: "predictor: reading, ms", paper: 738, model: apart(predictedOnly) },
    { what: "window: GB read a token", paper: 0.2, model: work.readBytes / 1e9 },
    { what: "window: reading, ms", paper: 164, model: apart(PAPER_SHARES) },
    { what: "bundles: reading, ms", paper: 87, model: ms(tokenTime(work, m1).reading) },
    {
      what: "CPU, f32: computing, ms (21 GB/s is taken from it)",
      paper: 506,
      model: ms(computed.attention + computed.logits + computed.ffn),
    },
    {
      what: "RTX 4090: reading, ms",
      paper: 30,
      model: ms(tokenTime(workOf(shape, PAPER_SHARES, rtx4090.disk), rtx4090).reading),
    },
    {
      what: "RTX 4090: a token, ms",
      paper: 84,
      model: ms(
        tokenTime({ ...workOf(shape, PAPER_SHARES, rtx4090.disk), overlapsHits: false }, rtx4090)
          .total,
      ),
    },
  ];
}

// deno-lint-ignore require-await -- every question answers with a promise
export async function ask({ machine }: Workbench): Promise<Table[]> {
  const machines = [machine, MACHINES.m1, MACHINES.rtx4090];
  const rows = LARGE.map((shape) => scaleRow(shape, machine, PAPER_SHARES));
  return [
    {
      title: "The cost model against the paper's figures, OPT 6.7B",
      head: ["figure", "paper", "model", "off by"],
      rows: checkAgainstPaper().map(({ what, paper, model }) => [
        what,
        figure(paper),
        figure(model),
        `${((model / paper - 1) * 100).toFixed(0)} %`,
      ]),
    },
    {
      title: "OPT in f16, GiB: what must be in memory whatever is read",
      head: [
        "model",
        "all",
        "resident",
        "with 24 % of the FFN",
        `KV cache of ${CONTEXT}`,
        "bundle, KiB",
        "reads a token",
      ],
      rows: rows.map((row) => [
        row.shape.name,
        gibibytes(row.totalBytes),
        `${gibibytes(row.residentBytes)} (${percent(row.residentBytes / row.totalBytes)})`,
        gibibytes(row.memoryBytes),
        gibibytes(row.keyValueBytes),
        figure(row.bundleBytes / 1024),
        figure(row.reads),
      ]),
    },
    ...machines.map((machine) => timeTable(machine, LARGE)),
    memoryTable(MACHINES.m1),
  ];
}

/** Memories with which each shape is asked, GiB. */
const MEMORIES = [16, 32, 64, 128];

/** Whether a model runs in some memory, and how much faster than by reading all that does not fit. */
function memoryTable(machine: Machine): Table {
  const shapes = [SHAPES.opt30b, SHAPES.opt66b, SHAPES.opt175b].flatMap((shape) =>
    (["f16", "q8", "q4"] as const).map((name) => ({
      ...shape,
      name: `${shape.name} ${name}`,
      bytesPerWeight: BYTES_PER_WEIGHT[name],
    }))
  );
  return {
    title:
      `s a token within a memory, ${machine.name} (x over the naive way in the same memory; * attention does not fit)`,
    head: ["model", "all, GiB", ...MEMORIES.map((memory) => `${memory} GiB`)],
    rows: shapes.map((shape) => [
      shape.name,
      gibibytes(bytesOf(shape).total),
      ...MEMORIES.map((memory) => {
        const memoryBytes = memory * 2 ** 30;
        const { total } = tokenTime(workWithin(shape, memoryBytes, machine.disk), machine);
        const { total: naive } = naiveTime(shape, machine, memoryBytes);
        const mark = sharesWithin(shape, memoryBytes).streamedBytes > 0 ? "*" : "";
        return `${figure(total)} (${figure(naive / total)}x)${mark}`;
      }),
    ]),
  };
}

function timeTable(machine: Machine, shapes: readonly ModelShape[]): Table {
  return {
    title: `${machine.name}, f16, 24 % of the FFN in memory: time by the cost model`,
    head: [
      "model",
      "ms a token",
      "waiting for reads",
      "disk at its speed",
      "x over reading all",
      "x over reading half",
    ],
    rows: shapes.map((shape) => {
      const row = scaleRow(shape, machine, PAPER_SHARES);
      return [
        shape.name,
        milliseconds(row.tokenSeconds),
        percent(row.readingShare),
        percent(row.diskShare),
        figure(row.speedup),
        figure(row.halfSpeedup),
      ];
    }),
  };
}
