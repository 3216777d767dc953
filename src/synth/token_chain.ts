import type { FlashHeader } from "../format/header.ts";
import { randomFor, shuffled, STREAM } from "./noise.ts";
import { SPECIAL_TOKENS } from "./shapes.ts";

/** Where `provenance.source` tells the seed. */
const SEED = /^synth .*--seed (\d+)/;

/**
 * The chain along which a synthetic model's greedy text walks: after each token comes the one at the next place, and after the last
 * the first. Places are shuffled over the vocabulary; special tokens are in none.
 *
 * ```ts
 * import { TokenChain } from "./token_chain.ts";
 * const chain = new TokenChain({ vocabSize: 1000, seed: 1 });
 * const prompt = chain.stretch({ start: 10, count: 64 }); // and the model goes on with chain.tokens[74]
 * ```
 */
export class TokenChain {
  /** The token at each place. */
  readonly tokens: Int32Array;

  constructor({ vocabSize, seed }: { vocabSize: number; seed: number }) {
    const specials = SPECIAL_TOKENS.length;
    this.tokens = shuffled(vocabSize - specials, randomFor(seed, STREAM.chain)).map((id) =>
      id + specials
    );
  }

  /** The chain of a file that `synth` made. Throws `RangeError` for any other file. */
  static of({ provenance, config }: Pick<FlashHeader, "provenance" | "config">): TokenChain {
    const seed = SEED.exec(provenance.source)?.[1];
    if (!provenance.synthetic || seed === undefined) {
      throw new RangeError("Cannot tell the chain of tokens of a file that `synth` did not make");
    }
    return new TokenChain({ vocabSize: config.vocabSize, seed: Number(seed) });
  }

  /** `count` tokens along the chain from place `start` on. */
  stretch({ start, count }: { start: number; count: number }): number[] {
    const { tokens } = this;
    return Array.from({ length: count }, (_, index) => tokens[(start + index) % tokens.length]);
  }

  /** Text that changes its subject: stretches of about `every` tokens, each from a random place. */
  jumping({ count, every, seed = 0 }: { count: number; every: number; seed?: number }): number[] {
    const random = randomFor(seed, STREAM.jumps), ids: number[] = [];
    while (ids.length < count) {
      const length = Math.min(count - ids.length, 1 + Math.floor(2 * every * random()));
      const start = Math.floor(random() * this.tokens.length);
      ids.push(...this.stretch({ start, count: length }));
    }
    return ids;
  }

  /**
   * A prompt after which the model repeats what the prompt had: a stretch of the chain, of whose tokens every `errorEvery`-th is
   * another one (0: none), and then the few tokens that lead to its beginning and its first ones.
   */
  repetitive(
    { start, count, lead = 4, errorEvery = 0 }: {
      start: number;
      count: number;
      lead?: number;
      errorEvery?: number;
    },
  ): number[] {
    const { length } = this.tokens, random = randomFor(start, STREAM.errors);
    const text = this.stretch({ start, count: count - lead });
    for (let at = errorEvery; errorEvery > 0 && at < text.length; at += errorEvery) {
      text[at] = this.tokens[Math.floor(random() * length)];
    }
    const before = Math.ceil(lead / 2);
    return [...text, ...this.stretch({ start: start + length - before, count: lead })];
  }
}
