import { parseByteSize, parseShare } from "./byte_size.ts";
import { examineDisk } from "./flash/bypass.ts";
import type { DiskFacts } from "./flash/bypass.ts";
import type { DiskSimulation } from "./flash/disk.ts";
import { READER_BACKENDS } from "./flash/reader.ts";
import type { ReaderBackend, ReaderOptions } from "./flash/reader.ts";
import { canUseUring } from "./flash/uring_reader.ts";
import { FlashFile } from "./format/flash_file.ts";
import type { FlashHeader } from "./format/header.ts";
import { loadKernelModule } from "./kernels.ts";
import type { KernelBuild } from "./kernels.ts";
import { loadArena, locateWeights } from "./load.ts";
import type { LoadProgress } from "./load.ts";
import { Model } from "./model.ts";
import { Control } from "./pipeline/control.ts";
import { Crew } from "./pipeline/crew.ts";
import type { CrewMember } from "./pipeline/crew.ts";
import { FFN_MODES } from "./pipeline/options.ts";
import type { FfnMode, LayerFlash, ModelSizes, PipelineOptions } from "./pipeline/options.ts";
import type { WaitStyle } from "./pipeline/sequence.ts";
import { createTraceBuffer } from "./pipeline/trace.ts";
import { BOUNCE_BYTES, makePlan } from "./plan.ts";
import type { Plan } from "./plan.ts";
import { coreCount, freeBytes, runtimeBytes } from "./runtime.ts";

/** How to open a model. All are optional; sizes may be written as `"3.5GiB"`, shares as `"20%"`. */
export interface OpenOptions {
  /** Ceiling of the whole process's memory. Default: a part of what is free. */
  memory?: string | number;
  /** Share of the FFN's neurons that may lie in memory; the other way to set the cache. */
  ffnCache?: string | number;
  /**
   * `predicted`: compute the neurons that the predictor names; `exact`: the true active set, with the up projection in memory;
   * `dense`: all neurons, streamed. Default: `predicted` if the file has predictors, else `exact`.
   */
  ffn?: FfnMode;
  /** Tokens whose neurons stay in the cache; default: as many as its slots hold. */
  window?: number;
  /** Flash readers. Default 8 with `pread`, where each has one read in flight, and 1 with `io_uring`. */
  readers?: number;
  /**
   * How readers ask the kernel. Default: `io_uring` where system, runtime and permission allow it (in Deno: `--allow-ffi`), else
   * `pread`.
   */
  backend?: ReaderBackend;
  /** Compute lanes. Default: one less than there are cores, at least 1. */
  lanes?: number;
  /** Positions of prompt and answer together; default (and most): what the model was trained for. */
  context?: number;
  /** Start reads by the early look. Default true; changes no result. */
  prefetch?: boolean;
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
  /** Reads whose gap is at most this many bytes are merged into one. */
  gapBytes?: number;
  /** For tests: make the disk slow, short or faulty. */
  simulation?: DiskSimulation;
  /** Stops opening. */
  signal?: AbortSignal;
  onProgress?: LoadProgress;
  /** Rows for `Model.observe`: what calibration needs. */
  observations?: boolean;
}

/**
 * Reading over 8 KiB takes the disk about 7 us and the processor 1 us; another read takes 15 us of each (bench/readers.ts).
 */
const GAP_BYTES = 8192;
const READERS_MAX = 64;
/** Readers with one read in flight each: more wake each other more than they gain (bench/tokens.ts). */
const PREAD_READERS = 8;
const URING_DEPTH = 32;
const LANES_MAX = 64;
const INT32_MAX = 2 ** 31 - 1;
const TRACE_SPANS = 200_000;
const LOGITS_ROWS = 4;
const OBSERVATION_ROWS = 8;

/**
 * Opens a `.flash` file: plans the memory, loads what is resident, starts the workers.
 *
 * ```ts
 * import { open } from "flashpipe";
 * async function tell(path: string): Promise<void> {
 *   await using model = await open(path, { memory: "3.5GiB" });
 *   for await (const token of model.generate("Once upon a time")) console.log(token.text);
 * }
 * ```
 *
 * @throws {RangeError} an option that makes no sense, or `predicted` without predictors
 * @throws {MemoryBudgetError} the budget is too small; `requiredBytes` says what would do
 * @throws {ModelFileError} the file is damaged
 */
