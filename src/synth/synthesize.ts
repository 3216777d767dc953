import { statfsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { setImmediate } from "node:timers/promises";
import { formatBytes } from "../byte_size.ts";
import { type FlashContent, FlashWriter } from "../format/flash_writer.ts";
import type { FlashPart } from "../format/flash_writer.ts";
import type { FlashHeader, LowRankPredictorLayer, Predictors } from "../format/header.ts";
import { problemWithNeurons } from "../format/layout.ts";
import type { Quantization } from "../format/layout.ts";
import { coreCount } from "../runtime.ts";
import { VERSION } from "../version.ts";
import { isSparse } from "../activation.ts";
import type { BlueprintOptions } from "./blueprint.ts";
import { PAPER } from "./planted.ts";
import type { MadePredictor } from "./predictor_maker.ts";
import { ranksOf } from "./residual_layout.ts";
import { configOf } from "./shape_config.ts";
import { shapeNamed } from "./shapes.ts";
import type { SynthShape } from "./shapes.ts";
import { SynthCrew } from "./synth_crew.ts";
import { SynthTasks } from "./synth_tasks.ts";
import type { SynthResult, SynthTask } from "./synth_tasks.ts";
import { TokenChain } from "./token_chain.ts";
import { chunkRows } from "./weight_desk.ts";
import { wordTokenizer } from "./words.ts";

export interface SynthesizeOptions {
  /** One of SHAPES. */
  shape: string;
  /** The `.flash` file to write; it is replaced when all is written. */
  target: string;
  /** How resident weights are stored, and bundles if not told otherwise. */
  quant: Quantization;
  /** How the FFN's bundles are stored. */
  ffnQuant?: Quantization;
  /** Equal seeds, shapes and types give equal bytes, but for `createdAt`. Default 1. */
  seed?: number;
  /** Threads that make weights; 0: none but this one. Default: as many as there are cores, or 0 for small shapes. */
  threads?: number;
  /** Stands in the file as the time of its making. Default: the beginning of 1970, so that equal seeds give equal bytes. */
  createdAt?: string;
  onProgress?: (progress: { doneBytes: number; totalBytes: number }) => void;
  signal?: AbortSignal;
  /** How much room a folder's disk has, in bytes; tests tell it here. */
  roomIn?: (folder: string) => number;
}

export interface SynthesizeResult {
  readonly path: string;
  readonly byteLength: number;
  readonly header: FlashHeader;
}

/** Shapes whose weights are so few that threads would take longer to start. */
const SMALL_BYTES = 64 << 20;
const SEED_MAX = 2 ** 31 - 1;

/**
 * Writes a `.flash` file of a model's exact shape whose weights are random, but for what makes its run show the paper's
 * statistics (planted.ts). For measuring: its text means nothing. Predictors are written where most activations are zero.
 *
 * Throws `RangeError` for a shape or type that there is not, and if the disk has too little room; errors of writing are the
 * system's. Nothing stays behind then.
 */
export async function synthesize(options: SynthesizeOptions): Promise<SynthesizeResult> {
  const { target, signal, onProgress, seed = 1 } = options;
  signal?.throwIfAborted();
  if (!(Number.isInteger(seed) && seed >= 0 && seed <= SEED_MAX)) {
    throw new RangeError(`Cannot plant with seed ${seed}: a whole number from 0 to ${SEED_MAX}`);
  }
  const shape = shapeNamed(options.shape), content = contentOf(options, shape, seed);
  const { config } = content, isPredicted = isSparse(config);
  const predictorBytes = isPredicted ? predictorByteLength(config) : 0;
  using writer = new FlashWriter(target, content, {
    beforeWriting: (bytes) => checkRoom(options, bytes + predictorBytes),
  });
  const totalBytes = writer.totalBytes + predictorBytes;
  const threads = options.threads ?? (totalBytes < SMALL_BYTES ? 0 : coreCount());
  const tasks = tasksOf(writer.parts, content, isPredicted);
  const blueprint = { config, seed, activeMean: shape.activeMean };
  const layers: LowRankPredictorLayer[] = [], missCurves: Predictors["missCurves"] = [];
  let doneBytes = 0;
  for await (const result of resultsOf(tasks, blueprint, threads)) {
    if (result instanceof Uint8Array) {
      writer.write(result);
      doneBytes += result.byteLength;
    } else {
      layers.push(storePredictor(writer, result, config));
      missCurves.push(result.missCurve);
      doneBytes += result.a.byteLength + result.b.byteLength + 2 * result.bias.byteLength;
    }
    onProgress?.({ doneBytes, totalBytes });
    await setImmediate(); // Writing is synchronous: only here can a signal arrive.
    signal?.throwIfAborted();
  }
  const predictors: Predictors = {
    kind: "low-rank",
    createdBy: `flashpipe ${VERSION}, synth`,
    recallWanted: PAPER.recall,
    calibration: { tokens: 512, textName: "the planted process" },
    layers,
    missCurves,
  };
  const { header, byteLength } = writer.finish(isPredicted ? predictors : null);
  return { path: target, byteLength, header };
}

function contentOf(options: SynthesizeOptions, shape: SynthShape, seed: number): FlashContent {
  const { shape: name, quant, ffnQuant = quant, createdAt } = options, config = configOf(shape);
  const problem = problemWithNeurons(ffnQuant, config);
  if (problem !== null) throw new RangeError(`Cannot make ${name}: ${problem}`);
  return {
    architecture: shape.architecture,
    quantization: quant,
    ffnQuantization: ffnQuant,
    config,
    tokenizer: wordTokenizer(new TokenChain({ vocabSize: config.vocabSize, seed }).tokens),
    provenance: {
      source: `synth --shape ${name} --seed ${seed}`,
      sourceFiles: [],
      flashpipeVersion: VERSION,
      createdAt: createdAt ?? new Date(0).toISOString(),
      synthetic: true,
    },
  };
}

/** Pieces of all parts in the order of the file, then the predictors. */
function* tasksOf(
  parts: readonly FlashPart[],
  { config, ffnQuantization: quantization }: FlashContent,
  isPredicted: boolean,
): Generator<SynthTask, void, void> {
  for (const part of parts) {
    if (part.kind === "tensor") {
      const { tensor } = part, { shape } = tensor;
      const rowCount = shape.length === 1 ? 1 : shape[0];
      const step = shape.length === 1 ? 1 : chunkRows(shape[1]);
      for (let rowFrom = 0; rowFrom < rowCount; rowFrom += step) {
        yield { kind: "resident", tensor, rowFrom, rows: Math.min(step, rowCount - rowFrom) };
      }
    } else {
      const { layerIndex: layer, bundles: { count } } = part, step = chunkRows(config.hiddenSize);
      for (let from = 0; from < count; from += step) {
        yield { kind: "bundles", layer, from, rows: Math.min(step, count - from), quantization };
      }
    }
  }
  if (!isPredicted) return;
  for (let layer = 0; layer < config.numLayers; layer++) yield { kind: "predictor", layer };
}

async function* resultsOf(
  tasks: Iterable<SynthTask>,
  blueprint: BlueprintOptions,
  threads: number,
): AsyncGenerator<SynthResult, void, void> {
  if (threads > 0) {
    using crew = new SynthCrew(blueprint, threads);
    yield* crew.results(tasks);
    return;
  }
  const maker = new SynthTasks(blueprint);
  for (const task of tasks) yield maker.run(task);
}

function storePredictor(
  writer: FlashWriter,
  { rank, a, b, bias, earlyBias, ...measured }: MadePredictor,
  { hiddenSize: d, intermediateSize: n }: FlashContent["config"],
): LowRankPredictorLayer {
  const matrix = (bytes: Uint8Array, shape: number[]) =>
    writer.append({ dtype: "q8", layout: "tiled", shape }, bytes);
  const vector = (values: Float32Array<ArrayBuffer>) =>
    writer.append({ dtype: "f32", layout: "rows", shape: [n] }, new Uint8Array(values.buffer));
  const { recall, predictedShare, activeShare, recallCurve } = measured;
  return {
    rank,
    a: matrix(a, [rank, d]),
    b: matrix(b, [n, rank]),
    bias: vector(bias),
    earlyBias: vector(earlyBias),
    recall,
    predictedShare,
    activeShare,
    recallCurve,
  };
}

function predictorByteLength(config: FlashContent["config"]): number {
  const { hiddenSize: d, intermediateSize: n } = config;
  return ranksOf(config)
    .reduce((sum, rank) => sum + rank * (d + n) * 34 / 32 + 8 * n, 0);
}

/** Refuses to begin what the disk has no room for. */
function checkRoom({ target, roomIn = freeRoom }: SynthesizeOptions, neededBytes: number): void {
  const folder = dirname(resolve(target)), freeBytes = roomIn(folder);
  if (freeBytes >= neededBytes) return;
  throw new RangeError(
    `Cannot write ${target}: it takes ${formatBytes(neededBytes)}, and ${folder} has ` +
      `${formatBytes(freeBytes)} left`,
  );
}

function freeRoom(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}
