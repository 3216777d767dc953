import type { MissCurve } from "../cache/miss_curve.ts";
import { FlashFile } from "../format/flash_file.ts";
import { bundleFormOf } from "../format/header.ts";
import { vectorByteLength } from "../format/layout.ts";
import { loadRows } from "../format/quantize.ts";
import { takeVectors } from "../format/sparse_vectors.ts";
import type { KernelModule } from "../kernels.ts";
import { bitPlanesFitByteLength, fitBitPlanes } from "./bit_planes_fit.ts";
import type { BitPlanesLayer } from "./bit_planes_fit.ts";
import {
  closedFormStart,
  finishLayer,
  offsetsFor,
  prepareLayer,
  storedAsQ8,
} from "./closed_form.ts";
import type { LowRankLayer } from "./closed_form.ts";
import type { CalibrationMethod, FitPlan, FitSizes } from "./fit_plan.ts";
import { chunkLengthMaxOf, CLOSED_FORM_TOKENS_MAX, planeBitsOf, sizesOf } from "./fit_plan.ts";
import { Judge } from "./judge.ts";
import { LowRankScorer } from "./low_rank_scorer.ts";
import type { LowRankStart } from "./low_rank_scorer.ts";
import { LayerForward } from "./layer_forward.ts";
import { LogisticTrainer } from "./logistic_trainer.ts";
import { MagnitudeHistogram } from "./magnitude_histogram.ts";
import type { LayerObservations } from "./observations.ts";
import { meanOf } from "./observations.ts";
import { Batches, TablePositions } from "./positions.ts";
import { reduceRank } from "./reduced_rank.ts";
import type { Table } from "./work_folder.ts";
import { WorkFolder } from "./work_folder.ts";

/** A piece of a calibration that one thread does; tasks of different layers do not depend on each other. */
export type FitTask =
  /** Takes chunks through a layer of the dense model and keeps what its FFN saw. */
  | { kind: "observe"; layer: number; firstChunk: number; chunkCount: number }
  /** Takes chunks through a layer of the dense model and counts how large activations are. */
  | { kind: "measure"; layer: number; firstChunk: number; chunkCount: number }
  /** Tries ranks, and keeps what each costs. */
  | { kind: "try"; layer: number }
  /** Fits the predictor of the rank that was chosen; 0: bit planes, which have none. */
  | { kind: "fit"; layer: number; rank: number };

export interface FitTasksOptions {
  path: string;
  folder: string;
  kernels: KernelModule;
  /** Most positions of a group. */
  positionsMax: number;
}

/** What ranks of a layer cost, one entry a rank. */
export interface RankTrials {
  predictedShares: number[];
  missCurves: MissCurve[];
}

/** Names of records. */
export const PLAN_RECORD = "plan";
export const trialsRecord = (layer: number) => `layer-${layer}.trials`;
export const magnitudesRecord = (layer: number, firstChunk: number) =>
  `layer-${layer}.magnitudes-${firstChunk}`;
export const fitRecord = (layer: number) => `layer-${layer}.fit`;
const trialRecord = (layer: number, rank: number) => `layer-${layer}.trial-${rank}`;
const trainingRecord = (layer: number) => `layer-${layer}.training`;

/** Rates, as shares of a matrix' size, that fall to zero on a line after some steps of warming up. */
const RATE = 0.03;
const WARMUP_STEPS = 40;

/** A checkpoint is written after so many ms; how often changes no number. */
const CHECKPOINT_MS = 4000;
/** Positions that scales of bit planes, and the closed form where training begins, learn from. */
const START_POSITIONS = 8192;
/** Held-out positions that trials are judged by. */
const TRIAL_POSITIONS = 3072;

/** Tells how much of a task is done, 0 to 1. */
export type ReportProgress = (share: number) => void;

/** Does tasks, one after the other, in the working folder. */
export class FitTasks {
  readonly #options: FitTasksOptions;
  readonly #folder: WorkFolder;
  readonly #file: FlashFile;
  readonly #plan: FitPlan;
  readonly #sizes: FitSizes;
  #forward: LayerForward | undefined;

  constructor(options: FitTasksOptions) {
    this.#options = options;
    this.#folder = new WorkFolder(options.folder);
    this.#file = FlashFile.open(options.path);
    this.#plan = this.#folder.readRecord(PLAN_RECORD) as FitPlan;
    this.#sizes = sizesOf(this.#file.header);
  }

