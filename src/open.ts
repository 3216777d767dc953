import { pageAddress, pagesOfLayer } from "./arena.ts";
import type { ArenaPlan, PageShape } from "./arena.ts";
import { AuditBoard } from "./audit/board.ts";
import type { AuditBoardShare } from "./audit/board.ts";
import { examineDisk } from "./flash/bypass.ts";
import type { DiskFacts } from "./flash/bypass.ts";
import type { ReaderOptions } from "./flash/reader_options.ts";
import { ticketCapacity } from "./flash/ticket.ts";
import { FlashFile } from "./format/flash_file.ts";
import type { FlashHeader } from "./format/header.ts";
import { isScattered } from "./format/header.ts";
import { vectorByteLength } from "./format/layout.ts";
import { NeuronOrder } from "./format/neuron_order.ts";
import { loadKernelModule } from "./kernels.ts";
import { layerPlaceOf, loadArenas, locateWeights } from "./load.ts";
import { Model } from "./model.ts";
import { settle, waitStyleOf } from "./open_options.ts";
import type { OpenOptions, Settings, SettleWith } from "./open_options.ts";
import { Control } from "./pipeline/control.ts";
import { Crew } from "./pipeline/crew.ts";
import type { CrewMember } from "./pipeline/crew.ts";
import type { LayerFlash, PipelineOptions, RereadPiece } from "./pipeline/options.ts";
import { RequestBuffer } from "./pipeline/request.ts";
import { createTraceBuffer } from "./pipeline/trace.ts";
import { BOUNCE_BYTES, makePlan, REREAD_CHUNKS } from "./plan.ts";
import type { Plan } from "./plan.ts";
import { findProbe } from "./probe/kept_probe.ts";
import { coreCount } from "./runtime.ts";
import { createSharedMemory, populateMemory } from "./shared_memory.ts";

export type { OpenOptions } from "./open_options.ts";

const TRACE_SPANS = 200_000;
/**
 * Memory that a reader's kernel holds from the start: it fetches the pages then, which takes 0.7 to 0.9 s for so much where the
 * system has to find them first. Slots behind it are read to all the same, at 1 us more a read.
 */
const REGISTERED_BYTES_MAX = 2 ** 29;

/** The audit looks at the same sample whenever the same tokens run in the same order. */
const AUDIT_SEED = 1;

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
  const prepared = prepare(path, options);
  options.onPlan?.(prepared);
  const { header: stored, used: header, damaged, disk, settings, plan } = prepared;
  const memories = plan.arenas.map((arena) => createArena(arena, plan.shape.pages, options));
  const { onProgress, signal } = options;
  const { recallShifts } = settings;
  for (const memory of memories) await populateMemory(memory, signal);
  await loadArenas(memories, { path, header, plan, disk, recallShifts }, { onProgress, signal });
  const pipeline = connect(path, header, plan, disk, memories, settings);
  const crew = new Crew(pipeline.control);
  await crew.start(pipeline.members);
  try {
    signal?.throwIfAborted();
    return new Model({ path, header: stored, damaged, plan, disk, memories, crew, ...pipeline });
  } catch (error) {
    // A tokenizer that cannot be used, or a signal: no worker stays behind.
    await crew.close();
    throw error;
  }
}

/** The memory of an arena, with the tables of its pages. */
function createArena(
  { byteLength, layers, range }: ArenaPlan,
  pages: PageShape,
  { hugePages }: OpenOptions,
): WebAssembly.Memory {
  const memory = createSharedMemory(byteLength, { hugePages });
  for (const [index, layer] of layers.entries()) {
    const table = new Uint32Array(memory.buffer, layer.pageTable, pages.count);
    const count = pagesOfLayer(pages, range.from + index);
    for (let page = 0; page < pages.count; page++) {
      table[page] = pageAddress(layer, pages, page % count);
    }
  }
  return memory;
}

/** What is decided before anything is loaded: how to read, what will lie where. `plan` prints it, `open` does it. */
export interface Prepared {
  header: FlashHeader;
  /** The header without what this mode has no use for. */
  used: FlashHeader;
  damaged: string | null;
  disk: DiskFacts;
  settings: Settings;
  plan: Plan;
}

/**
 * Reads the header, settles the options, makes the plan. Throws as `open` does.
 *
 * @param known default: the kept probe, unless the options do without
 */
