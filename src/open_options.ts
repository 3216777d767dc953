import { isSparse } from "./activation.ts";
import { EARLY_POSITIONS } from "./arena.ts";
import { parseByteSize, parseShare } from "./byte_size.ts";
import { DEFAULT_POLICY, POLICY_NAMES } from "./cache/policies.ts";
import type { PolicyChoice, PolicyName } from "./cache/policies.ts";
import type { DiskSimulation } from "./flash/disk.ts";
import { READER_BACKENDS } from "./flash/reader_options.ts";
import type { ReaderBackend } from "./flash/reader_options.ts";
import { canUseUring } from "./flash/uring_reader.ts";
import type { FlashHeader } from "./format/header.ts";
import { magnitudeCuts } from "./magnitude_cuts.ts";
import type { Prepared } from "./open.ts";
import type { KernelBuild } from "./kernels.ts";
import { KV_QUANTIZATIONS } from "./kv_page.ts";
import type { KvQuantization } from "./kv_page.ts";
import type { LoadProgress } from "./load.ts";
import { FFN_CHOICES } from "./pipeline/options.ts";
import type { FfnChoice, FfnMode } from "./pipeline/options.ts";
import type { WaitStyle } from "./pipeline/sequence.ts";
import { BOUNCE_BYTES } from "./plan.ts";
import type { PlanWishes } from "./plan.ts";
import { chooseReading } from "./probe/choose_reading.ts";
import type { Reading } from "./probe/choose_reading.ts";
import type { Probe } from "./probe/probe_result.ts";
import { recallShifts } from "./predict/recall_shift.ts";
import { coreCount, freeBytes, runtimeBytes, START_JITTER_BYTES } from "./runtime.ts";

