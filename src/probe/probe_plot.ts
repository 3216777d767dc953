import type { TopLevelSpec } from "vega-lite";
import type { Probe } from "./probe_result.ts";

const SIZE = { width: 420, height: 300 };

/** Bytes a second, and CPU a read, over the size of reads, for each kind of readers. */
export function probePlot({ disk, place }: Probe): TopLevelSpec {
  const values = disk.rows.filter(({ isSequential }) => !isSequential).map((row) => ({
    readers: row.backend === "pread"
      ? `pread, ${row.readerCount}`
      : `io_uring, ${row.readerCount} x ${row.depth / row.readerCount}`,
    kibibytes: row.readBytes / 1024,
    megabytes: row.readsPerSecond * row.readBytes / 1e6,
    cpu: row.cpuUsPerRead,
  }));
  const panel = (field: string, title: string) => ({
    ...SIZE,
    mark: { type: "line" as const, point: { size: 25 }, strokeWidth: 1.5 },
    encoding: {
      x: {
        field: "kibibytes",
        type: "quantitative" as const,
        scale: { type: "log" as const },
        title: "size of a read (KiB)",
      },
      y: {
        field,
        type: "quantitative" as const,
        scale: { type: "log" as const },
        title,
      },
      color: { field: "readers", type: "nominal" as const, sort: null, title: "readers" },
    },
  });
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    title: `random reads, ${place.runtime}, ${place.processor ?? place.platform}`,
    background: "white",
    data: { values },
    hconcat: [panel("megabytes", "MB/s"), panel("cpu", "CPU a read (us)")],
  };
}