export function prepare(path: string, options: OpenOptions, known?: SettleWith): Prepared {
  const { header, damaged } = readHeaderOf(path);
  const disk = examineDisk(path);
  known ??= { probe: (options.probe ?? true) ? findProbe(path).probe : null };
  const settings = settle(header, path, options, known);
  // `dense` predicts nothing: predictors would take memory from layers that could stay.
  const used = settings.wishes.mode === "dense" ? { ...header, predictors: null } : header;
  return { header, used, damaged, disk, settings, plan: makePlan(used, disk, settings.wishes) };
}

function readHeaderOf(path: string): Pick<FlashFile, "header" | "damaged"> {
  using file = FlashFile.open(path);
  return { header: file.header, damaged: file.damaged };
}

/** Everything that joins the threads: control memory, and what each worker is started with. */
function connect(
  path: string,
  header: FlashHeader,
  plan: Plan,
  disk: DiskFacts,
  memories: WebAssembly.Memory[],
  { options, policy, wishes, gapBytes, draftLoss, hasEarlyLook, cuts }: Settings,
) {
  const { laneCount, readerCount } = wishes;
  const { slotCounts, shape } = plan;
  const slotTotal = slotCounts.reduce((sum, count) => sum + count, 0);
  // One io_uring reader needs no thread of its own, which would cost two wake-ups a list: the predictor has nothing else to
  // do while reads are in flight. The stream of `dense` has, as it runs ahead of the lanes.
  const isInline = wishes.backend === "io_uring" && readerCount === 1 &&
    (plan.mode !== "dense" || plan.isResident);
  const style = waitStyleOf(options, isInline && laneCount < coreCount());
  const flagsPerChunk = isScattered(header) ? plan.neuronsPerChunk : 1;
  const stagingFlag = slotTotal;
  const stagingFlagsPerArena = shape.stagingChunkCount * flagsPerChunk;
  const auditFlag = stagingFlag + plan.arenas.length * stagingFlagsPerArena;
  const readsPerRecord = options.unbundled
    ? plan.record.byteLength / vectorByteLength(header.ffnQuantization, header.config.hiddenSize)
    : 1;
  const rereads = options.naive ? rereadsOf(plan) : [];
  const flagCount = auditFlag + (plan.auditSample ? 1 : 0);
  const share = Control.create(
    {
      laneCount,
      readerCount,
      layerCount: slotCounts.length,
      tickets: ticketCapacity(header.config.intermediateSize, readerCount),
      flagCount,
      hasPieces: readsPerRecord > 1,
    },
    style,
  );
  const control = new Control(share);
  const timeOrigin = performance.timeOrigin;
  const request = new SharedArrayBuffer(
    RequestBuffer.byteLength(wishes.contextLength, header.config.vocabSize),
  );
  const traces: { name: string; buffer: SharedArrayBuffer }[] = [];
  const trace = (name: string) => {
    if (!options.trace) return undefined;
    const buffer = createTraceBuffer(TRACE_SPANS);
    traces.push({ name, buffer });
    return buffer;
  };
  const layers = layersOf(header, plan);
  for (const layer of layers) if (layer.isResident) raiseFlags(control, layer);
  const common: PipelineOptions = {
    control: share,
    arenas: memories.map((memory, index) => ({ memory, plan: plan.arenas[index] })),
    kernels: loadKernelModule(options.kernels),
    mode: plan.mode,
    cuts,
    sizes: header.config,
    quantization: header.quantization,
    ffnQuantization: header.ffnQuantization,
    isPruned: shape.isPruned,
    contextLength: wishes.contextLength,
    pages: shape.pages,
    isPoolShared: plan.isPoolShared,
    positionsMax: shape.positionsMax,
    promptChunk: plan.promptChunk,
    draftsMax: plan.draftsMax,
    draftLoss,
    weights: locateWeights(header, plan),
    flash: {
      layers,
      strideBytes: header.layers[0].bundles.bundleByteLength,
      record: plan.record,
      slotByteLength: shape.slotByteLength,
      readPlan: {
        blockByteLength: disk.blockByteLength,
        gapBytesMax: gapBytes,
        mergedBytesMax: BOUNCE_BYTES,
      },
      isResident: plan.isResident,
      readsPerRecord,
      rereads,
      staging: {
        chunkCount: shape.stagingChunkCount - (rereads.length > 0 ? REREAD_CHUNKS : 0),
        chunkByteLength: shape.stagingChunkByteLength,
        placeByteLength: shape.stagingChunkByteLength / plan.neuronsPerChunk,
        neuronsPerChunk: plan.neuronsPerChunk,
        flag: stagingFlag,
        flagsPerChunk,
        flagsPerArena: stagingFlagsPerArena,
      },
    },
    policy,
    earlyLook: hasEarlyLook && !plan.isResident,
    passNeuronsMax: shape.passNeuronsMax,
    batchPassNeuronsMax: shape.batchPassNeuronsMax,
    logitsRows: shape.logitsRows,
    observationRows: wishes.observationRows,
    timeOrigin,
  };
  const members: CrewMember[] = [];
  for (let laneIndex = 0; laneIndex < laneCount; laneIndex++) {
    const name = `lane ${laneIndex}`;
    const laneOptions = { ...common, laneIndex, request, trace: trace(name) };
    members.push({ name, file: "compute", options: laneOptions });
  }
  // Bounce buffers, staging and slots lie at the end of an arena: all that is read to.
  const [firstArena] = plan.arenas, readsAt = firstArena.bounce[0];
  const readsByteLength = firstArena.byteLength - readsAt;
  const registered = {
    arena: 0,
    address: readsAt,
    byteLength: Math.min(readsByteLength, REGISTERED_BYTES_MAX),
  };
  const readerOptions = (readerIndex: number): ReaderOptions => {
    const name = `reader ${readerIndex}`;
    return {
      readerIndex,
      control: share,
      arenas: memories,
      disk: { path, direct: disk.direct, simulation: options.simulation },
      backend: wishes.backend,
      depth: wishes.depth,
      bounce: {
        addresses: plan.arenas.map(({ bounce }) => bounce[readerIndex]),
        byteLength: BOUNCE_BYTES,
      },
      registered: plan.isResident ? undefined : registered,
      trace: trace(name),
      timeOrigin,
    };
  };
  const audit: AuditBoardShare | undefined = plan.auditSample
    ? AuditBoard.create(wishes.contextLength, header.config.numLayers)
    : undefined;
  const inlineReader = isInline ? readerOptions(0) : undefined;
  const predictorOptions: PipelineOptions = {
    ...common,
    inlineReader,
    audit: audit && { sample: plan.auditSample!, seed: AUDIT_SEED, board: audit, flag: auditFlag },
    trace: trace("predictor"),
  };
  members.push({ name: "predictor", file: "predictor", options: predictorOptions });
  for (let readerIndex = 0; readerIndex < readerCount && !isInline; readerIndex++) {
    const options = readerOptions(readerIndex);
    members.push({ name: `reader ${readerIndex}`, file: "reader", options });
  }
  return {
    control,
    audit,
    members,
    backend: wishes.backend,
    request,
    traces,
    build: common.kernels.build,
    earlyLook: common.earlyLook,
  };
}