/** How to open a model. All are optional; sizes may be written as `"3.5GiB"`, shares as `"20%"`. */
export interface OpenOptions {
  /** Ceiling of the whole process's memory. Default: a part of what is free. */
  memory?: string | number;
  /** Share of the FFN's neurons that may lie in memory (in `dense`: of its layers); the other way to set the cache. */
  ffnCache?: string | number;
  /**
   * `predicted`: compute the neurons that the predictor names; `exact`: the true active set, with the up projection in memory;
   * `dense`: all neurons, those of layers that do not fit in memory streamed. Default: `predicted` if the file has predictors, else
   * `exact`; `dense` for an activation that leaves hardly anything at zero.
   *
   * `magnitude`, never the default, approximates such a model: neurons whose activation (with a gate: the gate's) is small are left
   * out, a share of `sparsity`. It needs a file with magnitudes (`calibrateMagnitudes`); `evaluate` says what it costs.
   */
  ffn?: FfnChoice;
  /**
   * Share of the neurons that `magnitude` leaves out, about, such as `"50%"`; within what calibration wrote. Part of the mode: logits
   * depend on it.
   */
  sparsity?: string | number;
  /**
   * Which neurons make room for others: those used least often of late (`frequency`, the default), those not used for longest
   * (`lru`), first those used only once (`segmented`), all but the hottest in the order of their last use (`pinned`), or all that were
   * not used in the last `window` tokens (`window`). Changes no result.
   */
  policy?: PolicyName;
  /**
   * Share of the active neurons that the late look of `predicted` finds, such as 0.995: more cost more reads. What it was
   * calibrated for unless told, and within the curve that calibration wrote. Part of the mode: logits depend on it.
   */
  recall?: string | number;
  /**
   * Tokens whose neurons stay in the cache, with the policies `window` (which needs not be named then) and `pinned`; 0: none, so
   * that each token reads all that it needs.
   */
  window?: number;
  /** Flash readers. Default: as a kept probe says, else 8 with `pread`, where each has one read in flight, and 1 with `io_uring`. */
  readers?: number;
  /**
   * How readers ask the kernel. Default: as a kept probe says, else `io_uring` where system, runtime and permission allow it (in
   * Deno: `--allow-ffi`), else `pread`.
   */
  backend?: ReaderBackend;
  /** Compute lanes. Default: one less than there are cores, at least 1; of large models at least 2, where there are two cores. */
  lanes?: number;
  /** Positions of prompt and answer together; default (and most): what the model was trained for. */
  context?: number;
  /** Start reads by the early look. Default true; changes no result. */
  prefetch?: boolean;
  /** Ask the system for pages of 2 MiB, where FFI reaches it (Linux; Deno: `--allow-ffi`). Default true; changes no result. */
  hugePages?: boolean;
  /** Kernel build; default: relaxed SIMD where the runtime has it. */
  kernels?: KernelBuild;
  /** Record spans for `model.traceJson()`. */
  trace?: boolean;
  /** A worker that waits longer than this for another gives up, in ms. Default 30 000. */
  waitMsMax?: number;
  /** Polls of a waiting thread before it sleeps. */
  spins?: number;
  /** Polls of a lane that waits for reads before it sleeps. */
  flashSpins?: number;
  /** Reads whose gap is at most this many bytes are merged into one. Default: as a kept probe of the disk says, else 8 KiB. */
  gapBytes?: number;
  /** Use the kept probe of the disk (`flashpipe probe`), if there is one. Default true; changes no result. */
  probe?: boolean;
  /**
   * For `bench ladder`: each vector of a neuron (gate and up row, down column) is a read of its own, merged with no other, as if they
   * lay apart on flash. Changes no result.
   */
  unbundled?: boolean;
  /**
   * For `bench ladder`, with `dense`: keep nothing, so that each token reads all weights. What is resident is loaded all the same, for
   * lanes to compute from, but read anew to scratch. Changes no result.
   */
  naive?: boolean;
  /** For tests: make the disk slow, short or faulty. */
  simulation?: DiskSimulation;
  /** Stops opening. */
  signal?: AbortSignal;
  onProgress?: LoadProgress;
  /** Told what was decided, before anything is loaded. */
  onPlan?: (prepared: Prepared) => void;
  /**
   * Look at a random sample of the neurons that were not predicted, and tell what prediction misses: `stats().audit`.
   * Changes no result. Only with `predicted`.
   */
  audit?: boolean;
  /**
   * How keys and values of the context are stored; part of the mode: logits depend on it. Default: `f32` if the model's weights are,
   * `q8` if they are q8, else `f16`.
   */
  kv?: KvQuantization;
  /**
   * Positions of a prompt that go through the model together; 1: one after the other. Default 64. More are faster, and take
   * memory. Changes no result.
   */
  promptChunk?: number;
  /**
   * Tokens of a draft, at most: guesses from the text so far, which the model verifies in one step. 0: none; default (and most) 7.
   * Changes no result.
   */
  drafts?: number;
  /**
   * Share of the time that drafts may lose where the text misleads them, beside half a step: then they stop. 1: whatever they
   * cost. Default 2 %. Changes no result.
   */
  draftLoss?: string | number;
  /** Rows of logits, and of observations, that may wait for who takes them. Default 8. */
  logitsRows?: number;
  /**
   * Pages of the KV cache take slots as the context grows. Default true with `memory`; with `ffnCache`, which says how many slots
   * there are, false. Changes no result.
   */
  sharesPools?: boolean;
  /** For tests: arenas of at most so many bytes. */
  arenaBytes?: number;
  /** Rows for `Model.observe`: what calibration needs. */
  observations?: boolean;
}

/**
 * Reading over 8 KiB takes the disk about 7 us and the processor 1 us; another read takes 15 us of each (bench/readers.ts).
 */
