import { seededRandom } from "../random.ts";

/** How the next token is chosen. */
export interface Sampling {
  /** 0: always the largest logit. */
  temperature: number;
  /** Sample from so many of the likeliest tokens; 0 for all. */
  topK: number;
  /** Sample from the smallest set of tokens whose probability reaches this; 1 for all. */
  topP: number;
  /** Sample from tokens at least so likely as this share of the likeliest; 0 for all. */
  minP: number;
  /** Logits of tokens that the text has already are divided by this, negative ones multiplied; 1 changes nothing. */
  repetitionPenalty: number;
  seed: number;
}

/** Numbers that are added to the logits of some tokens; -Infinity forbids one. */
export interface LogitBias {
  readonly ids: ArrayLike<number>;
  readonly values: ArrayLike<number>;
}

const NO_BIAS: LogitBias = { ids: [], values: [] };

/**
 * Chooses tokens from logits, reproducibly by seed. Runs in lane 0; what is as large as the vocabulary is made once.
 *
 * First logits change: by the bias, by the penalty of what the text has (Keskar et al. 2019, "CTRL"), and by a mask. Then come temperature,
 * top-k, top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024), each on what the one before left, as in `transformers`.
 */
export class Sampler {
  readonly #sampling: Sampling;
  readonly #bias: LogitBias;
  readonly #probabilities: Float64Array;
  readonly #candidates: Int32Array;
  /** Logits that were changed, and of each token the number of the last draw in which it was met; empty if none are. */
  readonly #changed: Float32Array;
  readonly #met: Int32Array;
  /** Bits of tokens that may come; empty if all may. Its owner changes it between draws. */
  readonly #mask: Int32Array;
  #draws = 0;
  readonly #random: () => number;

  constructor(
    vocabSize: number,
    sampling: Sampling,
    bias: LogitBias = NO_BIAS,
    mask: Int32Array = new Int32Array(0),
  ) {
    const penalizes = sampling.repetitionPenalty !== 1;
    this.#sampling = sampling;
    this.#bias = bias;
    this.#probabilities = new Float64Array(vocabSize);
    this.#candidates = new Int32Array(vocabSize);
    const changes = penalizes || bias.ids.length > 0 || mask.length > 0;
    this.#mask = mask;
    this.#changed = new Float32Array(changes ? vocabSize : 0);
    this.#met = new Int32Array(penalizes ? vocabSize : 0);
    this.#random = seededRandom(sampling.seed);
  }

  /**
   * The next id; -1 if biases and mask leave none. `logits`: f32[vocabSize]. `text`: the ids before it, of which a penalty asks. Throws
   * `RangeError` if a logit is not a number, or the largest not finite.
   */
  next(logits: Float32Array, text: Int32Array): number {
    const { temperature } = this.#sampling;
    const changed = this.#change(logits, text), largest = argmax(changed), top = changed[largest];
    if (top === -Infinity && changed !== logits) return -1;
    if (!Number.isFinite(top)) {
      throw new RangeError(`Cannot choose a token as the largest logit is ${top}`);
    }
    return temperature === 0 ? largest : this.#draw(changed, top);
  }

  #change(logits: Float32Array, text: Int32Array): Float32Array {
    const changed = this.#changed, met = this.#met, { ids, values } = this.#bias;
    if (changed.length === 0) return logits;
    changed.set(logits);
    for (let i = 0; i < ids.length; i++) changed[ids[i]] += values[i];
    if (met.length > 0) this.#penalize(text);
    for (let id = 0; this.#mask.length > 0 && id < changed.length; id++) {
      if ((this.#mask[id >> 5] >>> (id & 31) & 1) === 0) changed[id] = -Infinity;
    }
    return changed;
  }

  /** Each token that the text has, once. */
  #penalize(text: Int32Array): void {
    const changed = this.#changed, met = this.#met;
    const { repetitionPenalty: penalty } = this.#sampling;
    this.#draws++;
    for (let i = 0; i < text.length; i++) {
      const id = text[i];
      if (met[id] === this.#draws) continue;
      met[id] = this.#draws;
      changed[id] = changed[id] < 0 ? changed[id] * penalty : changed[id] / penalty;
    }
  }

  #draw(logits: Float32Array, top: number): number {
    const { temperature, topK, topP, minP } = this.#sampling;
    const probabilities = this.#probabilities, candidates = this.#candidates;
    // Tokens that are less likely than e^-20 / vocabulary times the likeliest weigh less than 3e-9 all together.
    const floor = top - temperature * (20 + Math.log(logits.length));
    let total = 0, count = 0;
    for (let id = 0; id < logits.length; id++) {
      if (!(logits[id] >= floor)) continue;
      const p = Math.exp((logits[id] - top) / temperature);
      probabilities[id] = p;
      candidates[count++] = id;
      total += p;
    }
    const hasTopK = topK > 0 && topK < count;
    if (hasTopK) {
      this.#sort(count);
      count = topK;
      total = this.#sum(count);
    }
    // Tokens too unlikely to be in any nucleus are left out before the sort.
    const kept = topP < 1 ? this.#keep(count, total * (1 - topP) / logits.length) : count;
    if (topP < 1 && !hasTopK) this.#sort(kept);
    // The likeliest is always among them, even if top-p is too small for a number.
    let nucleus = 1, sum = probabilities[candidates[0]];
    while (nucleus < kept && sum < topP * total) sum += probabilities[candidates[nucleus++]];
    if (minP > 0) { // The likeliest has 1 here.
      nucleus = this.#keep(nucleus, minP);
      sum = this.#sum(nucleus);
    }
    let draw = this.#random() * sum;
    for (let i = 0; i < nucleus; i++) {
      draw -= probabilities[candidates[i]];
      if (draw < 0) return candidates[i];
    }
    return candidates[nucleus - 1];
  }

  /** Puts the likeliest of the first `count` candidates first; of equals the lowest id. */
  #sort(count: number): void {
    const probabilities = this.#probabilities;
    this.#candidates.subarray(0, count)
      .sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  }

  /** Keeps those of the first `count` candidates that are at least so likely; returns how many. */
  #keep(count: number, least: number): number {
    const probabilities = this.#probabilities, candidates = this.#candidates;
    let kept = 0;
    for (let i = 0; i < count; i++) {
      if (probabilities[candidates[i]] >= least) candidates[kept++] = candidates[i];
    }
    return kept;
  }

  #sum(count: number): number {
    let sum = 0;
    for (let i = 0; i < count; i++) sum += this.#probabilities[this.#candidates[i]];
    return sum;
  }
}

/** Index of the largest value, the first of equals. Throws `RangeError` on NaN. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 0; i < values.length; i++) {
    if (values[i] > values[best]) best = i;
    else if (values[i] !== values[i]) {
      throw new RangeError(`Cannot choose a token as logit ${i} is not a number`);
    }
  }
  return best;
}