/** All neurons of the layer are there from the start. */
function raiseFlags({ words, layout }: Control, { flag, slotCount }: LayerFlash): void {
  words.fill(1, layout.flags + flag, layout.flags + flag + slotCount);
}

/** All that is resident, cut into pieces that fit into a staging chunk, an equal share of them before each layer. */
function rereadsOf({ arenas, shape, blockByteLength }: Plan): RereadPiece[] {
  const { numLayers } = shape;
  // A piece may begin within a block, and takes whole blocks.
  const most = Math.floor(shape.stagingChunkByteLength / blockByteLength) * blockByteLength;
  const pieces = arenas.flatMap(({ sections }) =>
    sections.flatMap(({ byteOffset, byteLength }) => {
      const begin = Math.floor(byteOffset / blockByteLength) * blockByteLength;
      const length = byteOffset + byteLength - begin;
      return Array.from({ length: Math.ceil(length / most) }, (_, index) => ({
        byteOffset: begin + index * most,
        byteLength: Math.min(most, length - index * most),
      }));
    })
  );
  return pieces.map((piece, index) => ({
    ...piece,
    layer: Math.floor(index * numLayers / pieces.length),
  }));
}

function layersOf(header: FlashHeader, plan: Plan): LayerFlash[] {
  let flag = 0;
  return header.layers.map(({ bundles }, layer) => {
    const slotCount = plan.slotCounts[layer];
    const { arena, layerPlan } = layerPlaceOf(plan, layer);
    const at = flag;
    flag += slotCount;
    const positionOf = bundles.order === null ? undefined : NeuronOrder.of(bundles).share();
    const { byteOffset } = bundles, { slots } = layerPlan, isResident = plan.residentLayers[layer];
    return { arena, slots, byteOffset, slotCount, isResident, flag: at, positionOf };
  });
}
