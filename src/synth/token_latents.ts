import type { ModelConfig } from "../../models/config.ts";
import { deviate, randomFor, STREAM } from "./noise.ts";
import { TOPIC_TOKENS } from "./planted.ts";
import type { ResidualLayout } from "./residual_layout.ts";
import { roundedCosine } from "./spread_basis.ts";
import { TokenChain } from "./token_chain.ts";

/**
 * Where each word of the vocabulary lies along the planted directions, as a function of its place in the chain: a topic that moves
 * slowly from place to place, a part of its own, and its identity: an angle in each of some planes that grows by the same step from
 * place to place. So one rotation leads from any word's identity to that of the next, and two words have little in common.
 */
export class TokenLatents {
  readonly chain: TokenChain;
  /** Words in the chain. */
  readonly count: number;
  readonly #layout: ResidualLayout;
  readonly #seed: number;
  /** f32[count][topicSize], of variance 1. */
  readonly #topics: Float32Array;
  /** Steps of the angle in each plane, in turns / count: whole numbers, so that the chain closes. */
  readonly #steps: Int32Array;
  readonly #starts: Int32Array;
  /** Cosines of all multiples of the smallest angle. */
  readonly #cosines: Float32Array;
  readonly #sines: Float32Array;

  constructor(config: ModelConfig, layout: ResidualLayout, seed: number) {
    this.chain = new TokenChain({ vocabSize: config.vocabSize, seed });
    this.count = this.chain.tokens.length;
    this.#layout = layout;
    this.#seed = seed;
    this.#topics = topicWalk(this.count, layout.topicSize, seed);
    const planes = layout.identitySize / 2,
      random = randomFor(seed, STREAM.angles),
      { count } = this;
    this.#steps = Int32Array.from(
      { length: planes },
      () => 1 + Math.floor(random() * (count - 1)),
    );
    this.#starts = Int32Array.from({ length: planes }, () => Math.floor(random() * count));
    this.#cosines = Float32Array.from({ length: count }, (_, k) => roundedCosine(k / count));
    this.#sines = Float32Array.from({ length: count }, (_, k) => roundedCosine(k / count - 0.25));
  }

  /** Topic, part of its own and identity of the word at a place, each number of variance 1, to `target[at]` and after. */
  write(place: number, target: Float32Array, at: number): void {
    const { topicSize, tokenSize } = this.#layout;
    for (let k = 0; k < topicSize; k++) target[at + k] = this.#topics[place * topicSize + k];
    const random = randomFor(this.#seed, STREAM.words, place);
    for (let k = 0; k < tokenSize; k++) target[at + topicSize + k] = deviate(random);
    this.writeIdentity(place, target, at + topicSize + tokenSize);
  }

  writeIdentity(place: number, target: Float32Array, at: number): void {
    const { count } = this, steps = this.#steps, starts = this.#starts;
    for (let plane = 0; plane < steps.length; plane++) {
      const angle = (starts[plane] + steps[plane] * place) % count;
      target[at + 2 * plane] = Math.SQRT2 * this.#cosines[angle];
      target[at + 2 * plane + 1] = Math.SQRT2 * this.#sines[angle];
    }
  }

  /** Cosine and sine of the step to the next place in a plane. */
  stepOf(plane: number): { cosine: number; sine: number } {
    const step = this.#steps[plane];
    return { cosine: this.#cosines[step], sine: this.#sines[step] };
  }
}

/** An Ornstein-Uhlenbeck walk from place to place: f32[count][size], of variance 1. */
function topicWalk(count: number, size: number, seed: number): Float32Array {
  const random = randomFor(seed, STREAM.topics), topics = new Float32Array(count * size);
  // 1 - 1 / tokens for exp(-1 / tokens): no runtime's own last bits.
  const kept = Float64Array.from(
    { length: size },
    (_, k) => 1 - 1 / TOPIC_TOKENS[k % TOPIC_TOKENS.length],
  );
  const added = kept.map((share) => Math.sqrt(1 - share ** 2));
  for (let k = 0; k < size; k++) topics[k] = deviate(random);
  for (let at = size; at < topics.length; at++) {
    const k = at % size;
    topics[at] = kept[k] * topics[at - size] + added[k] * deviate(random);
  }
  // All of one length: else the norm would let the other parts grow where the topic is weak.
  for (let from = 0; from < topics.length; from += size) {
    let square = 0;
    for (let at = from; at < from + size; at++) square += topics[at] ** 2;
    const scale = Math.sqrt(size / square);
    for (let at = from; at < from + size; at++) topics[at] *= scale;
  }
  return topics;
}
