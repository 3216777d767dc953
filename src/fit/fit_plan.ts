import type { FlashHeader } from "../format/header.ts";
import { predictorByteLength, RANK_STEP } from "./choose_ranks.ts";
import { RUN_LENGTH } from "./positions.ts";

/**
 * How predictors are made: low-rank ones in closed form, or trained from there by the balanced logistic loss; or bit
 * planes of the up rows, without training.
 */
export type FitMethod = "trained" | "closed-form" | "sign-sketch" | "low-bit";

export const FIT_METHODS: readonly FitMethod[] = [
  "trained",
  "closed-form",
  "sign-sketch",
  "low-bit",
];

/** What a calibration is for: predictors by a method, or how large activations are. */
export type CalibrationMethod = FitMethod | "magnitudes";

/** Bits of a weight that a method keeps; 0 for low-rank ones. */
export function planeBitsOf({ method, bits }: Pick<FitIdentity, "method" | "bits">): number {
  if (method === "low-bit") return bits;
  return method === "sign-sketch" ? 1 : 0;
}

/** What a calibration was asked for; a folder that was begun with something else is not gone on with. */
export interface FitIdentity {
  /** flashpipe's version and the layout of the folder. */
  version: string;
  /** Numbers depend on the runtime and on the kernels' build. */
  runtime: string;
  /** CRC-32 of the model's header without predictors. */
  model: number;
  text: number;
  textName: string;
  method: CalibrationMethod;
  /** Of a weight, for `low-bit`. */
  bits: number;
  recallWanted: number;
  byteShare: number;
  minutes: number;
  tokensMax: number;
  earlyCost: number;
  cacheShares: number[];
}

/** All that decides what is computed, fixed at the start: a run that goes on needs nothing else. */
export interface FitPlan {
  identity: FitIdentity;
  /** The `.flash` file as it was: what an update that was cut off left behind it is not ours. */
  fileByteLength: number;
  generation: number;
  /** Positions of each chunk of text; a chunk attends to itself alone. */
  chunkLengths: number[];
  tokens: number;
  /** Positions to learn from; the rest are held out. */
  fitCount: number;
  /** Bytes of all predictors in the file. */
  byteLimit: number;
  /** Ranks that a layer may get; none for bit planes. */
  ranks: number[];
  batchSize: number;
  /** Steps that try a rank, and steps of the chosen one. */
  trialSteps: number;
  steps: number;
}

/** Sizes of the model that plans need. */
export interface FitSizes {
  d: number;
  n: number;
  numLayers: number;
}

/** Positions of a chunk of text, at most. A matrix of scores has its square; pieces of a text are not that long. */
export function chunkLengthMaxOf({ config }: FlashHeader): number {
  return Math.min(config.maxPositionEmbeddings, CHUNK_LENGTH_MAX);
}

const CHUNK_LENGTH_MAX = 4096;

export function sizesOf({ config }: FlashHeader): FitSizes {
  const { hiddenSize: d, intermediateSize: n, numLayers } = config;
  return { d, n, numLayers };
}

/** What two cores are reckoned with. Work is planned by this and not by a clock, so that equal options give equal bytes. */
const FLOPS_PER_SECOND = 3e10;
/** Shares of the time: running the text, and the last training; ranks are tried in what is left. */
const OBSERVING_SHARE = 0.4;
const TRAINING_SHARE = 0.35;
const TRIALS_SHARE = 0.15;

const TOKENS_MIN = 1024;
/** More teach nothing where nothing is trained; the closed form holds them all in memory. */
export const CLOSED_FORM_TOKENS_MAX = 12_288;
const BIT_PLANES_TOKENS_MAX = 24_576;
/** A layer of some thousand neurons has tens of millions of activations by then. */
const MAGNITUDES_TOKENS_MAX = 8192;
const EPOCHS_MAX = 12;
const STEPS_MIN = 100;
const BATCH_RUNS = 8;
const TRIAL_STEPS_MAX = 600;

/** Share of the positions that are held out: thresholds and all figures come from them; and at most so many. */
const HELD_OUT_SHARE = 0.3;
const HELD_OUT_MAX = 16_384;

