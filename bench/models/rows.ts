import { MemoryBudgetError } from "../../src/errors.ts";
import type { FlashHeader } from "../../src/format/header.ts";
import type { OpenOptions } from "../../src/open.ts";
import { checkPlan } from "../ladder/measure.ts";
import type { MeasureOptions } from "../ladder/measure.ts";
import { halfOf, headerOf } from "../ladder/rows.ts";
import type { Budget, LadderRow } from "../ladder/rows.ts";

/** The three rows of a model, as in the paper's Table 3, and between its two what half of the memory buys by itself. */
export function modelRows(
  modelPath: string,
  { budget, measure }: { budget?: Budget; measure: MeasureOptions },
): LadderRow[] {
  const header = headerOf(modelPath);
  const rowsWithin = (budget: Budget) =>
    header.config.experts ? routedRows(modelPath, header, budget) : plainRows(modelPath, budget);
  return budget ? rowsWithin(budget) : withinHalf(header, rowsWithin, measure);
}

function plainRows(modelPath: string, budget: Budget): LadderRow[] {
  const row = (name: string, group: string, open: OpenOptions) => ({
    name,
    modelPath,
    group,
    open,
  });
  return [
    row("naive", "dense", { ffn: "dense", naive: true }),
    row("half resident", "dense", { ffn: "dense", ...budget }),
    row("all techniques", "all", budget),
  ];
}

/** A router names what is computed, so no row computes all: they differ in what is kept, and in how early it is read. */
function routedRows(modelPath: string, { config }: FlashHeader, budget: Budget): LadderRow[] {
  const { count, perToken } = config.experts!;
  const row = (name: string, open: OpenOptions) => ({ name, modelPath, group: "routed", open });
  return [
    // Room for the experts of a token, of which none stays for the next.
    row("naive", { ffnCache: perToken / count, window: 0, prefetch: false }),
    row("half resident", { ...budget, policy: "lru", prefetch: false }),
    row("all techniques", budget),
  ];
}

/** Within half of the model; or within the least that all rows accept, where half is not enough. */
function withinHalf(
  header: FlashHeader,
  rowsWithin: (budget: Budget) => LadderRow[],
  measure: MeasureOptions,
): LadderRow[] {
  let memory = halfOf(header);
  for (;;) {
    const rows = rowsWithin({ memory });
    try {
      for (const row of rows) checkPlan(row, measure);
      return rows;
    } catch (error) {
      if (!(error instanceof MemoryBudgetError) || error.requiredBytes <= memory) throw error;
      memory = error.requiredBytes;
    }
  }
}
