import type { CalibrationJob } from "./calibration_job.ts";
import type { FitCrew } from "./fit_crew.ts";
import type { FitPlan, FitSizes } from "./fit_plan.ts";
import type { FitTask } from "./fit_tasks.ts";
import type { WorkFolder } from "./work_folder.ts";
import type { Observed, WorkProgress } from "./work_progress.ts";

/** What is observed is waited for (fsync) and recorded this often. */
const RECORD_EVERY_MS = 3000;

const OBSERVED_RECORD = "observed";

/** Runs the text through the dense model, layer by layer, from where it got to; what of it is kept follows from what it is for. */
export async function observe(
  crew: FitCrew,
  { folder, plan, sizes }: CalibrationJob,
  positionsMax: number,
  progress: WorkProgress,
  signal?: AbortSignal,
): Promise<void> {
  const { chunkLengths } = plan, kind = isMeasured(plan) ? "measure" : "observe";
  let known = (folder.readRecord(OBSERVED_RECORD) ?? { layer: 0, chunks: 0 }) as Observed;
  progress.observed(known);
  for (let { layer } = known; layer < sizes.numLayers; layer++) {
    const record = (chunks: number) => {
      syncObserved(folder, plan, sizes, layer);
      known = { layer, chunks };
      folder.writeRecord(OBSERVED_RECORD, known);
    };
    let recordedAt = performance.now();
    const from = known.layer === layer ? known.chunks : 0;
    const tasks = groupsOf(chunkLengths, from, positionsMax)
      .map((group): FitTask => ({ kind, layer, ...group }));
    await crew.run(tasks, (task) => {
      const { firstChunk, chunkCount } = task as FitTask & { kind: typeof kind };
      const chunks = firstChunk + chunkCount;
      progress.observed({ layer, chunks });
      if (performance.now() - recordedAt < RECORD_EVERY_MS) return;
      record(chunks);
      recordedAt = performance.now();
    }, signal);
    record(chunkLengths.length);
  }
}

/** Chunks in groups of at most `positionsMax` positions. */
function groupsOf(chunkLengths: number[], from: number, positionsMax: number) {
  const groups: { firstChunk: number; chunkCount: number }[] = [];
  let count = Infinity;
  for (let chunk = from; chunk < chunkLengths.length; chunk++) {
    if (count + chunkLengths[chunk] > positionsMax) {
      groups.push({ firstChunk: chunk, chunkCount: 0 });
      count = 0;
    }
    groups[groups.length - 1].chunkCount++;
    count += chunkLengths[chunk];
  }
  return groups;
}

/** What was observed of a layer is on the disk before a record says so. */
function syncObserved(
  folder: WorkFolder,
  plan: FitPlan,
  { d, n }: FitSizes,
  layer: number,
): void {
  const { tokens: rowCount } = plan;
  const seen: [string, number][] = [
    [`layer-${layer}.inputs`, 2 * d],
    [`layer-${layer}.early`, 2 * d],
    [`layer-${layer}.active`, n / 8],
  ];
  const residual: [string, number] = [`residual-${(layer + 1) % 2}`, 4 * d];
  const shapes = isMeasured(plan) ? [residual] : [...seen, residual];
  for (const [name, rowByteLength] of shapes) {
    using table = folder.openTable(name, { rowByteLength, rowCount });
    table.sync();
  }
}

/** Activations are counted, in records, instead of kept. */
function isMeasured({ identity }: FitPlan): boolean {
  return identity.method === "magnitudes";
}