  /** Bytes that a task takes at most, beside what the runtime has. */
  static byteLength(
    file: FlashFile,
    { method, positionsMax, rankMax, batchSize, heldOutCount }: {
      method: CalibrationMethod;
      positionsMax: number;
      rankMax: number;
      batchSize: number;
      heldOutCount: number;
    },
  ): number {
    const { d, n } = sizesOf(file.header);
    const chunkLengthMax = chunkLengthMaxOf(file.header);
    const observing = LayerForward.byteLength(file, { positionsMax, chunkLengthMax }) +
      5 * positionsMax * d;
    const trainer = LogisticTrainer.byteLength({
      hiddenSize: d,
      neuronCount: n,
      rank: rankMax,
      batchSize,
    });
    const judge = Judge.byteLength({ d, n }) + 3 * heldOutCount * n / 8;
    const scorer = LowRankScorer.byteLength({ d, n, rank: rankMax });
    const observations = (count: number) => 4 * d * 2 * count;
    const solving = 8 * d * d * 6 + 4 * n * d * 4 + 4 * n * rankMax * 3;
    const bitPlanes = observations(START_POSITIONS) + bitPlanesFitByteLength({ d, n }) + judge;
    const training = trainer + judge + scorer + 12 * rankMax * (d + n);
    const fitting: Record<CalibrationMethod, number> = {
      "trained": Math.max(observations(START_POSITIONS) + solving, training),
      "closed-form": observations(CLOSED_FORM_TOKENS_MAX) + solving + judge + scorer,
      "sign-sketch": bitPlanes,
      "low-bit": bitPlanes,
      "magnitudes": 0,
    };
    return Math.max(observing, fitting[method]);
  }

  close(): void {
    this.#file.close();
  }

  run(task: FitTask, report: ReportProgress): RankTrials | null {
    if (task.kind === "observe") return this.#observe(task), null;
    if (task.kind === "measure") return this.#measure(task), null;
    if (task.kind === "try") return this.#try(task.layer, report);
    this.#fit(task.layer, task.rank, report);
    return null;
  }

