import { basename } from "node:path";
import type { CalibrateOptions } from "./fit/calibrate_options.ts";
import { beginCalibration, finishedHeader } from "./fit/calibration_job.ts";
import type { CalibrationJob } from "./fit/calibration_job.ts";
import { divideMemory } from "./fit/divide_memory.ts";
import { FitCrew } from "./fit/fit_crew.ts";
import { magnitudesRecord } from "./fit/fit_tasks.ts";
import { MagnitudeHistogram } from "./fit/magnitude_histogram.ts";
import { observe } from "./fit/observe.ts";
import { WorkProgress } from "./fit/work_progress.ts";
import { updateFlash } from "./format/flash_update.ts";
import type { Magnitudes } from "./format/header.ts";
import { loadKernelModule } from "./kernels.ts";
import { VERSION } from "./version.ts";

/** How to measure magnitudes: as for `calibrate`, where it is not about predictors. */
export type CalibrateMagnitudesOptions = Pick<
  CalibrateOptions,
  | "path"
  | "text"
  | "textName"
  | "minutes"
  | "memory"
  | "tokensMax"
  | "fresh"
  | "onProgress"
  | "signal"
>;

/** Shares of the activations of which the file tells the magnitude: 1 % to 99 %. */
const SPARSITIES = Array.from({ length: 99 }, (_, index) => (index + 1) / 100);

/**
 * For models whose activation leaves hardly anything at zero (SiLU, GELU): runs a text through the dense model, layer by layer, counts how
 * large activations are (with a gate: the gate's), and writes for shares from 1 % to 99 % the magnitudes below which they lie into
 * the file, atomically. By these `open({ ffn: "magnitude", sparsity })` leaves small ones out, as CATS does (Lee et al. 2024, arXiv
 * 2404.08763). Returns what was written. Stops and goes on as `calibrate` does.
 *
 * @throws {RangeError} the text is too short, the model has zeros of its own (ReLU) or experts, an option makes no sense, or the
 * folder was begun with other options (`fresh` begins anew)
 * @throws {MemoryBudgetError} the memory is too small; `requiredBytes` says what would do
 * @throws errors of the system, such as ENOSPC; the file is as it was
 */
export async function calibrateMagnitudes(
  options: CalibrateMagnitudesOptions,
): Promise<Magnitudes> {
  const { path, onProgress, signal } = options, kernels = loadKernelModule();
  const job = beginCalibration(options, kernels, "magnitudes"), { plan, folder } = job;
  const finished = finishedHeader(path, plan)?.magnitudes;
  if (finished) {
    folder.remove();
    return finished;
  }
  const { positionsMax, threadCount } = divideMemory(options, plan);
  const crewOptions = { path, folder: folder.path, kernels, positionsMax };
  {
    await using crew = await FitCrew.start(crewOptions, threadCount);
    const progress = new WorkProgress(plan, job.sizes, onProgress);
    using _ticking = progress.tick(crew);
    await observe(crew, job, positionsMax, progress, signal);
  }
  signal?.throwIfAborted();
  const magnitudes = magnitudesOf(job);
  write(job, magnitudes);
  folder.remove();
  return magnitudes;
}

function magnitudesOf(job: CalibrationJob): Magnitudes {
  const { tokens, identity: { textName } } = job.plan;
  return {
    createdBy: `flashpipe ${VERSION}`,
    calibration: { tokens, textName: basename(textName) },
    sparsities: SPARSITIES,
    layers: Array.from({ length: job.sizes.numLayers }, (_, layer) => {
      const histogram = histogramOf(job, layer);
      return { cuts: SPARSITIES.map((share) => histogram.quantile(share)) };
    }),
  };
}

/**
 * All that was counted of a layer. A run that goes on may group chunks in another way, over records of the one before: those count that
 * begin where the one before ends.
 */
function histogramOf({ folder, plan }: CalibrationJob, layer: number): MagnitudeHistogram {
  const histogram = new MagnitudeHistogram();
  for (let chunk = 0; chunk < plan.chunkLengths.length;) {
    const name = magnitudesRecord(layer, chunk);
    const record = folder.readRecord(name) as
      | { chunkCount: number; counts: Uint8Array }
      | undefined;
    if (!record) throw new Error(`Cannot go on as ${folder.path} lacks ${name}: begin anew`);
    // A copy, as bytes of a record lie at any address.
    histogram.merge(new Uint32Array(new Uint8Array(record.counts).buffer));
    chunk += record.chunkCount;
  }
  return histogram;
}

function write({ path, plan }: CalibrationJob, magnitudes: Magnitudes): void {
  try {
    updateFlash(path, ({ header }) => ({ ...header, magnitudes }));
  } catch (error) {
    // A disk that is full: nothing half-written stays.
    finishedHeader(path, plan);
    throw error;
  }
}
