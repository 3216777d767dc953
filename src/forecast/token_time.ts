import type { Probe } from "../probe/probe_result.ts";
import { ReadCosts } from "../probe/read_costs.ts";
import type { Readers } from "../probe/read_costs.ts";
import {
  DISPLACED_SECONDS_PER_LAYER,
  FAR_NEURONS,
  READS_IN_RUN,
  SECONDS_PER_LAYER,
  SECONDS_PER_LISTED,
  SECONDS_PER_LISTED_FAR,
  SECONDS_PER_LISTED_RESIDENT,
  SECONDS_PER_MISS,
  SECONDS_PER_MISS_FAR,
  SECONDS_PER_SCATTERED_BYTE,
} from "./engine_costs.ts";
import type { ExpectedReads } from "./expected_reads.ts";
import { Speeds } from "./speeds.ts";
import type { LayerWork, TokenWork } from "./token_work.ts";

/** Threads of a run. */
export interface RunThreads {
  laneCount: number;
  coreCount: number;
  readers: Readers;
}

/** Where a token's time goes, in seconds; `total` is the sum of all but `flash` and `hidden`. */
export interface TokenTime {
  total: number;
  /** Lanes computing. */
  attention: number;
  look: number;
  ffn: number;
  logits: number;
  /** Lanes waiting for reads, and for the predictor. */
  waitingFlash: number;
  waitingPredictor: number;
  /** More threads than cores: what they take from each other. */
  contention: number;
  /** The predictor's list: cache, slots, tickets; lanes wait for it. */
  memoryManagement: number;
  /** Lanes that meet, norms, handing over. */
  other: number;
  /** At least one read in flight. */
  flash: number;
  /** The part of that in which lanes compute. */
  hidden: number;
}

const NOTHING: TokenTime = {
  total: 0,
  attention: 0,
  look: 0,
  ffn: 0,
  logits: 0,
  waitingFlash: 0,
  waitingPredictor: 0,
  contention: 0,
  memoryManagement: 0,
  other: 0,
  flash: 0,
  hidden: 0,
};

/**
 * The time of a token: work by kernel and dtype, divided by speeds that the probe measured, layer after layer.
 *
 *   lanes      | attention, late look     |      | up hits, then misses |  wait | down | meet
 *   predictor  | early look  |            | list |                              |
 *   flash                    | early reads ----->| rest of them, late reads --->|
 *              |<--------- before ------->|<---->|<---------- lists ----------->|<---->|
 *
 *   layer = max(attention + late look, early look) + list + max(up, reads that are left + up of the last group) + down + meet
 *
 * Of a list with more reads than the rings have places, lanes hear when the last ones have found theirs: only those hide behind up dots.
 * Early reads hide behind what is left of `before` when the early look is done; late ones behind up dots, as those of misses run while
 * others land. And however well things overlap, cores can do no more than they do: a layer takes at least the CPU time of lanes,
 * predictor and reads divided by their number. Where lanes take all cores, one of them stands still while the predictor works, and the
 * others wait for it, unless all wait for reads anyway. What that adds is `contention`.
 */
export function tokenTime(work: TokenWork, probe: Probe, threads: RunThreads): TokenTime {
  const speeds = new Speeds(probe, work.workingBytes);
  const machine = { speeds, costs: new ReadCosts(probe.disk), threads };
  const layers = work.layers.map((layer) =>
    work.streamedBytes > 0 && !layer.isResident
      ? streamedTime(layer, work.streamedBytes, probe, machine)
      : layerTime(layer, work, machine)
  );
  const logits = speeds.laneSeconds(work.logits, threads.laneCount);
  return layers.reduce(plus, { ...NOTHING, logits, total: logits });
}

interface Machine {
  speeds: Speeds;
  costs: ReadCosts;
  threads: RunThreads;
}

function plus(one: TokenTime, other: TokenTime): TokenTime {
  const names = Object.keys(NOTHING) as (keyof TokenTime)[];
  return Object.fromEntries(names.map((name) => [name, one[name] + other[name]])) as
    & TokenTime
    & object;
}

/** Groups of misses are computed as they land; the last one after all have. */
const LAST_GROUP = 4;