export const GAP_BYTES = 8192;
const READERS_MAX = 64;
/** Readers with one read in flight each: more wake each other more than they gain (bench/tokens.ts). */
const PREAD_READERS = 8;
const URING_DEPTH = 64;
const LANES_MAX = 64;
const INT32_MAX = 2 ** 31 - 1;
/** Rows of logits and of observations that may wait for the main thread. */
const LOGITS_ROWS = 8, LOGITS_ROWS_MAX = 1024;
/** With its first token a step of drafts is one of `EARLY_POSITIONS`, which reads what it names and streams nothing. */
const DRAFTS_MAX = EARLY_POSITIONS - 1;
const DRAFT_LOSS = 0.02;
const PROMPT_CHUNK = 64, PROMPT_CHUNK_MAX = 1024;

/** Options with every default in place. */
export interface Settings {
  options: OpenOptions;
  policy: PolicyChoice;
  /** Reads whose gap is at most so many bytes are merged. */
  gapBytes: number;
  /** Whether a kept probe chose how to read. */
  isProbed: boolean;
  /** Share of the time that drafts may lose. */
  draftLoss: number;
  /** Whether reads may be started by an early look. */
  hasEarlyLook: boolean;
  /** Added to each layer's biases for the recall that was asked for; null for none. */
  recallShifts: number[] | null;
  /** Of each layer: the magnitude below which `magnitude` takes an activation as zero; null in other modes. */
  cuts: number[] | null;
  wishes: PlanWishes;
}

/**
 * How to read: as the probe of this disk says, where there is one and the options leave it open; else by defaults. The simulated disk
 * of tests has not been probed.
 */
function settleReading(
  { layers }: FlashHeader,
  options: OpenOptions,
  probe: Probe | null,
): Reading & { isProbed: boolean } {
  const { readers, gapBytes } = options, backend = chooseBackend(options);
  const wishes = {
    recordBytes: layers[0].bundles.bundleByteLength,
    backends: options.backend || options.simulation || backend === "pread"
      ? [backend]
      : READER_BACKENDS,
    readerCount: readers,
    coreCount: coreCount(),
    mergedBytesMax: BOUNCE_BYTES,
  };
  const chosen = probe && !options.simulation ? chooseReading(probe.disk, wishes) : null;
  const reading = chosen ?? {
    backend,
    readerCount: readers ?? (backend === "io_uring" ? 1 : PREAD_READERS),
    depth: backend === "io_uring" ? URING_DEPTH : 1,
    gapBytes: GAP_BYTES,
  };
  return { ...reading, gapBytes: gapBytes ?? reading.gapBytes, isProbed: chosen !== null };
}

/** What is known beside header and options. */
export interface SettleWith {
  /** The kept probe of the disk, if it is to be used. */
  probe?: Probe | null;
  /** Memory of the process, where it is not what it has now. */
  nowBytes?: number;
}

/** Positions of a text unless told otherwise: a model may know more than a user's memory has room for. */
const CONTEXT_DEFAULT_MAX = 4096;

/** How the FFN is computed unless told otherwise. */
export function defaultMode({ config, predictors }: FlashHeader): FfnMode {
  if (config.experts) return "routed";
  if (predictors) return "predicted";
  return isSparse(config) ? "exact" : "dense";
}

/** A router chooses, whatever is wished; of what it chooses `exact` computes the neurons that are active. */
function checkModeOfExperts(config: FlashHeader["config"], ffn: OpenOptions["ffn"]): void {
  if (ffn === undefined || (ffn === "exact" && isSparse(config))) return;
  const why = ffn === "exact"
    ? `hardly any activation of ${config.ffn.activation} is zero, so experts are read whole`
    : "the model's router says which experts are computed";
  throw new RangeError(`Cannot compute the FFN as "${ffn}": ${why}`);
}

