import { missCurve } from "../cache/miss_curve.ts";
import type { MissCurve } from "../cache/miss_curve.ts";
import { FitMemory } from "../fit/fit_memory.ts";
import type { Block } from "../fit/fit_memory.ts";
import { CURVE_RECALLS } from "../fit/judge.ts";
import { MarginHistogram } from "../fit/margin_histogram.ts";
import { Matmul } from "../fit/matmul.ts";
import type { RecallCurve } from "../format/header.ts";
import { matrixByteLength, vectorByteLength } from "../format/layout.ts";
import { storeRows, tileRows } from "../format/quantize.ts";
import { loadKernelModule } from "../kernels.ts";
import type { Blueprint } from "./blueprint.ts";
import { deviate, randomFor, STREAM } from "./noise.ts";
import { PAPER, VARIANCE } from "./planted.ts";
import { ranksOf } from "./residual_layout.ts";
import type { WeightMaker } from "./weight_maker.ts";

/** A layer's predictor, as it is stored. */
export interface MadePredictor {
  rank: number;
  /** q8 tiles of A [rank][d] and B [n][rank]. */
  a: Uint8Array<ArrayBuffer>;
  b: Uint8Array<ArrayBuffer>;
  /** f32[n] */
  bias: Float32Array<ArrayBuffer>;
  earlyBias: Float32Array<ArrayBuffer>;
  recall: number;
  predictedShare: number;
  activeShare: number;
  recallCurve: RecallCurve;
  missCurve: MissCurve;
}

/** Tokens along the chain whose latents set the thresholds, and neurons whose scores are computed at a time. */
const TOKENS = 512;
const NEURONS = 512;
/** As calibration's: how many neurons found early are worth one read in vain. */
const EARLY_COST = 0.7;
/** Rows of B that are stored at a time. */
const ROWS = 512;

/**
 * Makes a layer's predictor: the planted low-rank factors, and thresholds set by a simulation of the planted process, as
 * calibration sets them by a text (src/fit/judge.ts).
 */
export class PredictorMaker {
  readonly #blueprint: Blueprint;
  readonly #weights: WeightMaker;
  readonly #matmul: Matmul;
  /** f32[TOKENS][latents], with the attention's part and without. */
  readonly #late: Block;
  readonly #early: Block;
  /** f32[NEURONS][latents] */
  readonly #coefficients: Block;
  /** f32[TOKENS][NEURONS] */
  readonly #lateScores: Block;
  readonly #earlyScores: Block;

  constructor(blueprint: Blueprint, weights: WeightMaker) {
    const { latentSize } = blueprint.layout;
    const latents = TOKENS * latentSize, scores = TOKENS * NEURONS;
    const length = Matmul.length + 2 * latents + NEURONS * latentSize + 2 * scores + 1024;
    const memory = new FitMemory(loadKernelModule("plain"), 4 * length);
    this.#blueprint = blueprint;
    this.#weights = weights;
    this.#matmul = new Matmul(memory);
    this.#late = memory.floats(latents);
    this.#early = memory.floats(latents);
    this.#coefficients = memory.floats(NEURONS * latentSize);
    this.#lateScores = memory.floats(scores);
    this.#earlyScores = memory.floats(scores);
  }

