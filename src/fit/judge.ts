import { missCurve } from "../cache/miss_curve.ts";
import type { MissCurve } from "../cache/miss_curve.ts";
import type { RecallCurve } from "../format/header.ts";
import { countBits } from "./low_rank_scores.ts";
import { MarginHistogram } from "./margin_histogram.ts";
import type { Positions } from "./positions.ts";

/**
 * A predictor whose threshold is open: score + offset, in a unit that all neurons share, so that one number added to all
 * scores trades recall for reads.
 */
export interface Scorer {
  /** f32[n]: for the FFN's input, and for what the early look sees, which has another mean. */
  readonly offset: Float32Array;
  readonly earlyOffset: Float32Array;
  /**
   * Scores without offsets, f32[rows][n], valid until the next call; of at most `BLOCK_POSITIONS` rows.
   * @param inputs f32[rows][d]: FFN inputs, or what the early look sees
   */
  scores(inputs: Float32Array, rows: number, isEarly: boolean): Float32Array;
}

/** Measured on the held-out positions, with the numbers as stored. */
export interface Measures {
  /** Active neurons that were predicted / active ones. */
  recall: number;
  /** Predicted ones that were active / predicted ones. */
  precision: number;
  predictedShare: number;
  activeShare: number;
  /** Active neurons that the early look found / active ones. */
  earlyRecall: number;
  /** Neurons that both looks predicted / late-predicted ones. */
  earlyFound: number;
  earlyPredictedShare: number;
}

export interface Judgement {
  /** f32[n]: predicted where score + bias > 0. */
  bias: Float32Array;
  /** f32[n]: the same for the early look. */
  earlyBias: Float32Array;
  /** What other recalls need, on the held-out positions; 0 is added at the one that the biases stand for. */
  recallCurve: RecallCurve;
  measured: Measures;
  /** Reads per token by cache slots, from the held-out positions in order. */
  missCurve: MissCurve;
}

export interface JudgeOptions {
  /** Share of the active neurons that the late look finds. */
  recallWanted: number;
  /** How many neurons found early are worth one read in vain. */
  earlyCost: number;
}

/** Recalls for which a file keeps thresholds. */
export const CURVE_RECALLS: readonly number[] = [
  0.9,
  0.925,
  0.95,
  0.965,
  0.975,
  0.98,
  0.985,
  0.99,
  0.9925,
  0.995,
  0.9965,
  0.998,
  0.999,
];

/**
 * Thresholds aim at this share of the misses that are allowed: text that was not calibrated with has up to a third more of
 * them than held-out positions of the text that was (docs/decisions.md).
 */
const MISSES_AIMED = 0.7;

/** Positions whose scores are in memory at a time. */
export const BLOCK_POSITIONS = 256;

/** Sets the thresholds of a layer's predictor by held-out positions, and measures what it then finds. */
export class Judge {
  readonly #positions: Positions;
  readonly #d: number;
  readonly #n: number;
  readonly #inputs: Float32Array;
  readonly #active: Uint32Array;

  constructor(positions: Positions, { d, n }: { d: number; n: number }) {
    this.#positions = positions;
    this.#d = d;
    this.#n = n;
    this.#inputs = new Float32Array(BLOCK_POSITIONS * d);
    this.#active = new Uint32Array(BLOCK_POSITIONS * Math.ceil(n / 32));
  }

  static byteLength({ d, n }: { d: number; n: number }): number {
    return 4 * BLOCK_POSITIONS * (d + Math.ceil(n / 32));
  }

  judge(scorer: Scorer, { recallWanted, earlyCost }: JudgeOptions): Judgement {
    const { offset, earlyOffset } = scorer, n = this.#n;
    const active = this.#allActive();
    const late = this.#margins("inputs", scorer, offset, active);
    const marginFor = (recall: number) => late.marginForRecall(1 - MISSES_AIMED * (1 - recall));
    const margin = marginFor(recallWanted);
    const bias = offset.map((value) => value + margin);
    const predicted = this.#masks("inputs", scorer, bias);
    const early = this.#margins("early", scorer, earlyOffset, predicted);
    const earlyMargin = early.marginForBenefit(earlyCost);
    const earlyBias = earlyOffset.map((value) => value + earlyMargin);
    const earlyPredicted = this.#masks("early", scorer, earlyBias);
    const recalls = [...new Set([...CURVE_RECALLS, recallWanted])].sort((a, b) => a - b);
    return {
      bias,
      earlyBias,
      recallCurve: {
        recalls,
        shifts: recalls.map((recall) => marginFor(recall) - margin),
      },
      measured: measure({
        active,
        predicted,
        earlyPredicted,
        pairCount: this.#positions.count * n,
      }),
      missCurve: missCurve({
        masks: predicted,
        tokenCount: this.#positions.count,
        neuronCount: n,
      }),
    };
  }

