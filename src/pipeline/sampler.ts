import { seededRandom } from "../random.ts";

/** How the next token is chosen. */
export interface Sampling {
  /** 0: always the largest logit. */
  temperature: number;
  /** Sample from the smallest set of tokens whose probability reaches this; 1 for all. */
  topP: number;
  seed: number;
}

/**
 * Chooses tokens from logits, reproducibly by seed. Runs in lane 0; allocates nothing a token.
 * Nucleus sampling: Holtzman et al. 2020.
 */
export class Sampler {
  readonly #sampling: Sampling;
  readonly #probabilities: Float64Array;
  readonly #candidates: Int32Array;
  readonly #random: () => number;

  constructor(vocabSize: number, sampling: Sampling) {
    this.#sampling = sampling;
    this.#probabilities = new Float64Array(vocabSize);
    this.#candidates = new Int32Array(vocabSize);
    this.#random = seededRandom(sampling.seed);
  }

  /** The next id. `logits`: f32[vocabSize]. Throws `RangeError` if a logit is not a number, or the largest not finite. */
  next(logits: Float32Array): number {
    const { temperature, topP } = this.#sampling;
    const largest = argmax(logits);
    const top = logits[largest];
    if (!Number.isFinite(top)) {
      throw new RangeError(`Cannot choose a token as the largest logit is ${top}`);
    }
    if (temperature === 0) return largest;
    const probabilities = this.#probabilities, candidates = this.#candidates;
    // Tokens that are less likely than e^-20 / vocabulary times the likeliest weigh less than 3e-9 all together.
    const floor = top - temperature * (20 + Math.log(logits.length));
    let total = 0, likely = 0, count = 0;
    for (let id = 0; id < logits.length; id++) {
      if (!(logits[id] >= floor)) continue;
      const p = Math.exp((logits[id] - top) / temperature);
      probabilities[id] = p;
      candidates[likely++] = id;
      total += p;
    }
    // Tokens too unlikely to be in any nucleus are left out before the sort.
    const least = topP < 1 ? total * (1 - topP) / logits.length : 0;
    for (let i = 0; i < likely; i++) {
      if (probabilities[candidates[i]] >= least) candidates[count++] = candidates[i];
    }
    if (topP < 1) {
      candidates.subarray(0, count).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
    }
    // The likeliest is always among them, even if top-p is too small for a number.
    let nucleus = 1, sum = probabilities[candidates[0]];
    while (nucleus < count && sum < topP * total) sum += probabilities[candidates[nucleus++]];
    let draw = this.#random() * sum;
    for (let i = 0; i < nucleus; i++) {
      draw -= probabilities[candidates[i]];
      if (draw < 0) return candidates[i];
    }
    return candidates[nucleus - 1];
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
