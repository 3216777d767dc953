import { AuditBoard } from "./audit/board.ts";
import type { AuditBoardShare } from "./audit/board.ts";
import { reportAudit } from "./audit/estimate.ts";
import type { AuditReport } from "./audit/estimate.ts";
import { largestWeight } from "./audit/sample.ts";
import type { ReaderBackend } from "./flash/reader_options.ts";
import type { KernelBuild } from "./kernels.ts";
import type { Control, Snapshot } from "./pipeline/control.ts";
import type { FfnMode } from "./pipeline/options.ts";
import { LANE, LAYER, PREDICTOR, READER } from "./pipeline/statistics.ts";
import type { Plan } from "./plan.ts";
import { resourceUse, runtimeName } from "./runtime.ts";

/** What a stretch of tokens cost. Times in ms; averages per token. */
export interface Cost {
  /** Tokens that went through the model. */
  tokens: number;
  /** Tokens of the prompt before them that the KV cache had already, as the text before began with them, too. */
  knownTokens: number;
  ms: number;
  tokensPerSecond: number;
  msPerToken: {
    total: number;
    /** Lane 0 computing. */
    compute: number;
    /** Lane 0 waiting for reads to land. */
    flash: number;
    /** Lane 0 waiting for the list of neurons. */
    predictor: number;
    /** Sampling, lanes waiting for each other, handing over. */
    other: number;
  };
  /** Read from the disk, covering blocks counted. */
  bytesPerToken: number;
  readsPerToken: number;
  /** Tokens that were drafted from the text so far, and those of them that were right. */
  drafted: number;
  accepted: number;
  /** Neurons computed per token, over all layers. */
  neuronsPerToken: number;
  /** Share of them with an activation that is not zero. */
  activeShare: number;
  /** Those of them that were in no slot when the list was made. */
  missesPerToken: number;
  /** Share of the active neurons that were in a slot already when the list was made. */
  hitRate: number;
  /** Share of the misses whose read the early look had begun when the late look came. */
  earlyRate: number;
  /** Share of the time with a read in flight in which lane 0 did not wait for one. */
  hidden: number;
  /** Time of the predictor worker: early looks, and making lists. */
  predictorMsPerToken: { early: number; late: number };
  /**
   * Work of all threads, waits left out: lanes; the predictor's early look, its keeping of cache, slots and read plan, and its
   * handing over of reads (where it reads by itself, most of what reading costs).
   */
  workMsPerToken: { lanes: number; look: number; management: number; submit: number };
  /** CPU time of the lanes and of the predictor with the reads that it does itself, polls included; 0 where the runtime does not tell. */
  cpuMsPerToken: { lanes: number; predictor: number };
  /** Copying records to slots: of reads that were merged, by all readers. */
  copyMsPerToken: number;
  /** Time with a read in flight. */
  flashMsPerToken: number;
}

/** What became of the neurons of one layer that were listed: counts, over all tokens. */
export interface LayerCounts {
  /** Named by the late look (in `dense`: all), so computed. */
  listed: number;
  /** ... and in a slot already. */
  hits: number;
  /** ... and not there, but their read had been begun by the early look. */
  earlyStarted: number;
  /** ... and not there: their read began with the list. */
  lateMisses: number;
}

/** What `model.stats()` says of the last (or the running) request, and of the process. */
export interface Statistics {
  runtime: string;
  kernels: KernelBuild;
  ffn: FfnMode;
  /** Share of the neurons that `magnitude` was asked to leave out, by which its numbers are approximate; null in other modes. */
  sparsity: number | null;
  lanes: number;
  readers: number;
  backend: ReaderBackend;
  /** The prompt, up to the first new token. */
  prompt: Cost;
  /** The tokens after it: steady. */
  decode: Cost;
  /** What prediction missed in this request, prompt included; null without `audit`. */
  audit: AuditReport | null;
  /** Each layer, over prompt and decoding together. */
  layers: LayerCounts[];
  /** Bytes of the predictors in memory. */
  predictorBytes: number;
  /** Largest memory of the process so far, in bytes. */
  peakBytes: number;
  /** What the process has read from disks so far, in bytes, as counted by the system. */
  diskBytes: number;
}

/** Reads the counters of all threads. */
export function summarize(
  control: Control,
  plan: Plan,
  { build, backend, audit }: {
    build: KernelBuild;
    backend: ReaderBackend;
    audit?: AuditBoardShare;
  },
): Statistics {
  const stage = control.statistics(0)[LANE.stage];
  const prompt: Snapshot = stage >= 1 ? "prompt" : "live";
  const end: Snapshot = stage === 2 ? "end" : "live";
  // A request for logits has no decoding: all of it is prompt.
  const isAllPrompt = stage === 2 &&
    control.statistics(0, "prompt")[LANE.atMs] < control.statistics(0, "begin")[LANE.atMs];
  const { peakBytes, diskBytes } = resourceUse();
  return {
    runtime: runtimeName(),
    kernels: build,
    ffn: plan.mode,
    sparsity: plan.sparsity,
    lanes: control.shape.laneCount,
    readers: control.shape.readerCount,
    backend,
    prompt: costOf(control, "begin", isAllPrompt ? "end" : prompt),
    decode: costOf(control, isAllPrompt ? "end" : prompt, end),
    audit: audit && plan.auditSample ? auditOf(control, plan, audit) : null,
    layers: layersOf(control, "begin", end),
    predictorBytes: plan.bytes.predictors,
    peakBytes,
    diskBytes,
  };
}

