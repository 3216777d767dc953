/**
 * What do a predictor's bytes, and so its ranks, bring in accuracy, memory and time, and is there a sweet spot? Once beside a cache
 * of its own, and once within a memory that predictors and cache share.
 */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { TopLevelSpec } from "vega-lite";
import { calibrate } from "../../src/calibrate.ts";
import { DOCUMENT_END } from "../../src/documents.ts";
import { evaluate } from "../../src/eval.ts";
import type { Evaluation } from "../../src/evaluation.ts";
import { replayedWork, tokenTime } from "../../src/simulate/cost_model.ts";
import { figure, milliseconds, percent } from "./table.ts";
import type { Table } from "./table.ts";
import { residentBytesOf } from "./workbench.ts";
import type { Workbench } from "./workbench.ts";

const BYTE_SHARES = [0.05, 0.07, 0.1, 0.14, 0.2];
const RECALL = 0.98;
const TOKENS_MAX = 2000;
const CACHE_SHARE = 0.2;
/** Of predictors and cache together, in FFNs. */
const MEMORY_SHARE = 0.3;

/** Predictors within a share of the FFN's bytes, and a cache. */
export interface RankRow {
  byteShare: number;
  cacheShare: number;
  ranks: number[];
  recall: number;
  precision: number;
  listedShare: number;
  readsPerToken: number;
  bytesPerToken: number;
  /** Perplexity over that of dense, less 1. */
  perplexityRise: number;
  /** By the cost model, s. */
  tokenSeconds: number;
}

/** Calibrates copies in closed form within each share of bytes, and evaluates with the cache that goes with it. */
export async function compareRanks(
  workbench: Workbench,
  { byteShares, cacheShareOf, tokensMax }: {
    byteShares: readonly number[];
    cacheShareOf: (byteShare: number) => number;
    tokensMax: number;
  },
): Promise<RankRow[]> {
  const { modelPath, documents } = workbench.options;
  const scoring = { text: documents.join(DOCUMENT_END), tokensMax, reference: false };
  const dense = await evaluate({ ...scoring, path: modelPath, ffn: "dense" });
  const folder = mkdtempSync(path.join(os.tmpdir(), "flashpipe-"));
  const copy = path.join(folder, "copy.flash");
  const rows: RankRow[] = [];
  try {
    for (const byteShare of byteShares) {
      const cacheShare = cacheShareOf(byteShare);
      copyFileSync(modelPath, copy);
      const ranks = await calibrateCopy(workbench, copy, { byteShare, cacheShare });
      const options = { ...scoring, path: copy, ffn: "predicted", ffnCache: cacheShare } as const;
      const evaluation = await evaluate(options);
      rows.push({
        ...await costOf(workbench, copy, evaluation),
        byteShare,
        cacheShare,
        ranks,
        perplexityRise: evaluation.perplexity / dense.perplexity - 1,
      });
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  return rows;
}

async function calibrateCopy(
  { options }: Workbench,
  path: string,
  { byteShare, cacheShare }: { byteShare: number; cacheShare: number },
): Promise<number[]> {
  const { layers } = await calibrate({
    path,
    text: options.calibrationDocuments.join(DOCUMENT_END),
    textName: options.textName,
    method: "closed-form",
    byteShare,
    recall: RECALL,
    cacheShares: [cacheShare],
  });
  return layers.map((layer) => "rank" in layer ? layer.rank : NaN);
}

/** What the predictors of a copy find, and what a token costs with them. */
async function costOf(workbench: Workbench, path: string, evaluation: Evaluation) {
  const { readsPerToken, bytesPerToken, all } = evaluation;
  const { listedShare, hitRate, earlyRate, recall, precision } = all!;
  const trace = await workbench.trace(), { numLayers, intermediateSize } = trace.header;
  const listed = listedShare * numLayers * intermediateSize, hits = hitRate * listed;
  const counts = {
    tokens: 1,
    listed,
    hits,
    reads: readsPerToken,
    bytes: bytesPerToken,
    earlyStarted: earlyRate * (listed - hits),
  };
  const work = replayedWork(trace, counts, residentBytesOf(path));
  return {
    recall: recall!,
    precision: precision!,
    listedShare,
    readsPerToken,
    bytesPerToken,
    tokenSeconds: tokenTime(work, workbench.machine).total,
  };
}

export async function ask(workbench: Workbench): Promise<Table[]> {
  const common = { byteShares: BYTE_SHARES, tokensMax: TOKENS_MAX };
  const beside = await compareRanks(workbench, { ...common, cacheShareOf: () => CACHE_SHARE });
  const within = await compareRanks(workbench, {
    ...common,
    cacheShareOf: (byteShare) => MEMORY_SHARE - byteShare,
  });
  await workbench.plot("question_rank", rankPlot(beside, within));
  return [
    tableOf("Predictors beside a cache of a fifth of the FFN", beside, workbench),
    tableOf(
      `Predictors and cache in the memory of ${percent(MEMORY_SHARE)} of the FFN`,
      within,
      workbench,
    ),
  ];
}

function tableOf(title: string, rows: RankRow[], { machine }: Workbench): Table {
  return {
    title: `${title} (closed form, recall wanted ${
      percent(RECALL)
    }; time by the cost model, ${machine.name})`,
    head: [
      "bytes",
      "ranks",
      "cached",
      "recall",
      "precision",
      "listed",
      "reads",
      "KiB",
      "perplexity",
      "ms a token",
    ],
    rows: rows.map((row) => [
      percent(row.byteShare),
      row.ranks.join(" "),
      percent(row.cacheShare),
      percent(row.recall),
      percent(row.precision),
      percent(row.listedShare),
      figure(row.readsPerToken),
      figure(row.bytesPerToken / 1024),
      `${(100 * row.perplexityRise).toFixed(2)} %`,
      milliseconds(row.tokenSeconds),
    ]),
  };
}

function rankPlot(beside: RankRow[], within: RankRow[]): TopLevelSpec {
  const points = (rows: RankRow[], memory: string) =>
    rows.map(({ byteShare, readsPerToken }) => ({
      bytes: 100 * byteShare,
      reads: readsPerToken,
      memory,
    }));
  const values = [
    ...points(beside, "beside the cache"),
    ...points(within, "taken from the cache"),
  ];
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    title: "Reads a token over the predictors' bytes",
    background: "white",
    width: 420,
    height: 300,
    data: { values },
    mark: { type: "line", point: true },
    encoding: {
      x: { field: "bytes", type: "quantitative", title: "predictors (% of the FFN's bytes)" },
      y: { field: "reads", type: "quantitative", title: "reads a token" },
      color: { field: "memory", type: "nominal", sort: null, title: null },
    },
  };
}
