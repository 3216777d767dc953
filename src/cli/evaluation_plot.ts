import type { TopLevelSpec } from "vega-lite";
import type { Evaluation, LayerEvaluation } from "../evaluation.ts";

/** Lines of the upper plot; each has a layer along x, and a share as y. */
const LINES: [name: keyof LayerEvaluation, title: string][] = [
  ["recall", "recall"],
  ["precision", "precision"],
  ["hitRate", "hit rate"],
  ["activeShare", "active"],
];

/**
 * A vega-lite spec of what an evaluation says of the layers: recall, precision, hits and active neurons above, the lost
 * activation mass below, as it is so much smaller. What a mode does not have is left out.
 */
export function evaluationPlot({ layers }: Evaluation, title: string): TopLevelSpec {
  const lines = LINES.filter(([name]) => layers.some((layer) => name in layer));
  const values = layers.flatMap((layer, index) =>
    lines.map(([name, title]) => ({ layer: index, kind: title, share: layer[name] }))
  );
  const lost = layers.flatMap(({ lostMass }, index) =>
    lostMass === undefined ? [] : [{ layer: index, share: lostMass }]
  );
  const x = {
    field: "layer",
    type: "ordinal" as const,
    axis: { labelAngle: 0, labelOverlap: true },
  };
  const width = Math.min(900, Math.max(360, 24 * layers.length));
  const upper = {
    width,
    height: 240,
    data: { values },
    mark: { type: "line" as const, point: true },
    encoding: {
      x,
      y: { field: "share", type: "quantitative" as const, title: null, axis: { format: "%" } },
      color: {
        field: "kind",
        type: "nominal" as const,
        title: null,
        scale: { domain: lines.map(([, title]) => title) },
      },
    },
  };
  const lower = {
    width,
    height: 100,
    data: { values: lost },
    mark: "bar" as const,
    encoding: {
      x,
      y: {
        field: "share",
        type: "quantitative" as const,
        title: "lost activation mass",
        axis: { format: ".2%" },
      },
    },
  };
  return { title, vconcat: lost.length > 0 ? [upper, lower] : [upper] };
}
