import { seededRandom } from "../random.ts";

/** Numbers of a pool: with two windows into it a row, no two rows of a model are alike. */
const POOL_LENGTH = 1 << 22;

/** What random numbers are drawn for: the first key after the seed. Other numbers make other files. */
export const STREAM = {
  pool: 1,
  places: 2,
  frequencies: 3,
  chain: 4,
  jumps: 5,
  errors: 6,
  rates: 7,
  angles: 8,
  words: 9,
  topics: 10,
  coefficients: 11,
  readings: 12,
  down: 13,
  positions: 14,
  queries: 15,
  values: 16,
  specials: 17,
  output: 18,
  up: 19,
  walk: 20,
  unseen: 21,
  known: 22,
  keys: 23,
  embeddings: 24,
  multiplied: 25,
  routers: 26,
  stored: 27,
} as const;

/** A generator for one row or purpose, independent of all others: the arguments are mixed into its seed. */
export function randomFor(...keys: number[]): () => number {
  let seed = 0x9e3779b9;
  for (const key of keys) {
    seed = Math.imul(seed ^ (key | 0), 0x85ebca6b);
    seed ^= seed >>> 13;
    seed = Math.imul(seed, 0xc2b2ae35);
    seed ^= seed >>> 16;
  }
  return seededRandom(seed);
}

/**
 * A normal deviate to the eye: the sum of four uniform numbers. No logarithm, no cosine: the same bits in any runtime.
 */
export function deviate(random: () => number): number {
  return (random() + random() + random() + random() - 2) * SQRT3;
}

const SQRT3 = Math.sqrt(3);

/** The numbers 0 to `count` - 1 in random order. */
export function shuffled(count: number, random: () => number): Int32Array {
  const order = Int32Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    const kept = order[last];
    order[last] = order[other];
    order[other] = kept;
  }
  return order;
}

/**
 * Random numbers of variance 1, made once: a row of noise is the sum of two windows into them, each at a random place with
 * a random sign. Drawing each number anew would take longer than all else that is computed.
 */
export class NoisePool {
  readonly #numbers: Float32Array;

  constructor(seed: number) {
    const random = randomFor(seed, STREAM.pool);
    this.#numbers = Float32Array.from({ length: POOL_LENGTH }, () => deviate(random));
  }

  /** Adds noise of this deviation to `values[from]` and the `length - 1` numbers after it. */
  add(
    values: Float32Array,
    { from, length, deviation }: { from: number; length: number; deviation: number },
    random: () => number,
  ): void {
    const numbers = this.#numbers, last = POOL_LENGTH - length;
    const first = Math.floor(random() * last) - from, second = Math.floor(random() * last) - from;
    const scale = deviation / Math.SQRT2;
    const scaleFirst = random() < 0.5 ? scale : -scale;
    const scaleSecond = random() < 0.5 ? scale : -scale;
    for (let index = from; index < from + length; index++) {
      values[index] += scaleFirst * numbers[first + index] + scaleSecond * numbers[second + index];
    }
  }
}