  make(layer: number): MadePredictor {
    const { config } = this.#blueprint, rank = ranksOf(config)[layer];
    const thresholds = this.#blueprint.thresholds(layer);
    this.#walk(layer);
    const late = new MarginHistogram();
    this.#eachBlock(layer, (from, rows) => this.#countLate(late, layer, { from, rows }));
    const margin = late.marginForRecall(PAPER.recall);
    const early = new MarginHistogram();
    const wordCount = Math.ceil(config.intermediateSize / 32);
    const masks = new Uint32Array(TOKENS * wordCount);
    this.#eachBlock(layer, (from, rows) => {
      this.#countEarly(early, { from, rows, thresholds, margin, masks, wordCount });
    });
    const earlyMargin = early.marginForBenefit(EARLY_COST);
    return {
      rank,
      ...this.#factors(layer, rank),
      bias: thresholds.map((threshold) => margin - threshold),
      earlyBias: thresholds.map((threshold) => earlyMargin - threshold),
      recall: late.recall(margin),
      predictedShare: late.predictedShare(margin),
      activeShare: shareWanted(late),
      recallCurve: {
        recalls: [...CURVE_RECALLS],
        shifts: CURVE_RECALLS.map((recall) => late.marginForRecall(recall) - margin),
      },
      missCurve: missCurve({
        masks,
        tokenCount: TOKENS,
        neuronCount: config.intermediateSize,
      }),
    };
  }

  /** Latents of a row of tokens, as the layer's looks see them. */
  #walk(layer: number): void {
    const { layout, tokens, seed } = this.#blueprint;
    const { latentSize, attentionSize, identityAt, identitySize } = layout;
    const late = this.#late.values, early = this.#early.values;
    // Where no attention has written yet, nobody reads what it would write.
    const source = Math.max(0, layout.attentionSource(layer));
    const readings = this.#readings(source), word = new Float32Array(identityAt + identitySize);
    const first = Math.floor(randomFor(seed, STREAM.walk, layer)() * tokens.count);
    const unit = layout.deviationOf("identity") /
      Math.sqrt(layout.energyBefore(source).attention);
    // Along the attention's directions the early look sees what was there before.
    const known = this.#blueprint.knownAttention(layer);
    const newPart = unit * Math.sqrt(VARIANCE.attention / (VARIANCE.attention + known));
    const oldPart = Math.sqrt(known / (VARIANCE.attention + known));
    const random = randomFor(seed, STREAM.known, layer);
    for (let t = 0; t < TOKENS; t++) {
      tokens.write((first + t) % tokens.count, word, 0);
      const at = t * latentSize;
      late.set(word.subarray(0, identityAt), at);
      early.set(word.subarray(0, identityAt), at);
      for (let k = 0; k < attentionSize; k++) {
        let sum = 0;
        for (let c = 0; c < identitySize; c++) {
          sum += readings[k * identitySize + c] * word[identityAt + c];
        }
        early[at + identityAt + k] = oldPart * deviate(random);
        late[at + identityAt + k] = early[at + identityAt + k] + newPart * sum;
      }
    }
  }

  /** What attention reads of each coordinate of the identity, over all numbers that hold it: f32[attention][identity]. */
  #readings(layer: number): Float32Array {
    const { layout, config } = this.#blueprint, { attentionSize, identitySize } = layout;
    const readings = new Float32Array(attentionSize * identitySize);
    const reading = new Float32Array(config.hiddenSize);
    for (let k = 0; k < attentionSize; k++) {
      this.#blueprint.attentionReading(layer, k, reading);
      reading.forEach((value, index) => {
        readings[k * identitySize + layout.coordinateOf(index)] += value;
      });
    }
    return readings;
  }

  /** Calls `use` with both looks' scores of some neurons, f32[TOKENS][NEURONS]. */
  #eachBlock(layer: number, use: (from: number, rows: number) => void): void {
    const { config: { intermediateSize: n }, layout: { latentSize } } = this.#blueprint;
    for (let from = 0; from < n; from += NEURONS) {
      const rows = Math.min(NEURONS, n - from);
      this.#blueprint.coefficients(layer, { from, rows }, this.#coefficients.values);
      for (
        const [latents, scores] of [
          [this.#late, this.#lateScores],
          [this.#early, this.#earlyScores],
        ]
      ) {
        this.#matmul.multiply({
          rows: TOKENS,
          cols: rows,
          depth: latentSize,
          left: { address: latents.address, stride: latentSize },
          right: { address: this.#coefficients.address, stride: latentSize, transposed: true },
          target: { address: scores.address, stride: NEURONS },
        });
      }
      use(from, rows);
    }
  }

  /** Late margins; wanted are the neurons that are active, which noise decides too. */
  #countLate(
    histogram: MarginHistogram,
    layer: number,
    { from, rows }: { from: number; rows: number },
  ): void {
    const { noise, seed } = this.#blueprint, scores = this.#lateScores.values;
    const thresholds = this.#blueprint.thresholds(layer);
    const unseen = new Float32Array(rows), random = randomFor(seed, STREAM.unseen, layer, from);
    for (let t = 0; t < TOKENS; t++) {
      unseen.fill(0);
      const deviation = Math.sqrt(VARIANCE.unseen);
      noise.add(unseen, { from: 0, length: rows, deviation }, random);
      for (let row = 0; row < rows; row++) {
        const score = scores[t * NEURONS + row] - thresholds[from + row];
        histogram.add(-score, score + unseen[row] > 0);
      }
    }
  }

  /** Early margins, of what the late look names; and its sets. */
  #countEarly(
    histogram: MarginHistogram,
    { from, rows, thresholds, margin, masks, wordCount }: {
      from: number;
      rows: number;
      thresholds: Float32Array;
      margin: number;
      masks: Uint32Array;
      wordCount: number;
    },
  ): void {
    const late = this.#lateScores.values, early = this.#earlyScores.values;
    for (let t = 0; t < TOKENS; t++) {
      for (let row = 0; row < rows; row++) {
        const neuron = from + row, threshold = thresholds[neuron];
        const isNamed = late[t * NEURONS + row] - threshold + margin > 0;
        histogram.add(threshold - early[t * NEURONS + row], isNamed);
        if (isNamed) masks[t * wordCount + (neuron >>> 5)] |= 1 << (neuron & 31);
      }
    }
  }

  /** A and B, filled up with zeros to the rank. */
  #factors(layer: number, rank: number) {
    const { config, layout: { latentSize } } = this.#blueprint;
    const { hiddenSize: d, intermediateSize: n } = config;
    const latents = new Float32Array(rank * d);
    this.#weights.fillLatents(layer, latents);
    const a = tilesOf(latents, { rows: rank, cols: d });
    const b = new Uint8Array(matrixByteLength("q8", n, rank));
    const rowTiles = matrixByteLength("q8", 8, rank) / 8;
    const wide = new Float32Array(ROWS * rank), narrow = new Float32Array(ROWS * latentSize);
    for (let from = 0; from < n; from += ROWS) {
      const rows = Math.min(ROWS, n - from);
      this.#blueprint.coefficients(layer, { from, rows }, narrow);
      for (let row = 0; row < rows; row++) {
        const begin = row * latentSize;
        wide.set(narrow.subarray(begin, begin + latentSize), row * rank);
      }
      b.set(tilesOf(wide, { rows, cols: rank }), from * rowTiles);
    }
    return { a, b };
  }
}

function tilesOf(
  values: Float32Array,
  { rows, cols }: { rows: number; cols: number },
): Uint8Array<ArrayBuffer> {
  const rowBytes = new Uint8Array(rows * vectorByteLength("q8", cols));
  storeRows("q8", values, { rows, cols }, rowBytes);
  const tiles = new Uint8Array(matrixByteLength("q8", rows, cols));
  tileRows("q8", rowBytes, { rows, cols }, tiles);
  return tiles;
}

/** Wanted pairs as a share of all. */
function shareWanted({ wanted, all }: MarginHistogram): number {
  const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0);
  return sum(wanted) / Math.max(1, sum(all));
}