/** Checks the options and fills in what they leave open. Throws `RangeError` for what makes no sense. */
export function settle(
  header: FlashHeader,
  path: string,
  options: OpenOptions,
  { probe = null, nowBytes }: SettleWith = {},
): Settings {
  const { config, predictors } = header;
  if (config.experts) checkModeOfExperts(config, options.ffn);
  const mode = options.ffn ?? defaultMode(header);
  if (mode !== "routed" && !FFN_CHOICES.includes(mode)) {
    throw new RangeError(`Cannot compute the FFN as "${mode}": one of ${FFN_CHOICES.join(", ")}`);
  }
  if (mode === "predicted" && !predictors) {
    throw new RangeError(
      `Cannot predict as ${path} has no predictors: run \`flashpipe calibrate\`, or use exact or dense`,
    );
  }
  if (options.audit && mode !== "predicted") {
    const why = mode === "magnitude" ? "which `eval` measures" : "which misses nothing";
    throw new RangeError(
      `Cannot audit as the FFN is computed as "${mode}", ${why}: use predicted`,
    );
  }
  if (options.recall !== undefined && mode !== "predicted") {
    throw new RangeError(`Cannot set a recall in ${mode}: it is of \`predicted\` alone`);
  }
  if (options.sparsity !== undefined && mode !== "magnitude") {
    throw new RangeError(`Cannot set a sparsity in ${mode}: it is of \`magnitude\` alone`);
  }
  const cut = mode === "magnitude" ? magnitudeCuts(header, options.sparsity, path) : null;
  if (options.unbundled && header.ffnCapacities) {
    throw new RangeError(
      "Cannot read the parts of a bundle one by one as they are stored without zeros: pack with --keep-zeros",
    );
  }
  if (options.naive && mode !== "dense") {
    throw new RangeError(`Cannot be naive in ${mode}: it is of \`dense\` alone`);
  }
  const recall = options.recall === undefined ? undefined : parseShare(options.recall);
  const integer = (name: string, value: number, most: number, least = 1) => {
    if (Number.isInteger(value) && value >= least && value <= most) return value;
    const range = `a whole number from ${least} to ${most}`;
    throw new RangeError(`Cannot open with ${name} ${value}: ${range}`);
  };
  const laneCount = integer("lanes", options.lanes ?? lanesFor(config), LANES_MAX);
  const reading = settleReading(header, options, probe);
  const { backend } = reading;
  const readerCount = integer("readers", reading.readerCount, READERS_MAX);
  const contextMax = config.maxPositionEmbeddings;
  const contextDefault = Math.min(contextMax, CONTEXT_DEFAULT_MAX);
  const contextLength = integer("context", options.context ?? contextDefault, contextMax);
  if (options.window !== undefined) integer("window", options.window, 1e6, 0);
  if (options.waitMsMax !== undefined) integer("waitMsMax", options.waitMsMax, INT32_MAX);
  for (const name of ["spins", "flashSpins", "gapBytes"] as const) {
    const value = options[name];
    if (value !== undefined) integer(name, value, INT32_MAX, 0);
  }
  const logitsRows = integer("logitsRows", options.logitsRows ?? LOGITS_ROWS, LOGITS_ROWS_MAX);
  const draftsWanted = integer("drafts", options.drafts ?? DRAFTS_MAX, DRAFTS_MAX, 0);
  const draftsMax = Math.min(draftsWanted, contextLength - 1);
  // See `connect`: a single io_uring reader has no worker of its own.
  const hasReaders = backend !== "io_uring" || readerCount > 1 || mode === "dense";
  const workers = laneCount + 1 + (hasReaders ? readerCount : 0);
  return {
    options,
    policy: choosePolicy(options),
    gapBytes: reading.gapBytes,
    isProbed: reading.isProbed,
    draftLoss: parseShare(options.draftLoss ?? DRAFT_LOSS),
    hasEarlyLook: (options.prefetch ?? true) && mode !== "dense" &&
      (predictors !== null || mode === "routed"),
    recallShifts: predictors && recallShifts(predictors, recall, path),
    cuts: cut && cut.cuts,
    wishes: {
      mode,
      sparsity: cut?.sparsity,
      memoryBytes: options.memory === undefined ? undefined : parseByteSize(options.memory),
      ffnCache: ffnCacheOf(options),
      naive: options.naive,
      contextLength,
      kv: chooseKv(header, options),
      laneCount,
      readerCount,
      backend,
      depth: reading.depth,
      logitsRows: Math.max(logitsRows, 1 + draftsMax),
      promptChunk: Math.min(
        contextLength,
        integer("promptChunk", options.promptChunk ?? PROMPT_CHUNK, PROMPT_CHUNK_MAX),
      ),
      draftsMax,
      arenaBytesMax: options.arenaBytes,
      sharesPools: options.sharesPools,
      observationRows: options.observations ? logitsRows : 0,
      audit: options.audit ?? false,
      runtimeBytes: runtimeBytes(workers, nowBytes),
      runtimeJitterBytes: START_JITTER_BYTES,
      freeBytes: freeBytes(),
    },
  };
}

