import { truncateSync } from "node:fs";
import { basename } from "node:path";
import { crc32 } from "node:zlib";
import { formatBytes, parseByteSize } from "./byte_size.ts";
import { MemoryBudgetError } from "./errors.ts";
import { chooseRanks, leastPredictorBytes } from "./fit/choose_ranks.ts";
import { FitCrew } from "./fit/fit_crew.ts";
import {
  candidateRanks,
  FIT_METHODS,
  fitCountOf,
  observeFlops,
  planeBitsOf,
  plannedSteps,
  plannedTokens,
  sizesOf,
  trainFlops,
} from "./fit/fit_plan.ts";
import type { FitIdentity, FitMethod, FitPlan } from "./fit/fit_plan.ts";
import { FitTasks, PLAN_RECORD, readFittedLayer } from "./fit/fit_tasks.ts";
import type { FitTask, FittedLayer, RankTrials } from "./fit/fit_tasks.ts";
import { sampleText } from "./fit/sample_text.ts";
import { storePredictors } from "./fit/store_predictors.ts";
import { WorkFolder } from "./fit/work_folder.ts";
import { FlashFile } from "./format/flash_file.ts";
import { updateFlash } from "./format/flash_update.ts";
import { PLANE_BITS_MAX } from "./format/header.ts";
import type { Predictors } from "./format/header.ts";
import { vectorByteLength } from "./format/layout.ts";
import { encodeHeader } from "./format/prelude.ts";
import { loadKernelModule } from "./kernels.ts";
import type { KernelModule } from "./kernels.ts";
import { ffnByteLength } from "./plan.ts";
import { coreCount, freeBytes, runtimeBytes, runtimeName } from "./runtime.ts";
import { TextCodec } from "./text_stream.ts";
import { VERSION } from "./version.ts";

/** How to calibrate. Sizes may be written as `"512MiB"`. */
export interface CalibrateOptions {
  /** The `.flash` file; it gets predictors, or new ones. */
  path: string;
  /** Text like the one that will be generated. Documents end with `<|endoftext|>`. */
  text: string;
  /** What the text is called in the file's provenance. */
  textName?: string;
  /** Share of the active neurons that the late look is to find, in each layer. Default 0.99. */
  recall?: number;
  /**
   * About how long it should take on two cores, in minutes; the work is planned by this before it begins, and is the same
   * on any machine. Default 2. Large models take longer, as less than 1024 positions teach nothing.
   */
  minutes?: number;
  /** Ceiling of the whole process's memory. Default: half of what is free, at most 2 GiB. */
  memory?: string | number;
  /** What all low-rank predictors may take: a share of the FFN's bytes in f16. Default 0.1. */
  byteShare?: number;
  /** Most positions of the text to look at; the minutes may allow fewer. */
  tokensMax?: number;
  /**
   * `trained` (default) begins where `closed-form` ends: better low-rank predictors, for most of the time. `sign-sketch` and
   * `low-bit` train nothing: they keep the up rows in 1 bit or a few a weight, and need the text for means and thresholds.
   */
  method?: FitMethod;
  /** Bits that `low-bit` keeps of a weight: 2, 3 or 4 (default). */
  bits?: number;
  /** Shares of the FFN that caches will hold: ranks are weighed by the reads at these sizes. Default 10 to 30 %. */
  cacheShares?: readonly number[];
  /** How many neurons found by the early look are worth one read in vain. Default 0.5. */
  earlyCost?: number;
  /** Begins anew where an unfinished run with any options left off. */
  fresh?: boolean;
  onProgress?: (progress: CalibrateProgress) => void;
  signal?: AbortSignal;
}

/** How far calibration is. */
export interface CalibrateProgress {
  /** "observing": the text runs through the model; "trying": ranks; "fitting": the predictors of the ranks chosen. */
  phase: "observing" | "trying" | "fitting";
  /** Work done and to do in all phases, in a unit of its own; a run that goes on does not begin at 0. */
  done: number;
  total: number;
}