/** Ranks to try, as multiples of 32. */
const RANK_STEPS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];

/** Floating-point operations of one position in the dense model, without the output matrix. */
export function observeFlops({ d, n, numLayers }: FitSizes): number {
  return 2 * numLayers * (4 * d * d + 2 * n * d);
}

/** Floating-point operations of one position in a training of a rank. */
export function trainFlops({ d, n }: FitSizes, rank: number): number {
  return 6 * rank * (d + n);
}

const TOKENS_MAX: Record<CalibrationMethod, number> = {
  "trained": Infinity,
  "closed-form": CLOSED_FORM_TOKENS_MAX,
  "sign-sketch": BIT_PLANES_TOKENS_MAX,
  "low-bit": BIT_PLANES_TOKENS_MAX,
  "magnitudes": MAGNITUDES_TOKENS_MAX,
};

/** How many positions are worth observing within the time; bit planes know their scales after some thousand. */
export function plannedTokens(
  sizes: FitSizes,
  { minutes, method }: { minutes: number; method: CalibrationMethod },
): number {
  const seconds = 60 * minutes * OBSERVING_SHARE;
  const tokens = Math.max(TOKENS_MIN, Math.floor(seconds * FLOPS_PER_SECOND / observeFlops(sizes)));
  return Math.min(tokens, TOKENS_MAX[method]);
}

/** Steps of training within the time, with the ranks that the bytes allow on average. */
export function plannedSteps(
  sizes: FitSizes,
  { minutes, byteLimit, fitCount, ranks }: {
    minutes: number;
    byteLimit: number;
    fitCount: number;
    ranks: readonly number[];
  },
): Pick<FitPlan, "batchSize" | "steps" | "trialSteps"> {
  const { numLayers } = sizes;
  const batchSize = RUN_LENGTH * Math.max(1, Math.min(BATCH_RUNS, Math.floor(fitCount / 256)));
  const rank = averageRank(sizes, byteLimit / numLayers);
  const stepsWithin = (share: number, flops: number) =>
    Math.floor(60 * minutes * share * FLOPS_PER_SECOND / (numLayers * batchSize * flops));
  const stepsMax = Math.ceil(EPOCHS_MAX * fitCount / batchSize);
  const clamp = (steps: number) => Math.max(STEPS_MIN, Math.min(stepsMax, steps));
  const trialFlops = ranks.reduce((sum, rank) => sum + trainFlops(sizes, rank), 0);
  return {
    batchSize,
    steps: clamp(stepsWithin(TRAINING_SHARE, trainFlops(sizes, rank))),
    trialSteps: Math.min(TRIAL_STEPS_MAX, clamp(stepsWithin(TRIALS_SHARE, trialFlops))),
  };
}

/** Ranks that fit into the bytes when every other layer has the least; and no more than half of d. */
export function candidateRanks(sizes: FitSizes, byteLimit: number): number[] {
  const { d, n, numLayers } = sizes, shape = { hiddenSize: d, neuronCount: n };
  const others = (numLayers - 1) * predictorByteLength(shape, RANK_STEP);
  const rankMax = Math.min(1024, Math.max(RANK_STEP, Math.floor(d / 2)));
  return RANK_STEPS.map((step) => step * RANK_STEP).filter((rank) =>
    rank === RANK_STEP ||
    (rank <= rankMax && others + predictorByteLength(shape, rank) <= byteLimit)
  );
}

function averageRank({ d, n }: FitSizes, bytes: number): number {
  return Math.max(RANK_STEP, bytes / (1.0625 * (d + n)));
}

/** How many of the first positions are learned from: whole chunks, unless there is one only. */
export function fitCountOf(chunkLengths: readonly number[]): number {
  const tokens = chunkLengths.reduce((sum, length) => sum + length, 0);
  const wanted = tokens - Math.min(HELD_OUT_MAX, Math.ceil(tokens * HELD_OUT_SHARE));
  let count = 0;
  for (const length of chunkLengths) {
    if (count + length > wanted) break;
    count += length;
  }
  return count >= wanted / 2 ? count : wanted;
}
