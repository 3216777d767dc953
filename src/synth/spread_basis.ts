import { randomFor, shuffled, STREAM } from "./noise.ts";

/**
 * Directions of the residual stream, orthogonal to each other and to the vector of ones (which a LayerNorm takes away), and spread
 * over all its numbers, so that none of them stands out when it is quantized: the cosine transform of a permuted index.
 *
 *   direction k, number i = sqrt(2 / d) cos(pi (p(i) + 1/2) k / d),   k = 1 .. d - 1
 *
 * Directions are numbered in random order.
 */
export class SpreadBasis {
  readonly #d: number;
  /** cos(pi i / 2d) sqrt(2 / d), i in 0 .. 4d - 1, rounded, as runtimes differ in a cosine's last bits. */
  readonly #cosines: Float32Array;
  /** 2 p(i) + 1 */
  readonly #places: Int32Array;
  readonly #frequencies: Int32Array;

  constructor(d: number, seed: number) {
    this.#d = d;
    const scale = Math.sqrt(2 / d);
    this.#cosines = Float32Array.from(
      { length: 4 * d },
      (_, index) => scale * roundedCosine(index / (4 * d)),
    );
    this.#places = shuffled(d, randomFor(seed, STREAM.places)).map((place) => 2 * place + 1);
    this.#frequencies = shuffled(d - 1, randomFor(seed, STREAM.frequencies)).map((index) =>
      index + 1
    );
  }

  /** Writes direction `index` (0 .. d - 2) times `scale` to `target[at]` and after. */
  write(index: number, target: Float32Array, at: number, scale = 1): void {
    const cosines = this.#cosines, places = this.#places, d = this.#d;
    const frequency = this.#frequencies[index], period = 4 * d;
    for (let i = 0; i < d; i++) {
      target[at + i] = scale * cosines[(places[i] * frequency) % period];
    }
  }
}

/** The cosine of a share of the whole turn, to 2^-24. */
export function roundedCosine(turn: number): number {
  return Math.round(Math.cos(2 * Math.PI * turn) * 2 ** 24) / 2 ** 24;
}