function ffnCacheOf({ ffnCache, naive }: OpenOptions): number | undefined {
  if (!naive) return ffnCache === undefined ? undefined : parseShare(ffnCache);
  if (ffnCache === undefined || parseShare(ffnCache) === 0) return 0;
  throw new RangeError(`Cannot cache ${ffnCache} of the FFN and be naive: naive keeps nothing`);
}

function chooseKv({ quantization }: FlashHeader, { kv }: OpenOptions): KvQuantization {
  if (kv !== undefined && !KV_QUANTIZATIONS.includes(kv)) {
    const names = KV_QUANTIZATIONS.join(", ");
    throw new RangeError(`Cannot store keys and values as "${kv}": one of ${names}`);
  }
  return kv ?? (quantization === "f32" || quantization === "f16" ? quantization : "q8");
}

function choosePolicy({ policy, window }: OpenOptions): PolicyChoice {
  const name = policy ?? (window === undefined ? DEFAULT_POLICY : "window");
  if (!POLICY_NAMES.includes(name)) {
    throw new RangeError(`Cannot cache by "${name}": one of ${POLICY_NAMES.join(", ")}`);
  }
  if (name === "window" && window === undefined) {
    throw new RangeError("Cannot cache by window as its tokens were not told: set `window` too");
  }
  if (name !== "window" && name !== "pinned" && window !== undefined) {
    throw new RangeError(`Cannot cache by ${name} with a window: for window and pinned`);
  }
  return { name, window: window ?? Infinity };
}

function chooseBackend({ backend, simulation }: OpenOptions): ReaderBackend {
  if (backend !== undefined && !READER_BACKENDS.includes(backend)) {
    throw new RangeError(`Cannot read by "${backend}": one of ${READER_BACKENDS.join(", ")}`);
  }
  // The simulated disk stands behind the portable door.
  if (backend === "pread" || simulation) return "pread";
  if (canUseUring()) return "io_uring";
  if (backend === undefined) return "pread";
  throw new RangeError(
    "Cannot read by io_uring: it needs Linux, a kernel that allows it, and FFI (Deno: --allow-ffi; Bun)",
  );
}

/**
 * How long threads poll before they sleep. A wake-up costs 40 us on a virtual machine, so with a core for each thread they
 * poll through all of a token; where reader workers need the cores, only as long as an answer takes (bench/tokens.ts).
 */
export function waitStyleOf(options: OpenOptions, hasCoreEach: boolean): WaitStyle {
  return {
    spins: options.spins ?? (hasCoreEach ? 40_000 : 2000),
    flashSpins: options.flashSpins ?? (hasCoreEach ? 40_000 : 100),
    waitMsMax: options.waitMsMax ?? 30_000,
  };
}

/** Weights of attention from which lanes wait for memory and flash so often that the predictor finds a core. */
const LARGE_ATTENTION = 2 ** 28;

/** A core is left to predictor and readers; but of two cores a large model's lanes take both: measured, bench/generate.ts. */
function lanesFor({ numLayers, hiddenSize }: FlashHeader["config"]): number {
  const cores = coreCount(), isLarge = 4 * hiddenSize ** 2 * numLayers >= LARGE_ATTENTION;
  return Math.max(1, cores - 1, isLarge ? Math.min(2, cores) : 1);
}
