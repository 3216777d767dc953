/**
 * What do a predictor's bytes, and so its ranks, bring in accuracy, memory and time, and is there a sweet spot? Once beside a cache
 * of its own, and once within a memory that predictors and cache share.
 */
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { TopLevelSpec } from "vega-lite";
import { DOCUMENT_END } from "../../src/documents.ts";
import { replayedWork, tokenTime } from "../../src/simulate/cost_model.ts";
import { benchPredictors } from "../predictors.ts";
import type { PredictorsResult } from "../predictors.ts";
import { figure, milliseconds, percent } from "./table.ts";
import type { Table } from "./table.ts";
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

/** Calibrates in closed form within each share of bytes, and evaluates with the cache that goes with it. */
export async function compareRanks(
  workbench: Workbench,
  { byteShares, cacheShareOf, tokensMax }: {
    byteShares: readonly number[];
    cacheShareOf: (byteShare: number) => number;
    tokensMax: number;
  },
): Promise<RankRow[]> {
  const { modelPath, calibrationDocuments, documents } = workbench.options;
  const folder = mkdtempSync(path.join(os.tmpdir(), "flashpipe-"));
  const rows: RankRow[] = [];
  try {
    for (const byteShare of byteShares) {
      const cacheShare = cacheShareOf(byteShare);
      const { dense, results: [result] } = await benchPredictors({
        modelPath,
        calibrationText: calibrationDocuments.join(DOCUMENT_END),
        heldOutText: documents.join(DOCUMENT_END),
        byteShares: [byteShare],
        methods: ["closed-form"],
        minutes: 1,
        tokensMax,
        recall: RECALL,
        ffnCache: `${100 * cacheShare}%`,
        folder,
      });
      rows.push(await rowOf(workbench, result, { cacheShare, densePerplexity: dense.perplexity }));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  return rows;
}

async function rowOf(
  workbench: Workbench,
  { byteShare, ranks, byteLength, evaluation }: PredictorsResult,
  { cacheShare, densePerplexity }: { cacheShare: number; densePerplexity: number },
): Promise<RankRow> {
  const { perplexity, readsPerToken, bytesPerToken, all } = evaluation;
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
  const { layerBytes, logitsBytes } = workbench.residentBytes();
  const own = { layerBytes: layerBytes - workbench.predictorBytes() + byteLength, logitsBytes };
  return {
    byteShare,
    cacheShare,
    ranks,
    recall: recall!,
    precision: precision!,
    listedShare,
    readsPerToken,
    bytesPerToken,
    perplexityRise: perplexity / densePerplexity - 1,
    tokenSeconds: tokenTime(replayedWork(trace, counts, own), workbench.machine).total,
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