  /** Without the early look and curves: the share that is predicted at a recall, and its reads. */
  sketch(
    scorer: Scorer,
    recallWanted: number,
  ): { predictedShare: number; missCurve: MissCurve } {
    const active = this.#allActive();
    const margin = this.#margins("inputs", scorer, scorer.offset, active)
      .marginForRecall(recallWanted);
    const masks = this.#masks("inputs", scorer, scorer.offset.map((value) => value + margin));
    const { count: tokenCount } = this.#positions, neuronCount = this.#n;
    const predicted = countBits(masks, masks).inA;
    return {
      predictedShare: predicted / (tokenCount * neuronCount),
      missCurve: missCurve({ masks, tokenCount, neuronCount }),
    };
  }

  #allActive(): Uint32Array {
    const { count } = this.#positions, wordCount = Math.ceil(this.#n / 32);
    const active = new Uint32Array(count * wordCount);
    for (let first = 0; first < count; first += BLOCK_POSITIONS) {
      const rows = Math.min(BLOCK_POSITIONS, count - first);
      const block = this.#active.subarray(0, rows * wordCount);
      this.#positions.readActive(block, first);
      active.set(block, first * wordCount);
    }
    return active;
  }

  /** Calls `visit` with the scores of some positions, f32[rows][n], without offsets. */
  #eachBlock(
    input: "inputs" | "early",
    scorer: Scorer,
    visit: (scores: Float32Array, first: number, rows: number) => void,
  ): void {
    const { count } = this.#positions, d = this.#d;
    for (let first = 0; first < count; first += BLOCK_POSITIONS) {
      const rows = Math.min(BLOCK_POSITIONS, count - first);
      const inputs = this.#inputs.subarray(0, rows * d);
      if (input === "inputs") this.#positions.readInputs(inputs, first);
      else this.#positions.readEarlyInputs(inputs, first);
      visit(scorer.scores(inputs, rows, input === "early"), first, rows);
    }
  }

  #margins(
    input: "inputs" | "early",
    scorer: Scorer,
    offset: Float32Array,
    wanted: Uint32Array,
  ): MarginHistogram {
    const histogram = new MarginHistogram();
    const n = this.#n, wordCount = Math.ceil(n / 32);
    this.#eachBlock(input, scorer, (scores, first, rows) => {
      for (let t = 0, pair = 0; t < rows; t++) {
        const word = (first + t) * wordCount;
        for (let neuron = 0; neuron < n; neuron++, pair++) {
          const isWanted = (wanted[word + (neuron >>> 5)] >>> (neuron & 31)) & 1;
          histogram.add(-(scores[pair] + offset[neuron]), isWanted === 1);
        }
      }
    });
    return histogram;
  }

  /** Bits of the pairs with score + bias > 0: u32[count][ceil(n / 32)]. */
  #masks(input: "inputs" | "early", scorer: Scorer, bias: Float32Array): Uint32Array {
    const n = this.#n, wordCount = Math.ceil(n / 32);
    const masks = new Uint32Array(this.#positions.count * wordCount);
    this.#eachBlock(input, scorer, (scores, first, rows) => {
      for (let t = 0, pair = 0; t < rows; t++) {
        const word = (first + t) * wordCount;
        for (let neuron = 0; neuron < n; neuron++, pair++) {
          if (scores[pair] + bias[neuron] > 0) masks[word + (neuron >>> 5)] |= 1 << (neuron & 31);
        }
      }
    });
    return masks;
  }
}

function measure(
  { active, predicted, earlyPredicted, pairCount }: {
    active: Uint32Array;
    predicted: Uint32Array;
    earlyPredicted: Uint32Array;
    pairCount: number;
  },
): Measures {
  const late = countBits(active, predicted);
  const early = countBits(active, earlyPredicted);
  const both = countBits(predicted, earlyPredicted).inBoth;
  const share = (part: number, whole: number) => whole === 0 ? 1 : part / whole;
  return {
    recall: share(late.inBoth, late.inA),
    precision: share(late.inBoth, late.inB),
    predictedShare: late.inB / pairCount,
    activeShare: late.inA / pairCount,
    earlyRecall: share(early.inBoth, early.inA),
    earlyFound: share(both, late.inB),
    earlyPredictedShare: early.inB / pairCount,
  };
}