export async function open(path: string, options: OpenOptions = {}): Promise<Model> {
  const { header, damaged } = readHeaderOf(path);
  const disk = examineDisk(path);
  const settings = settle(header, path, options);
  const plan = makePlan(header, disk, settings.wishes);
  const pages = plan.arena.byteLength / 65536;
  const arena = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const { onProgress, signal } = options;
  await loadArena(arena, { path, header, plan, disk }, { onProgress, signal });
  const pipeline = connect(path, header, plan, disk, arena, settings);
  const crew = new Crew(pipeline.control);
  await crew.start(pipeline.members);
  try {
    signal?.throwIfAborted();
    return new Model({ path, header, damaged, plan, disk, arena, crew, ...pipeline });
  } catch (error) {
    // A tokenizer that cannot be used, or a signal: no worker stays behind.
    await crew.close();
    throw error;
  }
}

function readHeaderOf(path: string): Pick<FlashFile, "header" | "damaged"> {
  using file = FlashFile.open(path);
  return { header: file.header, damaged: file.damaged };
}

/** Options with every default in place. */
function settle(header: FlashHeader, path: string, options: OpenOptions) {
  const { config, predictors } = header;
  const mode = options.ffn ?? (predictors ? "predicted" : "exact");
  if (!FFN_MODES.includes(mode)) {
    throw new RangeError(`Cannot compute the FFN as "${mode}": one of ${FFN_MODES.join(", ")}`);
  }
  if (mode === "predicted" && !predictors) {
    throw new RangeError(
      `Cannot predict as ${path} has no predictors: run \`flashpipe calibrate\`, or use exact or dense`,
    );
  }
  const integer = (name: string, value: number, most: number, least = 1) => {
    if (Number.isInteger(value) && value >= least && value <= most) return value;
    const range = `a whole number from ${least} to ${most}`;
    throw new RangeError(`Cannot open with ${name} ${value}: ${range}`);
  };
  const laneCount = integer("lanes", options.lanes ?? Math.max(1, coreCount() - 1), LANES_MAX);
  const backend = chooseBackend(options);
  const readersDefault = backend === "io_uring" ? 1 : PREAD_READERS;
  const readerCount = integer("readers", options.readers ?? readersDefault, READERS_MAX);
  const contextMax = config.maxPositionEmbeddings;
  const contextLength = integer("context", options.context ?? contextMax, contextMax);
  const window = options.window ?? Infinity;
  if (window !== Infinity) integer("window", window, 1e6);
  if (options.waitMsMax !== undefined) integer("waitMsMax", options.waitMsMax, INT32_MAX);
  for (const name of ["spins", "flashSpins", "gapBytes"] as const) {
    const value = options[name];
    if (value !== undefined) integer(name, value, INT32_MAX, 0);
  }
  const workers = laneCount + readerCount + 1;
  return {
    options,
    window,
    wishes: {
      mode,
      memoryBytes: options.memory === undefined ? undefined : parseByteSize(options.memory),
      ffnCache: options.ffnCache === undefined ? undefined : parseShare(options.ffnCache),
      contextLength,
      laneCount,
      readerCount,
      backend,
      depth: backend === "io_uring" ? URING_DEPTH : 1,
      logitsRows: LOGITS_ROWS,
      observationRows: options.observations ? OBSERVATION_ROWS : 0,
      runtimeBytes: runtimeBytes(workers),
      freeBytes: freeBytes(),
    },
  };
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

/** Everything that joins the threads: control memory, and what each worker is started with. */
function connect(
  path: string,
  header: FlashHeader,
  plan: Plan,
  disk: DiskFacts,
  arena: WebAssembly.Memory,
  { options, window, wishes }: ReturnType<typeof settle>,
) {
  const { laneCount, readerCount } = wishes;
  const { slotCounts, shape } = plan;
  const slotTotal = slotCounts.reduce((sum, count) => sum + count, 0);
  // One io_uring reader needs no thread of its own, which would cost two wake-ups a list: the predictor has nothing else to
  // do while reads are in flight. The stream of `dense` has, as it runs ahead of the lanes.
  const isInline = wishes.backend === "io_uring" && readerCount === 1 &&
    (plan.mode !== "dense" || plan.isResident);
  const style = waitStyleOf(options, isInline && laneCount < coreCount());
  const flagCount = slotTotal + shape.stagingChunkCount;
  const share = Control.create({ laneCount, readerCount, flagCount }, style);
  const control = new Control(share);
  const timeOrigin = performance.timeOrigin;
  const ids = new SharedArrayBuffer(4 * wishes.contextLength);
  const traces: { name: string; buffer: SharedArrayBuffer }[] = [];
  const trace = (name: string) => {
    if (!options.trace) return undefined;
    const buffer = createTraceBuffer(TRACE_SPANS);
    traces.push({ name, buffer });
    return buffer;
  };
  if (plan.isResident) raiseFlags(control, slotTotal);
  const common: PipelineOptions = {
    control: share,
    arena,
    kernels: loadKernelModule(options.kernels),
    mode: plan.mode,
    sizes: sizesOf(header),
    quantization: header.quantization,
    contextLength: wishes.contextLength,
    plan: plan.arena,
    weights: locateWeights(header, plan),
    flash: {
      layers: layersOf(header, slotCounts),
      strideBytes: header.layers[0].bundles.bundleByteLength,
      record: plan.record,
      slotByteLength: shape.slotByteLength,
      readPlan: {
        blockByteLength: disk.blockByteLength,
        gapBytesMax: options.gapBytes ?? GAP_BYTES,
        mergedBytesMax: BOUNCE_BYTES,
      },
      isResident: plan.isResident,
      staging: {
        chunkCount: shape.stagingChunkCount,
        chunkByteLength: shape.stagingChunkByteLength,
        neuronsPerChunk: plan.neuronsPerChunk,
        flag: slotTotal,
      },
    },
    window,
    earlyLook: (options.prefetch ?? true) && plan.mode !== "dense" && !plan.isResident &&
      header.predictors !== null,
    passNeuronsMax: shape.passNeuronsMax,
    logitsRows: LOGITS_ROWS,
    observationRows: wishes.observationRows,
    timeOrigin,
  };
  const members: CrewMember[] = [];
  for (let laneIndex = 0; laneIndex < laneCount; laneIndex++) {
    const name = `lane ${laneIndex}`;
    const laneOptions = { ...common, laneIndex, ids, trace: trace(name) };
    members.push({ name, file: "compute", options: laneOptions });
  }
  const readerOptions = (readerIndex: number): ReaderOptions => {
    const name = `reader ${readerIndex}`;
    return {
      readerIndex,
      control: share,
      arena,
      disk: { path, direct: disk.direct, simulation: options.simulation },
      backend: wishes.backend,
      depth: wishes.depth,
      bounce: { address: plan.arena.bounce[readerIndex], byteLength: BOUNCE_BYTES },
      trace: trace(name),
      timeOrigin,
    };
  };
  const inlineReader = isInline ? readerOptions(0) : undefined;
  const predictorOptions = { ...common, inlineReader, trace: trace("predictor") };
  members.push({ name: "predictor", file: "predictor", options: predictorOptions });
  for (let readerIndex = 0; readerIndex < readerCount && !isInline; readerIndex++) {
    const options = readerOptions(readerIndex);
    members.push({ name: `reader ${readerIndex}`, file: "reader", options });
  }
  return {
    control,
    members,
    backend: wishes.backend,
    ids,
    traces,
    build: common.kernels.build,
    earlyLook: common.earlyLook,
  };
}

/**
 * How long threads poll before they sleep. A wake-up costs 40 us on a virtual machine, so with a core for each thread they
 * poll through all of a token; where reader workers need the cores, only as long as an answer takes (bench/tokens.ts).
 */
function waitStyleOf(options: OpenOptions, hasCoreEach: boolean): WaitStyle {
  return {
    spins: options.spins ?? (hasCoreEach ? 40_000 : 2000),
    flashSpins: options.flashSpins ?? (hasCoreEach ? 40_000 : 100),
    waitMsMax: options.waitMsMax ?? 30_000,
  };
}

/** All neurons are there from the start. */
function raiseFlags(control: Control, flagCount: number): void {
  control.words.fill(1, control.layout.flags, control.layout.flags + flagCount);
}

function sizesOf({ config }: FlashHeader): ModelSizes {
  const { vocabSize, hiddenSize, intermediateSize, numLayers, numAttentionHeads } = config;
  const { layerNormEpsilon, positionOffset } = config;
  return {
    vocabSize,
    hiddenSize,
    intermediateSize,
    numLayers,
    numAttentionHeads,
    layerNormEpsilon,
    positionOffset,
    eosTokenId: config.eosTokenId ?? -1,
  };
}

function layersOf(header: FlashHeader, slotCounts: number[]): LayerFlash[] {
  let flag = 0;
  return header.layers.map(({ bundles }, layer) => {
    const slotCount = slotCounts[layer];
    const at = flag;
    flag += slotCount;
    return { byteOffset: bundles.byteOffset, slotCount, flag: at };
  });
}
