import { basename } from "node:path";
import type { CalibrateOptions } from "./fit/calibrate_options.ts";
import { beginCalibration, finishedHeader } from "./fit/calibration_job.ts";
import type { CalibrationJob } from "./fit/calibration_job.ts";
import { chooseRanks } from "./fit/choose_ranks.ts";
import { divideMemory } from "./fit/divide_memory.ts";
import { FitCrew } from "./fit/fit_crew.ts";
import { planeBitsOf } from "./fit/fit_plan.ts";
import type { FitMethod, FitPlan, FitSizes } from "./fit/fit_plan.ts";
import { readFittedLayer } from "./fit/fit_tasks.ts";
import type { FitTask, FittedLayer, RankTrials } from "./fit/fit_tasks.ts";
import { observe } from "./fit/observe.ts";
import { storePredictors } from "./fit/store_predictors.ts";
import { WorkProgress } from "./fit/work_progress.ts";
import { updateFlash } from "./format/flash_update.ts";
import type { Predictors } from "./format/header.ts";
import { loadKernelModule } from "./kernels.ts";
import { VERSION } from "./version.ts";

export type { CalibrateOptions, CalibrateProgress } from "./fit/calibrate_options.ts";
export { calibrationFolder } from "./fit/calibration_job.ts";

/** What provenance calls a method. */
const CREATED: Record<FitMethod, string> = {
  "trained": "trained",
  "closed-form": "closed form",
  "sign-sketch": "sign sketch",
  "low-bit": "low-bit copy",
};

/**
 * Fits a predictor for each layer to a text and writes them into the file atomically: the text runs through the dense
 * model, layer by layer; a few ranks are tried for each layer; those are chosen that read least within the bytes, and
 * trained. Or, by a method that trains nothing, up rows are rounded to bits. Returns what was written.
 *
 * What it has lies in a folder beside the file (`NAME.flash.calibration`) until it is done. A run that was stopped, by
 * `signal` or by a kill, goes on there when it is called again with the same options, and ends with the same bytes as
 * one that was not.
 *
 * @throws {RangeError} the text is too short, hardly any activation of the model is zero (see `calibrateMagnitudes`), an option makes no sense, the predictors' bytes are too few for rank 32 in
 * each layer, or the folder was begun with other options (`fresh` begins anew)
 * @throws {MemoryBudgetError} the memory is too small; `requiredBytes` says what would do
 * @throws errors of the system, such as ENOSPC; the file is as it was
 */
export async function calibrate(options: CalibrateOptions): Promise<Predictors> {
  const kernels = loadKernelModule();
  const job = beginCalibration(options, kernels, "predictors");
  const { plan, folder } = job;
  const finished = finishedHeader(options.path, plan)?.predictors;
  if (finished) {
    folder.remove();
    return finished;
  }
  const { positionsMax, threadCount } = divideMemory(options, plan);
  const crewOptions = { path: options.path, folder: folder.path, kernels, positionsMax };
  const progress = new WorkProgress(plan, job.sizes, options.onProgress);
  let layers: FittedLayer[];
  {
    await using crew = await FitCrew.start(crewOptions, threadCount);
    using _ticking = progress.tick(crew);
    await observe(crew, job, positionsMax, progress, options.signal);
    const ranks = planeBitsOf(plan.identity) > 0
      ? layersOf(job.sizes).map(() => 0)
      : ranksOf(job, await tryRanks(crew, job, progress, options.signal));
    layers = await fit(crew, job, ranks, progress, options.signal);
  }
  const predictors = write(options.path, plan, layers);
  folder.remove();
  return predictors;
}

async function tryRanks(
  crew: FitCrew,
  { sizes }: CalibrationJob,
  progress: WorkProgress,
  signal?: AbortSignal,
): Promise<RankTrials[]> {
  const trials: RankTrials[] = [];
  const tasks = layersOf(sizes).map((layer): FitTask => ({ kind: "try", layer }));
  await crew.run(tasks, (task, result) => {
    trials[task.layer] = result!;
    progress.tried(task.layer);
  }, signal);
  return trials;
}

function ranksOf({ plan, sizes }: CalibrationJob, trials: RankTrials[]): number[] {
  const { ranks, byteLimit, identity } = plan;
  const choices = trials.map((trial) => ({
    hiddenSize: sizes.d,
    neuronCount: sizes.n,
    ranks,
    ...trial,
  }));
  return chooseRanks(choices, { byteLimit, cacheShares: identity.cacheShares });
}

async function fit(
  crew: FitCrew,
  { folder, sizes }: CalibrationJob,
  ranks: number[],
  progress: WorkProgress,
  signal?: AbortSignal,
): Promise<FittedLayer[]> {
  progress.chosen(ranks);
  const tasks = ranks.map((rank, layer): FitTask => ({ kind: "fit", layer, rank }));
  await crew.run(tasks, (task) => progress.fitted(task.layer), signal);
  return layersOf(sizes).map((layer) => readFittedLayer(folder, layer)!);
}

function layersOf({ numLayers }: FitSizes): number[] {
  return Array.from({ length: numLayers }, (_, layer) => layer);
}

/** Appends the predictors to the file; returns their part of the header. */
function write(path: string, plan: FitPlan, layers: FittedLayer[]): Predictors {
  const { identity, tokens } = plan, { textName, recallWanted } = identity;
  try {
    const header = updateFlash(path, ({ header, append }) => ({
      ...header,
      predictors: storePredictors(layers, append, {
        createdBy: `flashpipe ${VERSION}, ${CREATED[identity.method as FitMethod]}`,
        recallWanted,
        calibration: { tokens, textName: basename(textName) },
      }),
    }));
    return header.predictors!;
  } catch (error) {
    // A disk that is full: nothing half-written stays.
    finishedHeader(path, plan);
    throw error;
  }
}