const RECALL_WANTED = 0.99;
const BYTE_SHARE = 0.1;
const MINUTES = 2;
const LOW_BITS = 4;
const LOW_BITS_MIN = 2;
const EARLY_COST = 0.5;
const CACHE_SHARES = [0.1, 0.15, 0.2, 0.3];
/** What provenance calls a method. */
const CREATED: Record<FitMethod, string> = {
  "trained": "trained",
  "closed-form": "closed form",
  "sign-sketch": "sign sketch",
  "low-bit": "low-bit copy",
};
const TOKENS_MIN = 64;
const MEMORY_MAX = 2 ** 31;
const THREADS_MAX = 16;

/** Layout of the working folder. */
const FOLDER_VERSION = 2;
/** A group is taken through a layer at once: fewer cost more reading of weights, more gain nothing. */
const GROUP_POSITIONS = 4096;
const GROUP_POSITIONS_MIN = 256;
/** MiB that a fitting thread's heap takes beside its own memory: measured. */
const THREAD_MIB = 56;
const PROGRESS_EVERY_MS = 200;
/** What is observed is waited for (fsync) and recorded this often. */
const RECORD_EVERY_MS = 3000;

/** Where a calibration of a file keeps what it has until it is done. */
export function calibrationFolder(path: string): string {
  return `${path}.calibration`;
}

/**
 * Fits a predictor for each layer to a text and writes them into the file atomically: the text runs through the dense
 * model, layer by layer; a few ranks are tried for each layer; those are chosen that read least within the bytes, and
 * trained. Or, by a method that trains nothing, up rows are rounded to bits. Returns what was written.
 *
 * What it has lies in a folder beside the file (`NAME.flash.calibration`) until it is done. A run that was stopped, by
 * `signal` or by a kill, goes on there when it is called again with the same options, and ends with the same bytes as
 * one that was not.
 *
 * @throws {RangeError} the text is too short, an option makes no sense, the predictors' bytes are too few for rank 32 in
 * each layer, or the folder was begun with other options (`fresh` begins anew)
 * @throws {MemoryBudgetError} the memory is too small; `requiredBytes` says what would do
 * @throws errors of the system, such as ENOSPC; the file is as it was
 */