  #observe({ layer, firstChunk, chunkCount }: Extract<FitTask, { kind: "observe" }>): void {
    const { tokens } = this.#plan, { d, n } = this.#sizes;
    const { forward, first, count } = this.#runChunks(layer, { firstChunk, chunkCount });
    using positions = new TablePositions(this.#folder, layer, {
      ...this.#sizes,
      rowCount: tokens,
    });
    positions.write({
      inputs: forward.ffnInput.subarray(0, count * d),
      earlyInputs: forward.earlyInput.subarray(0, count * d),
      active: forward.active.subarray(0, count * n / 32),
    }, first);
  }

  #measure({ layer, firstChunk, chunkCount }: Extract<FitTask, { kind: "measure" }>): void {
    const histogram = new MagnitudeHistogram();
    this.#runChunks(layer, { firstChunk, chunkCount }, histogram);
    const counts = bytesOf(Uint32Array.from(histogram.counts));
    this.#folder.writeRecord(magnitudesRecord(layer, firstChunk), { chunkCount, counts });
  }

  /** Takes chunks through a layer, from the residual stream before it to that behind it. */
  #runChunks(
    layer: number,
    { firstChunk, chunkCount }: { firstChunk: number; chunkCount: number },
    histogram?: MagnitudeHistogram,
  ): { forward: LayerForward; first: number; count: number } {
    const { chunkLengths } = this.#plan, { d, numLayers } = this.#sizes;
    const lengths = chunkLengths.slice(firstChunk, firstChunk + chunkCount);
    const first = sum(chunkLengths.slice(0, firstChunk)), count = sum(lengths);
    this.#forward ??= new LayerForward(this.#file, this.#options.kernels, {
      positionsMax: this.#options.positionsMax,
      chunkLengthMax: Math.max(...chunkLengths),
    });
    const forward = this.#forward;
    const residual = forward.residual.subarray(0, count * d);
    using source = this.#openResidual(layer);
    if (layer === 0) forward.embed(this.#idsOf(lengths, first));
    else source.read(residual, first);
    forward.run(layer, lengths, histogram);
    if (layer < numLayers - 1) {
      using target = this.#openResidual(layer + 1);
      target.write(residual, first);
    }
    return { forward, first, count };
  }

  /** The residual stream before a layer; two tables take turns. */
  #openResidual(layer: number): Table {
    const shape = { rowByteLength: 4 * this.#sizes.d, rowCount: this.#plan.tokens };
    return this.#folder.openTable(`residual-${layer % 2}`, shape);
  }

  #idsOf(lengths: number[], first: number): number[][] {
    const rowCount = this.#plan.tokens;
    using table = this.#folder.openTable("ids", { rowByteLength: 4, rowCount });
    return lengths.map((length) => {
      const ids = new Uint32Array(length);
      table.read(ids, first);
      first += length;
      return Array.from(ids);
    });
  }

  #try(layer: number, report: ReportProgress): RankTrials {
    const known = this.#folder.readRecord(trialsRecord(layer)) as RankTrials | undefined;
    if (known) return known;
    const { identity, ranks } = this.#plan;
    const trials = identity.method === "trained"
      ? this.#tryByTraining(layer, report)
      : this.#tryInClosedForm(layer, Math.max(...ranks));
    this.#folder.writeRecord(trialsRecord(layer), trials);
    return trials;
  }

  #tryInClosedForm(layer: number, rankMax: number): RankTrials {
    const { recallWanted } = this.#plan.identity;
    const basis = prepareLayer(this.#observations(layer), { rankMax, recallWanted });
    const { predictedShares, missCurves } = basis;
    const entries = this.#plan.ranks.map((rank) => rank / 32 - 1);
    return {
      predictedShares: entries.map((entry) => predictedShares[entry]),
      missCurves: entries.map((entry) => missCurves[entry]),
    };
  }

  #tryByTraining(layer: number, report: ReportProgress): RankTrials {
    const { ranks, fitCount, tokens, trialSteps, identity } = this.#plan;
    const trials: RankTrials = { predictedShares: [], missCurves: [] };
    const basis = reduceRank(this.#observations(layer, START_POSITIONS), Math.max(...ranks));
    const range = { first: fitCount, count: Math.min(TRIAL_POSITIONS, tokens - fitCount) };
    using heldOut = this.#positions(layer, range);
    const workOf = (count: number) => sum(ranks.slice(0, count));
    for (const [index, rank] of ranks.entries()) {
      const trainer = this.#trainer(rank);
      trainer.begin(closedFormStart(basis, rank));
      const done = (share: number) => report((workOf(index) + share * rank) / workOf(ranks.length));
      this.#train(trainer, layer, { steps: trialSteps, batchFrom: 0, report: done });
      const scorer = new LowRankScorer(this.#options.kernels, this.#startOf(trainer, rank));
      const judge = new Judge(heldOut, this.#sizes);
      const { predictedShare, missCurve } = judge.sketch(scorer, identity.recallWanted);
      trials.predictedShares.push(predictedShare);
      trials.missCurves.push(missCurve);
      this.#folder.writeRecord(trialRecord(layer, rank), bytesOf(trainer.state.numbers));
    }
    return trials;
  }

  #fit(layer: number, rank: number, report: ReportProgress): void {
    if (this.#folder.readRecord(fitRecord(layer))) return;
    const fitted = this.#fitted(layer, rank, report);
    this.#folder.writeRecord(fitRecord(layer), packLayer(fitted));
    this.#folder.forget(trainingRecord(layer));
  }

  #fitted(layer: number, rank: number, report: ReportProgress): FittedLayer {
    const { identity } = this.#plan;
    if (planeBitsOf(identity) > 0) return this.#fitBitPlanes(layer);
    if (identity.method === "closed-form") return this.#fitInClosedForm(layer, rank);
    return this.#fitByTraining(layer, rank, report);
  }

  #fitInClosedForm(layer: number, rank: number): LowRankLayer {
    const observations = this.#observations(layer);
    const { recallWanted, earlyCost } = this.#plan.identity;
    const basis = reduceRank(observations, rank);
    const options = { recallWanted, earlyCost };
    return finishLayer(observations, basis, rank, options, this.#options.kernels);
  }

  #fitBitPlanes(layer: number): BitPlanesLayer {
    const { fitCount, tokens, identity } = this.#plan, bits = planeBitsOf(identity);
    const observations = this.#observations(layer, START_POSITIONS);
    using heldOut = this.#positions(layer, { first: fitCount, count: tokens - fitCount });
    return fitBitPlanes(observations, heldOut, { ...identity, bits }, this.#options.kernels);
  }

  #fitByTraining(layer: number, rank: number, report: ReportProgress): LowRankLayer {
    const { steps, trialSteps, fitCount, tokens, identity } = this.#plan;
    const trainer = this.#trainer(rank);
    this.#restore(trainer, layer, rank);
    this.#train(trainer, layer, { steps, batchFrom: trialSteps, report, isKept: true });
    const start = this.#startOf(trainer, rank);
    start.earlyOffset = this.#earlyOffset(layer, start);
    using heldOut = this.#positions(layer, { first: fitCount, count: tokens - fitCount });
    const judge = new Judge(heldOut, this.#sizes);
    const { a, b } = start, scorer = new LowRankScorer(this.#options.kernels, start);
    return { rank, a, b, ...judge.judge(scorer, identity) };
  }

  /** Goes on from the last checkpoint, or begins where the rank's trial ended. */
  #restore(trainer: LogisticTrainer, layer: number, rank: number): void {
    const saved = this.#folder.readRecord(trainingRecord(layer)) as
      | { rank: number; step: number; numbers: Uint8Array }
      | undefined;
    if (saved?.rank === rank) {
      trainer.state = { step: saved.step, numbers: floatsOf(saved.numbers) };
      return;
    }
    const trial = this.#folder.readRecord(trialRecord(layer, rank)) as Uint8Array;
    const numbers = floatsOf(trial);
    // The moments of the trial's last steps belong to another rate.
    numbers.fill(0, numbers.length / 3);
    trainer.state = { step: 0, numbers };
  }

  #train(
    trainer: LogisticTrainer,
    layer: number,
    { steps, batchFrom, report, isKept = false }: {
      steps: number;
      batchFrom: number;
      report: ReportProgress;
      isKept?: boolean;
    },
  ): void {
    const { fitCount, batchSize } = this.#plan;
    using positions = this.#positions(layer, { first: 0, count: fitCount });
    const batches = new Batches(positions, { count: fitCount, batchSize, seed: layer });
    const weights = this.#balance(positions);
    let keptAt = performance.now();
    while (trainer.step < steps) {
      const { step } = trainer;
      batches.read(batchFrom + step, trainer.inputs, trainer.active);
      const rate = RATE * Math.min(1, (step + 1) / WARMUP_STEPS) * (1 - step / steps);
      trainer.train({ rate, ...weights });
      report((step + 1) / steps);
      if (isKept && performance.now() - keptAt > CHECKPOINT_MS) {
        const { rank, state } = trainer, numbers = bytesOf(state.numbers);
        this.#folder.writeRecord(trainingRecord(layer), { rank, step: state.step, numbers });
        keptAt = performance.now();
      }
    }
  }

  /** Weights that let active neurons and others count the same in a batch. */
  #balance(positions: TablePositions): { positive: number; negative: number } {
    const { batchSize } = this.#plan, { n } = this.#sizes;
    const count = Math.min(positions.count, START_POSITIONS);
    const words = new Uint32Array(count * n / 32);
    positions.readActive(words, 0);
    let activeCount = 0;
    for (let word = 0; word < words.length; word++) {
      for (let bits = words[word]; bits !== 0; bits &= bits - 1) activeCount++;
    }
    const share = Math.max(1, activeCount) / (count * n);
    return { positive: (1 - share) / share / batchSize, negative: 1 / batchSize };
  }

  #trainer(rank: number): LogisticTrainer {
    const { d: hiddenSize, n: neuronCount } = this.#sizes, { batchSize } = this.#plan;
    return new LogisticTrainer(this.#options.kernels, {
      hiddenSize,
      neuronCount,
      rank,
      batchSize,
    });
  }

  /** The predictor as q8 will store it. */
  #startOf({ predictor }: LogisticTrainer, rank: number): LowRankStart {
    const { d, n } = this.#sizes, offset = predictor.bias.slice();
    return {
      rank,
      a: storedAsQ8(predictor.a.slice(), rank, d),
      b: storedAsQ8(predictor.b.slice(), n, rank),
      offset,
      earlyOffset: offset,
    };
  }

  /** Seen early, an input has another mean, for which each neuron's offset makes up. */
  #earlyOffset(layer: number, { a, b, offset }: LowRankStart): Float32Array {
    const { d } = this.#sizes;
    const { inputs, earlyInputs, fitCount } = this.#observations(layer, START_POSITIONS);
    const mean = meanOf(inputs, fitCount, d), earlyMean = meanOf(earlyInputs!, fitCount, d);
    return offsetsFor(offset, earlyMean.map((value, k) => value - mean[k]), a, b);
  }

  #positions(layer: number, range: { first: number; count: number }): TablePositions {
    const rowCount = this.#plan.tokens;
    return new TablePositions(this.#folder, layer, { ...this.#sizes, rowCount }, range);
  }

  /** A layer's positions in memory: the first ones that are learned from, and all that are held out. */
  #observations(layer: number, fitCountMax = Infinity): LayerObservations {
    const { d, n } = this.#sizes, { tokens } = this.#plan;
    const fitCount = Math.min(this.#plan.fitCount, fitCountMax);
    const heldOutCount = fitCountMax < Infinity ? 1 : tokens - this.#plan.fitCount;
    const inputs = new Float32Array((fitCount + heldOutCount) * d);
    const earlyInputs = new Float32Array(inputs.length);
    const active = new Uint32Array(heldOutCount * n / 32);
    using positions = this.#positions(layer, { first: 0, count: tokens });
    positions.readInputs(inputs.subarray(0, fitCount * d), 0);
    positions.readEarlyInputs(earlyInputs.subarray(0, fitCount * d), 0);
    positions.readInputs(inputs.subarray(fitCount * d), this.#plan.fitCount);
    positions.readEarlyInputs(earlyInputs.subarray(fitCount * d), this.#plan.fitCount);
    positions.readActive(active, this.#plan.fitCount);
    return {
      hiddenSize: d,
      neuronCount: n,
      ...upOf(this.#file, layer),
      inputs,
      earlyInputs,
      fitCount,
      heldOutActive: active,
    };
  }
}

/** The rows of a layer that decide, gates or up rows, as f32[n][d], and their bias. */
function upOf(file: FlashFile, layer: number): { up: Float32Array; upBias: Float32Array } {
  const { ffnQuantization, layers, config } = file.header, form = bundleFormOf(file.header);
  const { intermediateSize: n, hiddenSize: d } = config;
  const up = new Float32Array(n * d);
  const perRun = Math.max(1, Math.floor((1 << 24) / layers[layer].bundles.bundleByteLength));
  const rowBytes = new Uint8Array(Math.min(n, perRun) * vectorByteLength(ffnQuantization, d));
  for (let first = 0; first < n; first += perRun) {
    const rows = Math.min(perRun, n - first);
    const bytes = file.readBundles(layer, { first, count: rows });
    const values = up.subarray(first * d, (first + rows) * d);
    takeVectors(form, bytes, { vector: 0, count: rows }, rowBytes);
    loadRows(ffnQuantization, rowBytes, { rows, cols: d }, values);
  }
  const { ffn, biases } = config, name = `layers.${layer}.ffn.${ffn.isGated ? "gate" : "up"}.bias`;
  return { up, upBias: biases.up ? file.floats(name) : new Float32Array(n) };
}

/** A fitted layer of either kind. */
export type FittedLayer = LowRankLayer | BitPlanesLayer;

/** A fitted layer as a record: numbers as bytes. */
function packLayer(layer: FittedLayer): Record<string, unknown> {
  const entries = Object.entries(layer) as [string, unknown][];
  return Object.fromEntries(
    entries.map(([name, value]) => [name, value instanceof Float32Array ? bytesOf(value) : value]),
  );
}

/** The fitted layer of a record, or undefined if there is none. */
export function readFittedLayer(folder: WorkFolder, layer: number): FittedLayer | undefined {
  const record = folder.readRecord(fitRecord(layer)) as Record<string, unknown> | undefined;
  if (!record) return undefined;
  const entries = Object.entries(record).map(([name, value]) =>
    value instanceof Uint8Array && name !== "planes" ? [name, floatsOf(value)] : [name, value]
  );
  return Object.fromEntries(entries) as FittedLayer;
}

function bytesOf(values: Float32Array | Uint32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** A copy, as bytes of a record lie at any address. */
function floatsOf(bytes: Uint8Array): Float32Array {
  return new Float32Array(new Uint8Array(bytes).buffer);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
