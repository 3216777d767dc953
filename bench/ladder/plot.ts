import type { TopLevelSpec } from "vega-lite";
import type { LadderResult } from "./measure.ts";

/** Parts of a token's time that add up to its total, in the order in which bars stack. */
const PARTS: [name: keyof LadderResult["split"], title: string][] = [
  ["compute", "computing"],
  ["flash", "waiting for flash"],
  ["predictor", "waiting for lists"],
  ["other", "other"],
];

/** A vega-lite spec of a ladder: a token's time by part, and tokens a second, a bar a rung. */
export function ladderPlot(rows: readonly LadderResult[], title: string): TopLevelSpec {
  const sort = rows.map(({ name }) => name);
  const y = { field: "row", type: "nominal" as const, sort, title: null };
  const times = rows.flatMap(({ name, split }) =>
    PARTS.map(([part, title], order) => ({ row: name, part: title, order, ms: split[part] }))
  );
  const speeds = rows.map(({ name, tokensPerSecond }) => ({ row: name, tokensPerSecond }));
  return {
    title,
    hconcat: [
      {
        width: 420,
        height: 24 * rows.length,
        data: { values: times },
        mark: "bar",
        encoding: {
          y,
          x: { field: "ms", type: "quantitative", title: "ms a token", stack: true },
          order: { field: "order" },
          color: {
            field: "part",
            type: "nominal",
            title: null,
            scale: { domain: PARTS.map(([, title]) => title) },
            legend: { orient: "bottom" },
          },
        },
      },
      {
        width: 260,
        height: 24 * rows.length,
        data: { values: speeds },
        mark: "bar",
        encoding: {
          y: { ...y, axis: { labels: false, ticks: false } },
          x: { field: "tokensPerSecond", type: "quantitative", title: "tokens a second" },
        },
      },
    ],
  };
}