function layerTime(
  layer: LayerWork,
  { hasEarlyLook, ticketPlaces: places, neuronCount }: TokenWork,
  machine: Machine,
): TokenTime {
  const { speeds, threads } = machine, { laneCount, coreCount } = threads;
  const lanes = (works: LayerWork["up"]) => speeds.laneSeconds(works, laneCount);
  const attention = lanes(layer.attention), look = lanes(layer.look);
  const up = lanes(layer.up), down = lanes(layer.down);
  const early = burstSeconds(layer.early, machine), late = burstSeconds(layer.late, machine);
  const earlyLook = hasEarlyLook ? speeds.coreSeconds(layer.look) : 0;
  // A reader in the predictor's own thread begins reads there.
  const { backend, readerCount } = threads.readers;
  const submitting = backend === "io_uring" && readerCount === 1 ? early.cpuSeconds : 0;
  const before = Math.max(attention + look, earlyLook + submitting);
  const list = listSeconds(layer, neuronCount);
  const earlyHidden = Math.min(early.seconds, before - earlyLook + list);
  const left = early.seconds - earlyHidden + late.seconds;
  const group = layer.listed > 0 ? Math.min(1, LAST_GROUP / layer.listed) * up : 0;
  // A list goes out when its tickets have found places in the rings: those that find none are waited for before.
  const held = left * Math.max(0, 1 - places / Math.max(1, layer.late.reads));
  const reading = left > held ? Math.max(up, left - held + group) : up;
  const waitingFlash = held + reading - up;

  const path = before + list + held + reading + down + SECONDS_PER_LAYER;
  const reads = early.cpuSeconds + late.cpuSeconds;
  const cpu = speeds.coreSeconds([...layer.attention, ...layer.look, ...layer.up, ...layer.down]) +
    earlyLook + list + reads + laneCount * SECONDS_PER_LAYER;
  const isDisplacing = laneCount >= coreCount && reads > 0;
  const books = neuronCount < FAR_NEURONS ? 0 : DISPLACED_SECONDS_PER_LAYER;
  const besides = books + earlyLook + reads;
  const displaced = isDisplacing ? Math.max(0, besides - waitingFlash) : 0;
  const contention = Math.max(displaced, cpu / coreCount - path);
  return {
    total: path + contention,
    attention,
    look,
    ffn: up + down,
    logits: 0,
    waitingFlash,
    waitingPredictor: Math.max(0, before - (attention + look)),
    contention,
    memoryManagement: list,
    other: SECONDS_PER_LAYER,
    flash: early.seconds + late.seconds,
    hidden: early.seconds + late.seconds - waitingFlash,
  };
}

/** The predictor's books: slots looked up, lists and tickets written. */
function listSeconds({ listed, misses, isResident }: LayerWork, neuronCount: number): number {
  if (isResident) return SECONDS_PER_LISTED_RESIDENT * listed;
  return neuronCount < FAR_NEURONS
    ? SECONDS_PER_LISTED * listed + SECONDS_PER_MISS * misses
    : SECONDS_PER_LISTED_FAR * listed + SECONDS_PER_MISS_FAR * misses;
}

/** `dense`: bundles stream through staging buffers while attention and FFN compute; the longer of the two counts. */
function streamedTime(
  layer: LayerWork,
  streamedBytes: number,
  { disk }: Probe,
  { speeds, threads }: Machine,
): TokenTime {
  const lanes = (works: LayerWork["up"]) => speeds.laneSeconds(works, threads.laneCount);
  const attention = lanes(layer.attention), ffn = lanes(layer.up) + lanes(layer.down);
  const fastest = Math.max(...disk.rows.map((row) => row.readsPerSecond * row.readBytes));
  const flash = streamedBytes / fastest, computing = attention + ffn;
  const waitingFlash = Math.max(0, flash - computing);
  return {
    ...NOTHING,
    total: computing + waitingFlash + SECONDS_PER_LAYER,
    attention,
    ffn,
    waitingFlash,
    other: SECONDS_PER_LAYER,
    flash,
    hidden: flash - waitingFlash,
  };
}

/**
 * What the reads of one list take, and what they take of processors. Few reads have all of a lone one's latency; more fill the queue.
 * Of lists that read less than once, some read nothing: as many as if reads fell at random.
 */
export function burstSeconds(
  { reads, bytes, scattered }: ExpectedReads,
  { costs, threads: { readers } }: Pick<Machine, "costs" | "threads">,
): { seconds: number; cpuSeconds: number } {
  if (reads === 0) return { seconds: 0, cpuSeconds: 0 };
  const readBytes = bytes / reads;
  const inFlight = Math.max(1, Math.min(reads, readers.depth));
  const lone = costs.of({ ...readers, depth: 1 }, readBytes);
  const each = costs.of({ ...readers, depth: inFlight }, readBytes);
  if (!lone || !each) {
    throw new RangeError(`Cannot tell a time as ${readers.backend} was not probed: probe again`);
  }
  const any = 1 - Math.exp(-reads);
  const copying = SECONDS_PER_SCATTERED_BYTE * (scattered * bytes / reads);
  return {
    seconds: READS_IN_RUN * Math.max(any * lone.seconds, reads * each.seconds) + copying,
    cpuSeconds: reads * each.cpuSeconds + copying,
  };
}
