import type { TopLevelSpec } from "vega-lite";
import type { Forecast } from "./forecast.ts";

const SIZE = { width: 420, height: 300 };

/** Where a token's time goes, and what it reads, over the memory of the process. */
export function planPlot(forecasts: readonly Forecast[], title: string): TopLevelSpec {
  const memoryOf = ({ memoryBytes, bytes }: Forecast) => (memoryBytes ?? bytes.total) / 2 ** 30;
  const parts = forecasts.flatMap((forecast) => {
    const { attention, look, ffn, logits, waitingFlash, memoryManagement, ...rest } =
      forecast.msPerToken;
    const other = rest.waitingPredictor + rest.contention + rest.other;
    const all = { attention, look, ffn, logits, waitingFlash, memoryManagement, other };
    const names = Object.entries(all).map(([part, ms]) => ({ part: NAMES[part] ?? part, ms }));
    return names.map((entry, order) => ({ ...entry, order, memory: memoryOf(forecast) }));
  });
  const reads = forecasts.map((forecast) => ({
    memory: memoryOf(forecast),
    mebibytes: forecast.bytesPerToken / 2 ** 20,
  }));
  const x = {
    field: "memory",
    type: "quantitative" as const,
    scale: { zero: false },
    title: "memory (GiB)",
  };
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    title: `${title}: foreseen`,
    background: "white",
    hconcat: [
      {
        ...SIZE,
        data: { values: parts },
        mark: { type: "area" },
        encoding: {
          x,
          y: { field: "ms", type: "quantitative", title: "ms a token" },
          color: { field: "part", type: "nominal", sort: null, title: null },
          order: { field: "order" },
        },
      },
      {
        ...SIZE,
        data: { values: reads },
        mark: { type: "line", point: true },
        encoding: {
          x,
          y: { field: "mebibytes", type: "quantitative", title: "MiB read a token" },
        },
      },
    ],
  };
}

const NAMES: Record<string, string> = {
  look: "late look",
  ffn: "sparse FFN",
  waitingFlash: "waiting for flash",
  memoryManagement: "memory management",
};
