import type { TopLevelSpec } from "vega-lite";
import { logPanel } from "../log_panel.ts";
import type { Probe } from "./probe_result.ts";

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
  const x = { field: "kibibytes", title: "size of a read (KiB)" };
  const panel = (field: string, title: string) =>
    logPanel({ x, y: { field, title }, color: "readers" });
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    title: `random reads, ${place.runtime}, ${place.processor ?? place.platform}`,
    background: "white",
    data: { values },
    hconcat: [panel("megabytes", "MB/s"), panel("cpu", "CPU a read (us)")],
  };
}