export async function calibrate(options: CalibrateOptions): Promise<Predictors> {
  const kernels = loadKernelModule();
  const job = begin(options, kernels);
  const { plan, folder } = job;
  const finished = finishedUpdate(options.path, plan);
  if (finished) {
    folder.remove();
    return finished;
  }
  const { positionsMax, threadCount } = divideMemory(options, plan);
  const crewOptions = { path: options.path, folder: folder.path, kernels, positionsMax };
  const progress = new Progress(plan, job.sizes, options.onProgress);
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

/** A calibration at hand. */
interface Job {
  path: string;
  folder: WorkFolder;
  plan: FitPlan;
  sizes: ReturnType<typeof sizesOf>;
}

/** Checks the options; finds the plan that was made before, or makes it. */
function begin(options: CalibrateOptions, kernels: KernelModule): Job {
  using file = FlashFile.open(options.path);
  const identity = identityOf(options, file, kernels);
  const folder = new WorkFolder(calibrationFolder(options.path));
  if (options.fresh) folder.remove();
  const sizes = sizesOf(file.header);
  const found = folder.readRecord(PLAN_RECORD) as FitPlan | undefined;
  if (found) checkIdentity(found.identity, identity, folder.path);
  const plan = found ?? makePlan(options, identity, file, folder);
  return { path: options.path, folder, plan, sizes };
}

function identityOf(
  options: CalibrateOptions,
  { header }: FlashFile,
  kernels: KernelModule,
): FitIdentity {
  const { text, textName = "text", minutes = MINUTES, method = "trained", bits = LOW_BITS } =
    options;
  const { recall = RECALL_WANTED, byteShare = BYTE_SHARE, earlyCost = EARLY_COST } = options;
  const { cacheShares = CACHE_SHARES, tokensMax = Number.MAX_SAFE_INTEGER } = options;
  if (!(recall > 0 && recall < 1)) {
    throw new RangeError(`Cannot calibrate for a recall of ${recall}: between 0 and 1`);
  }
  if (!(minutes > 0 && minutes <= 1e5)) {
    throw new RangeError(`Cannot calibrate for ${minutes} minutes: more than 0, up to 100000`);
  }
  if (!FIT_METHODS.includes(method)) {
    throw new RangeError(`Cannot calibrate by "${method}": one of ${FIT_METHODS.join(", ")}`);
  }
  if (!(Number.isInteger(bits) && bits >= LOW_BITS_MIN && bits <= PLANE_BITS_MAX)) {
    throw new RangeError(`Cannot keep ${bits} bits: ${LOW_BITS_MIN} to ${PLANE_BITS_MAX}`);
  }
  if (options.bits !== undefined && method !== "low-bit") {
    throw new RangeError(`Cannot keep ${bits} bits by ${method}: only low-bit has a choice`);
  }
  if (!header.tokenizer) {
    throw new RangeError(`Cannot calibrate ${options.path} with text as it has no tokenizer`);
  }
  const model = { ...header, predictors: null };
  return {
    version: `${VERSION}, folder ${FOLDER_VERSION}`,
    runtime: `${runtimeName()}, ${kernels.build} kernels`,
    model: crc32(encodeHeader(model)),
    text: crc32(text),
    textName,
    method,
    bits,
    recallWanted: recall,
    byteShare,
    minutes,
    tokensMax,
    earlyCost,
    cacheShares: [...cacheShares],
  };
}

function checkIdentity(found: FitIdentity, wanted: FitIdentity, path: string): void {
  const names = Object.keys(wanted) as (keyof FitIdentity)[];
  const differing = names.filter((name) => String(found[name]) !== String(wanted[name]));
  if (differing.length === 0) return;
  const list = differing.map((name) => `${name} ${found[name]}, now ${wanted[name]}`).join("; ");
  throw new RangeError(
    `Cannot go on in ${path} as it was begun otherwise (${list}): ` +
      "use the same options, or begin anew with --fresh",
  );
}

/** Samples the text and decides on all that will be computed. */
function makePlan(
  options: CalibrateOptions,
  identity: FitIdentity,
  file: FlashFile,
  folder: WorkFolder,
): FitPlan {
  const { header } = file, sizes = sizesOf(header), { minutes } = identity;
  const isLowRank = planeBitsOf(identity) === 0;
  const byteLimit = byteLimitOf(file, identity.byteShare);
  const least = leastPredictorBytes(sizes.d, sizes.n) * sizes.numLayers;
  if (isLowRank && byteLimit < least) {
    const percent = Math.ceil(1000 * identity.byteShare * least / byteLimit) / 10;
    throw new RangeError(
      `Cannot fit predictors of rank 32 into ${byteLimit} bytes: ${
        least - byteLimit
      } more are needed ` +
        `(${percent} % of the FFN's bytes)`,
    );
  }
  const codec = new TextCodec(header.tokenizer!, file.path);
  const chunks = sampleText(options.text, {
    encode: (text) => codec.encode(text),
    chunkLength: header.config.maxPositionEmbeddings,
    tokensMax: Math.min(
      identity.tokensMax,
      plannedTokens(sizes, { minutes, method: identity.method }),
    ),
    seed: 1,
  });
  const chunkLengths = chunks.map(({ length }) => length);
  const tokens = chunkLengths.reduce((sum, length) => sum + length, 0);
  if (tokens < TOKENS_MIN) {
    throw new RangeError(`Cannot calibrate with ${tokens} tokens of text: at least ${TOKENS_MIN}`);
  }
  const fitCount = fitCountOf(chunkLengths);
  const ranks = isLowRank ? candidateRanks(sizes, byteLimit) : [];
  const plan: FitPlan = {
    identity,
    fileByteLength: file.byteLength,
    generation: file.slot.generation,
    chunkLengths,
    tokens,
    fitCount,
    byteLimit,
    ranks,
    ...plannedSteps(sizes, { minutes, byteLimit, fitCount, ranks }),
  };
  folder.create();
  using table = folder.openTable("ids", { rowByteLength: 4, rowCount: tokens });
  table.write(Uint32Array.from(chunks.flat()), 0);
  table.sync();
  folder.writeRecord(PLAN_RECORD, plan);
  return plan;
}

/** Bytes for predictors: a share of what the FFN takes in f16, whatever it is stored as. */
function byteLimitOf({ header }: FlashFile, share: number): number {
  const { quantization, config } = header;
  const perBundle = 2 * vectorByteLength(quantization, config.hiddenSize);
  const perBundleF16 = 4 * config.hiddenSize;
  return Math.floor(share * ffnByteLength(header) / perBundle * perBundleF16);
}

/** How many threads the memory has room for, and how many positions each takes at once. */
function divideMemory(options: CalibrateOptions, plan: FitPlan) {
  using file = FlashFile.open(options.path);
  const memoryBytes = options.memory === undefined
    ? Math.min(MEMORY_MAX, Math.max(2 ** 29, freeBytes() / 2))
    : parseByteSize(options.memory);
  const { ranks, batchSize, tokens, fitCount, chunkLengths } = plan;
  const chunkMax = Math.max(...chunkLengths);
  const needed = (threadCount: number, positionsMax: number) =>
    runtimeBytes(threadCount) + threadCount * (THREAD_MIB * 2 ** 20 + FitTasks.byteLength(file, {
        method: plan.identity.method,
        positionsMax,
        rankMax: Math.max(0, ...ranks),
        batchSize,
        heldOutCount: tokens - fitCount,
      }));
  const threadsMax = Math.min(THREADS_MAX, coreCount(), file.header.config.numLayers);
  for (let threadCount = threadsMax; threadCount >= 1; threadCount--) {
    let positionsMax = Math.max(chunkMax, Math.min(GROUP_POSITIONS, tokens));
    while (positionsMax > Math.max(chunkMax, GROUP_POSITIONS_MIN)) {
      if (needed(threadCount, positionsMax) <= memoryBytes) break;
      positionsMax = Math.max(chunkMax, positionsMax >> 1);
    }
    if (needed(threadCount, positionsMax) <= memoryBytes) return { threadCount, positionsMax };
  }
  const requiredBytes = Math.ceil(needed(1, chunkMax) / 2 ** 20) * 2 ** 20;
  throw new MemoryBudgetError(
    `Cannot calibrate within ${formatBytes(memoryBytes)}: ` +
      `the smallest memory that works is ${requiredBytes / 2 ** 20}MiB`,
    { requiredBytes },
  );
}

/** How far the text is: layers before `layer` are done, and of this one the first `chunks` chunks. */
interface Observed {
  layer: number;
  chunks: number;
}

const OBSERVED_RECORD = "observed";

/** Runs the text through the dense model, layer by layer, from where it got to. */
async function observe(
  crew: FitCrew,
  { folder, plan, sizes }: Job,
  positionsMax: number,
  progress: Progress,
  signal?: AbortSignal,
): Promise<void> {
  const { chunkLengths } = plan;
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
      .map((group): FitTask => ({ kind: "observe", layer, ...group }));
    await crew.run(tasks, (task) => {
      const { firstChunk, chunkCount } = task as FitTask & { kind: "observe" };
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
  { tokens: rowCount }: FitPlan,
  { d, n }: Job["sizes"],
  layer: number,
): void {
  const shapes: [string, number][] = [
    [`layer-${layer}.inputs`, 2 * d],
    [`layer-${layer}.early`, 2 * d],
    [`layer-${layer}.active`, n / 8],
    [`residual-${(layer + 1) % 2}`, 4 * d],
  ];
  for (const [name, rowByteLength] of shapes) {
    using table = folder.openTable(name, { rowByteLength, rowCount });
    table.sync();
  }
}

async function tryRanks(
  crew: FitCrew,
  { sizes }: Job,
  progress: Progress,
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

function ranksOf({ plan, sizes }: Job, trials: RankTrials[]): number[] {
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
  { folder, sizes }: Job,
  ranks: number[],
  progress: Progress,
  signal?: AbortSignal,
): Promise<FittedLayer[]> {
  progress.chosen(ranks);
  const tasks = ranks.map((rank, layer): FitTask => ({ kind: "fit", layer, rank }));
  await crew.run(tasks, (task) => progress.fitted(task.layer), signal);
  return layersOf(sizes).map((layer) => readFittedLayer(folder, layer)!);
}

function layersOf({ numLayers }: Job["sizes"]): number[] {
  return Array.from({ length: numLayers }, (_, layer) => layer);
}

/**
 * The predictors, if a run that was killed had written them already and only the folder was left. What an update that
 * was cut off left behind the file is taken away.
 */
function finishedUpdate(
  path: string,
  { fileByteLength, generation }: FitPlan,
): Predictors | undefined {
  using file = FlashFile.open(path);
  if (file.slot.generation > generation) return file.header.predictors ?? undefined;
  if (file.byteLength > fileByteLength) truncateSync(path, fileByteLength);
  return undefined;
}

/** Appends the predictors to the file; returns their part of the header. */
function write(path: string, plan: FitPlan, layers: FittedLayer[]): Predictors {
  const { identity, tokens } = plan, { textName, recallWanted } = identity;
  try {
    const header = updateFlash(path, ({ header, append }) => ({
      ...header,
      predictors: storePredictors(layers, append, {
        createdBy: `flashpipe ${VERSION}, ${CREATED[identity.method]}`,
        recallWanted,
        calibration: { tokens, textName: basename(textName) },
      }),
    }));
    return header.predictors!;
  } catch (error) {
    // A disk that is full: nothing half-written stays.
    finishedUpdate(path, plan);
    throw error;
  }
}

/** Counts work over all phases, in floating-point operations. */
class Progress {
  readonly #plan: FitPlan;
  readonly #sizes: Job["sizes"];
  readonly #tell: CalibrateOptions["onProgress"];
  readonly #perObservation: number;
  readonly #perTrial: number;
  #phase: CalibrateProgress["phase"] = "observing";
  #observed = 0;
  readonly #tried = new Set<number>();
  readonly #fitted = new Set<number>();
  #perFit: number[];

  constructor(plan: FitPlan, sizes: Job["sizes"], tell: CalibrateOptions["onProgress"]) {
    const { ranks, batchSize, trialSteps, byteLimit, identity } = plan;
    const { d, n, numLayers } = sizes;
    const isTrained = identity.method === "trained";
    this.#plan = plan;
    this.#sizes = sizes;
    this.#tell = tell;
    this.#perObservation = observeFlops(sizes) / numLayers;
    // In closed form or bit planes a layer costs about as much as a few thousand positions.
    this.#perTrial = ranks.length === 0
      ? 0
      : isTrained
      ? trialSteps * batchSize * ranks.reduce((sum, rank) => sum + trainFlops(sizes, rank), 0)
      : 2000 * this.#perObservation;
    const rank = byteLimit / numLayers / (1.0625 * (d + n));
    this.#perFit = new Array(numLayers).fill(this.#fitWork(rank));
  }

  #fitWork(rank: number): number {
    const { identity, steps, batchSize } = this.#plan;
    if (identity.method !== "trained") return 2000 * this.#perObservation;
    return steps * batchSize * trainFlops(this.#sizes, rank);
  }

  observed({ layer, chunks }: Observed): void {
    const { chunkLengths, tokens } = this.#plan;
    const inLayer = chunkLengths.slice(0, chunks).reduce((sum, length) => sum + length, 0);
    this.#observed = layer * tokens + inLayer;
  }

  tried(layer: number): void {
    this.#tried.add(layer);
  }

  chosen(ranks: number[]): void {
    this.#perFit = ranks.map((rank) => this.#fitWork(rank));
  }

  fitted(layer: number): void {
    this.#fitted.add(layer);
  }

  /** Tells while in scope. */
  tick(crew: FitCrew): Disposable {
    const tell = () => this.#report(crew);
    const timer = setInterval(tell, PROGRESS_EVERY_MS);
    return {
      [Symbol.dispose]() {
        clearInterval(timer);
        tell();
      },
    };
  }

  #report(crew: FitCrew): void {
    const { tokens } = this.#plan, { numLayers } = this.#sizes;
    let done = this.#observed * this.#perObservation + this.#tried.size * this.#perTrial;
    for (const layer of this.#fitted) done += this.#perFit[layer];
    for (const { task: { kind, layer }, share } of crew.running) {
      if (kind === "try") this.#phase = "trying", done += share * this.#perTrial;
      if (kind === "fit") this.#phase = "fitting", done += share * this.#perFit[layer];
    }
    const total = numLayers * (tokens * this.#perObservation + this.#perTrial) +
      this.#perFit.reduce((sum, work) => sum + work, 0);
    this.#tell?.({ phase: this.#phase, done, total });
  }
}
