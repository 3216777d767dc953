import { truncateSync } from "node:fs";
import { crc32 } from "node:zlib";
import { isSparse } from "../activation.ts";
import { FlashFile } from "../format/flash_file.ts";
import { PLANE_BITS_MAX } from "../format/header.ts";
import type { FlashHeader } from "../format/header.ts";
import { bundleByteLength, vectorByteLength } from "../format/layout.ts";
import { encodeHeader } from "../format/prelude.ts";
import type { KernelModule } from "../kernels.ts";
import { problemWithMagnitudes } from "../magnitude_cuts.ts";
import { runtimeName } from "../runtime.ts";
import { TextCodec } from "../text_stream.ts";
import { VERSION } from "../version.ts";
import type { CalibrateOptions } from "./calibrate_options.ts";
import { leastPredictorBytes } from "./choose_ranks.ts";
import {
  candidateRanks,
  chunkLengthMaxOf,
  FIT_METHODS,
  fitCountOf,
  planeBitsOf,
  plannedSteps,
  plannedTokens,
  sizesOf,
} from "./fit_plan.ts";
import type { CalibrationMethod, FitIdentity, FitPlan, FitSizes } from "./fit_plan.ts";
import { PLAN_RECORD } from "./fit_tasks.ts";
import { sampleText } from "./sample_text.ts";
import { WorkFolder } from "./work_folder.ts";

const RECALL_WANTED = 0.99;
const BYTE_SHARE = 0.1;
const MINUTES = 2;
const LOW_BITS = 4;
const LOW_BITS_MIN = 2;
const EARLY_COST = 0.5;
const CACHE_SHARES = [0.1, 0.15, 0.2, 0.3];
const TOKENS_MIN = 64;

/** Layout of the working folder. */
const FOLDER_VERSION = 2;

/** Where a calibration of a file keeps what it has until it is done. */
export function calibrationFolder(path: string): string {
  return `${path}.calibration`;
}

/** A calibration at hand. */
export interface CalibrationJob {
  path: string;
  folder: WorkFolder;
  plan: FitPlan;
  sizes: FitSizes;
}

/** Checks the options; finds the plan that was made before, or makes it. */
export function beginCalibration(
  options: CalibrateOptions,
  kernels: KernelModule,
  purpose: "predictors" | "magnitudes",
): CalibrationJob {
  using file = FlashFile.open(options.path);
  const { method = "trained" } = options;
  if (purpose === "predictors") checkFit(method, file.header);
  else checkMeasurable(file.header);
  const chosen = purpose === "predictors" ? method : purpose;
  const identity = identityOf(options, chosen, file, kernels);
  const folder = new WorkFolder(calibrationFolder(options.path));
  if (options.fresh) folder.remove();
  const sizes = sizesOf(file.header);
  const found = folder.readRecord(PLAN_RECORD) as FitPlan | undefined;
  if (found) checkIdentity(found.identity, identity, folder.path);
  const plan = found ?? makePlan(options, identity, file, folder);
  return { path: options.path, folder, plan, sizes };
}

/**
 * The header, if a run that was killed had written it already and only the folder was left. What an update that was cut off left behind
 * the file is taken away.
 */
export function finishedHeader(
  path: string,
  { fileByteLength, generation }: FitPlan,
): FlashHeader | undefined {
  using file = FlashFile.open(path);
  if (file.slot.generation > generation) return file.header;
  if (file.byteLength > fileByteLength) truncateSync(path, fileByteLength);
  return undefined;
}

function checkFit(method: string, { config }: FlashHeader): void {
  if (config.experts) {
    throw new RangeError("Cannot calibrate a model with experts: its router says what is computed");
  }
  if (!isSparse(config)) {
    throw new RangeError(
      `Cannot fit predictors to ${config.ffn.activation}, which leaves hardly any neuron at zero: ` +
        "calibrateMagnitudes measures which are small",
    );
  }
  if (!(FIT_METHODS as readonly string[]).includes(method)) {
    throw new RangeError(`Cannot calibrate by "${method}": one of ${FIT_METHODS.join(", ")}`);
  }
}

function checkMeasurable({ config }: FlashHeader): void {
  const problem = problemWithMagnitudes(config);
  if (problem !== null) throw new RangeError(`Cannot measure magnitudes: ${problem}`);
}

function identityOf(
  options: CalibrateOptions,
  method: CalibrationMethod,
  { header }: FlashFile,
  kernels: KernelModule,
): FitIdentity {
  const { text, textName = "text", minutes = MINUTES, bits = LOW_BITS } = options;
  const { recall = RECALL_WANTED, byteShare = BYTE_SHARE, earlyCost = EARLY_COST } = options;
  const { cacheShares = CACHE_SHARES, tokensMax = Number.MAX_SAFE_INTEGER } = options;
  if (!(recall > 0 && recall < 1)) {
    throw new RangeError(`Cannot calibrate for a recall of ${recall}: between 0 and 1`);
  }
  if (!(minutes > 0 && minutes <= 1e5)) {
    throw new RangeError(`Cannot calibrate for ${minutes} minutes: more than 0, up to 100000`);
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
  const { magnitudes: _, ...model } = { ...header, predictors: null };
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
  const isLowRank = planeBitsOf(identity) === 0 && identity.method !== "magnitudes";
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
    chunkLength: chunkLengthMaxOf(header),
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
  const { ffnQuantization, config } = header, { hiddenSize, intermediateSize, numLayers } = config;
  const perBundle = 2 * vectorByteLength(ffnQuantization, hiddenSize);
  const perBundleF16 = 4 * hiddenSize;
  // With its zeros, whether they are stored or not.
  const ffnBytes = numLayers * intermediateSize *
    bundleByteLength(ffnQuantization, hiddenSize, config.ffn.isGated);
  return Math.floor(share * ffnBytes / perBundle * perBundleF16);
}