/** The report of the steps that the last request has taken so far. */
function auditOf(control: Control, plan: Plan, share: AuditBoardShare): AuditReport {
  const board = new AuditBoard(share);
  const { numLayers } = share;
  const first = control.statistics(0, "begin")[LANE.steps];
  const count = (board.completeCount - first) | 0;
  const rows = board.rows(first, Math.max(0, Math.min(count, share.stepCount)));
  const slotCountMax = Math.max(...plan.slotCounts);
  const weight = largestWeight(plan.auditSample!, slotCountMax);
  return reportAudit(rows, { numLayers, largestWeight: weight });
}

function layersOf(control: Control, from: Snapshot, to: Snapshot): LayerCounts[] {
  return Array.from({ length: control.shape.layerCount ?? 0 }, (_, layer) => {
    const first = control.layerStatistics(layer, from), last = control.layerStatistics(layer, to);
    const difference = (name: keyof typeof LAYER) => last[LAYER[name]] - first[LAYER[name]];
    return {
      listed: difference("listed"),
      hits: difference("hits"),
      earlyStarted: difference("earlyStarted"),
      lateMisses: difference("lateMisses"),
    };
  });
}

function costOf(control: Control, from: Snapshot, to: Snapshot): Cost {
  const { laneCount, readerCount } = control.shape;
  const difference = (thread: number, index: number) =>
    control.statistics(thread, to)[index] - control.statistics(thread, from)[index];
  const sum = (first: number, count: number, index: number) => {
    let total = 0;
    for (let thread = first; thread < first + count; thread++) total += difference(thread, index);
    return total;
  };
  const lane = (index: number) => difference(0, index);
  const lanes = (index: number) => sum(0, laneCount, index);
  const predictor = (index: number) => difference(laneCount, index);
  const readers = (index: number) => sum(laneCount + 1, readerCount, index);
  const tokens = lane(LANE.steps);
  const ms = Math.max(0, lane(LANE.atMs));
  const per = (value: number) => tokens > 0 ? value / tokens : 0;
  const share = (part: number, whole: number) => whole > 0 ? part / whole : 0;
  const flash = lane(LANE.waitFlashMs), waitPredictor = lane(LANE.waitPredictorMs);
  const compute = lane(LANE.stepMs) - flash - waitPredictor - lane(LANE.waitLanesMs);
  const active = lanes(LANE.active), computed = lanes(LANE.computed);
  const layers = layersOf(control, from, to);
  const count = (name: keyof LayerCounts) => layers.reduce((sum, layer) => sum + layer[name], 0);
  const late = count("lateMisses"), early = count("earlyStarted");
  const flashMs = readers(READER.flashMs);
  return {
    tokens,
    knownTokens: lane(LANE.known),
    ms,
    tokensPerSecond: ms > 0 ? 1000 * tokens / ms : 0,
    msPerToken: {
      total: per(ms),
      compute: per(compute),
      flash: per(flash),
      predictor: per(waitPredictor),
      other: per(ms - compute - flash - waitPredictor),
    },
    bytesPerToken: per(readers(READER.bytes)),
    readsPerToken: per(readers(READER.reads)),
    drafted: lane(LANE.drafted),
    accepted: lane(LANE.accepted),
    neuronsPerToken: per(computed),
    missesPerToken: per(early + late),
    activeShare: share(active, computed),
    hitRate: share(lanes(LANE.activeHits), active),
    earlyRate: share(early, early + late),
    hidden: flashMs > 0 ? Math.max(0, 1 - flash / flashMs) : 1,
    predictorMsPerToken: {
      early: per(predictor(PREDICTOR.earlyMs)),
      late: per(predictor(PREDICTOR.lateMs)),
    },
    workMsPerToken: {
      lanes: per(
        lanes(LANE.stepMs) - lanes(LANE.waitFlashMs) - lanes(LANE.waitPredictorMs) -
          lanes(LANE.waitLanesMs),
      ),
      look: per(predictor(PREDICTOR.lookMs)),
      management: per(predictor(PREDICTOR.manageMs)),
      submit: per(predictor(PREDICTOR.submitMs)),
    },
    cpuMsPerToken: {
      lanes: per(lanes(LANE.cpuMs)),
      predictor: per(predictor(PREDICTOR.cpuMs)),
    },
    copyMsPerToken: per(readers(READER.copyMs)),
    flashMsPerToken: per(flashMs),
  };
}
