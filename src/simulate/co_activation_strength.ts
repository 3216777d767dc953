import { bitsOf } from "../predict/mask.ts";
import { seededRandom } from "../random.ts";

/** A layer's sets of neurons: u32[tokens][ceil(n / 32)]. */
export interface CoActivationOptions {
  masks: Uint32Array;
  tokenCount: number;
  neuronCount: number;
  /** Neurons whose friends are looked for, at random. */
  sampleCount?: number;
  seed?: number;
}

/** Neurons used less often in either half of the tokens are left out: chance would decide about their friends. */
const USES_MIN = 10;
/** Tokens that go to the same half. */
const BLOCK_TOKENS = 16;

/**
 * How closely neurons are tied together. For each of some neurons i: the friend j is the one whose P(j | i) exceeds P(j) most, found on one half
 * of the tokens; what is returned, one number a neuron, is by how much it does on the other half. Choosing and measuring on the
 * same tokens would find friends in pure noise, the more the more neurons there are.
 */
export function coActivationStrength(options: CoActivationOptions): number[] {
  const { masks, tokenCount, neuronCount, sampleCount = 256, seed = 1 } = options;
  const wordCount = Math.ceil(neuronCount / 32), neurons = new Int32Array(wordCount * 32);
  const lists = Array.from({ length: tokenCount }, (_, token) => {
    const count = bitsOf(masks.subarray(token * wordCount, (token + 1) * wordCount), neurons);
    return neurons.slice(0, count);
  });
  const halfOf = (token: number) => Math.floor(token / BLOCK_TOKENS) % 2;
  const tokens = [0, 0], uses = [new Int32Array(neuronCount), new Int32Array(neuronCount)];
  lists.forEach((list, token) => {
    tokens[halfOf(token)]++;
    for (const neuron of list) uses[halfOf(token)][neuron]++;
  });
  const random = seededRandom(seed), found: number[] = [];
  const usable = [...uses[0].keys()]
    .filter((neuron) => uses.every((half) => half[neuron] >= USES_MIN));
  for (let sample = Math.min(sampleCount, usable.length); sample > 0; sample--) {
    const [neuron] = usable.splice(Math.floor(random() * usable.length), 1);
    const together = [new Int32Array(neuronCount), new Int32Array(neuronCount)];
    lists.forEach((list, token) => {
      if ((masks[token * wordCount + (neuron >>> 5)] >>> (neuron & 31) & 1) === 0) return;
      const counts = together[halfOf(token)];
      for (const other of list) counts[other]++;
    });
    const excess = (half: number, other: number) =>
      together[half][other] / uses[half][neuron] - uses[half][other] / tokens[half];
    let friend = -1, most = -Infinity;
    for (let other = 0; other < neuronCount; other++) {
      if (other === neuron || excess(0, other) <= most) continue;
      most = excess(0, other);
      friend = other;
    }
    found.push(excess(1, friend));
  }
  return found;
}
