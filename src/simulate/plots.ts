import type { TopLevelSpec } from "vega-lite";
import { logPanel } from "../log_panel.ts";
import type { SimulatedRow, WindowPoint } from "./simulate.ts";

const SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json";
const SIZE = { width: 420, height: 300 };

/** All policies and the limits over the size of the cache: bytes and reads a token. */
export function policyPlot(rows: readonly SimulatedRow[], title: string): TopLevelSpec {
  const values = rows.filter(({ bytesPerToken }) => bytesPerToken > 0).map((row) => ({
    policy: row.policy,
    cache: 100 * row.cacheShare,
    kibibytes: row.bytesPerToken / 1024,
    reads: row.readsPerToken,
  }));
  const x = { field: "cache", title: "FFN neurons in the cache (%)" };
  const panel = (field: string, title: string) =>
    logPanel({ x, y: { field, title }, color: "policy" });
  return {
    $schema: SCHEMA,
    title,
    background: "white",
    data: { values },
    hconcat: [panel("kibibytes", "KiB read a token"), panel("reads", "reads a token")],
  };
}

/** The paper's figure: what a window holds, and what it reads for each token. */
export function windowPlot(points: readonly WindowPoint[], title: string): TopLevelSpec {
  const values = points.flatMap(({ window, residentShare, readShare }) => [
    { window, share: 100 * residentShare, what: "in memory" },
    { window, share: 100 * readShare, what: "read for each token" },
  ]);
  return {
    $schema: SCHEMA,
    title,
    background: "white",
    ...SIZE,
    data: { values },
    mark: { type: "line", point: true },
    encoding: {
      x: { field: "window", type: "quantitative", title: "window (tokens)" },
      y: { field: "share", type: "quantitative", title: "FFN neurons (%)" },
      color: { field: "what", type: "nominal", sort: null, title: null },
    },
  };
}
