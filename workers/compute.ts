/** A compute lane: its share of the forward pass. Lane 0 leads and samples. The loops are in src/lane/ and src/pipeline/request.ts. */
import { Lane } from "../src/lane/lane.ts";
import type { PipelineOptions } from "../src/pipeline/options.ts";
import { Leader } from "../src/pipeline/request.ts";
import { serveWorker } from "../src/pipeline/worker_shell.ts";

/** `request`: where the main thread writes what a request has. */
type LaneOptions = PipelineOptions & { laneIndex: number; request: SharedArrayBuffer };

serveWorker((options: LaneOptions) => {
  const lane = new Lane(options, options.laneIndex);
  const leader = new Leader(lane, options, options.request);
  return { run: () => lane.seat.index === 0 ? leader.run() : lane.follow() };
});
