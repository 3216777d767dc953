import { alignUp } from "./align.ts";
import {
  type BundleForm,
  bundleVectors,
  type Capacities,
  sparseNumbersAt,
  vectorByteLength,
} from "./layout.ts";

/**
 * Bundles of a pruned model, stored without their zeros (Flash-LLM's idea: load as sparse, compute as dense; Xia et al., arXiv
 * 2309.10285). A vector is
 *
 *   q8:  | d/32 f16 scales | d/8 bytes of bits | i8 x capacity |
 *   f16: | d/8 bytes of bits | f16 x capacity |
 *
 * Bit c % 8 of byte c / 8 says whether column c is stored; the numbers follow in the order of columns, then zeros. A number
 * that is stored as 0 (or -0) has no bit. Sums begin at +0, and to add ±0 to them changes nothing: so no result changes.
 */

/** A file is worth the work of expanding if its bundles are at most this share of what they would be with zeros. */
const SHARE_MAX = 0.9;

/** Bundles of a multiple of these bytes take fewer blocks of a disk, and of memory, if they grow by at most this share for it. */
const BLOCKS = [512, 256, 128, 64];
const GROWTH_MAX = 1.125;

/** The same bundles with their zeros. */
export function withZeros(form: BundleForm): BundleForm {
  return { ...form, capacities: null };
}

/** Views of the numbers of a vector: their bits without a sign are zero for what is not stored. */
function numbersAt(
  { quantization }: BundleForm,
  { buffer, byteOffset }: Uint8Array,
  at: number,
  length: number,
): { numbers: Int8Array | Uint16Array; magnitude: number } {
  return quantization === "q8"
    ? { numbers: new Int8Array(buffer, byteOffset + at, length), magnitude: 0xff }
    : { numbers: new Uint16Array(buffer, byteOffset + at, length), magnitude: 0x7fff };
}

/** Raises `most[i]` to the numbers that are not zero in the i-th vector of any of `count` bundles, which have their zeros. */
export function countStored(
  form: BundleForm,
  bundles: Uint8Array,
  count: number,
  most: number[],
): void {
  const { hiddenSize: d, quantization } = form;
  const byteLength = vectorByteLength(quantization, d), scales = quantization === "q8" ? d / 16 : 0;
  const vectors = bundleVectors(withZeros(form)).length;
  for (let vector = 0; vector < count * vectors; vector++) {
    const { numbers, magnitude } = numbersAt(form, bundles, vector * byteLength + scales, d);
    let stored = 0;
    for (let c = 0; c < d; c++) if ((numbers[c] & magnitude) !== 0) stored++;
    most[vector % vectors] = Math.max(most[vector % vectors], stored);
  }
}

/**
 * How many numbers of each vector of a bundle get room, by how many the fullest have (`countStored`); null if bundles are not
 * worth it. Capacities may be larger than what is needed, so that bundles fill blocks.
 */
export function chooseCapacities(form: BundleForm, most: readonly number[]): number[] | null {
  const byteLengthOf = (capacities: Capacities) =>
    bundleVectors({ ...form, capacities }).reduce((sum, byteLength) => sum + byteLength, 0);
  const capacities = most.map((stored) => alignUp(stored, 2));
  const byteLength = byteLengthOf(capacities), largest = SHARE_MAX * byteLengthOf(null);
  if (byteLength > largest) return null;
  for (const block of BLOCKS) {
    const wanted = alignUp(byteLength, block);
    if (wanted > Math.min(largest, GROWTH_MAX * byteLength)) continue;
    let room = (wanted - byteLength) / (form.quantization === "q8" ? 1 : 2);
    const filled = capacities.map((capacity) => {
      const more = Math.min(room, form.hiddenSize - capacity);
      room -= more;
      return capacity + more;
    });
    if (room === 0) return filled;
  }
  return capacities;
}

/** Stores `count` bundles that have their zeros without them; `form` has the capacities, which must suffice. */
export function storeSparse(
  form: BundleForm,
  bundles: Uint8Array,
  count: number,
  target: Uint8Array,
): void {
  const { hiddenSize: d, quantization, capacities } = form;
  const byteLength = vectorByteLength(quantization, d), scales = quantization === "q8" ? d / 16 : 0;
  const vectors = bundleVectors(form);
  let from = 0, to = 0;
  for (let bundle = 0; bundle < count; bundle++) {
    for (let vector = 0; vector < vectors.length; vector++) {
      const room = target.subarray(to, to + vectors[vector]).fill(0);
      room.set(bundles.subarray(from, from + scales));
      const { numbers, magnitude } = numbersAt(form, bundles, from + scales, d);
      const numbersBegin = sparseNumbersAt(quantization, d);
      const stored = numbersAt(form, room, numbersBegin, capacities![vector]).numbers;
      let next = 0;
      for (let c = 0; c < d; c++) {
        if ((numbers[c] & magnitude) === 0) continue;
        room[scales + (c >> 3)] |= 1 << (c & 7);
        stored[next++] = numbers[c];
      }
      if (next > stored.length) {
        throw new RangeError(
          `Cannot store ${next} numbers in a vector that holds ${stored.length}`,
        );
      }
      from += byteLength;
      to += vectors[vector];
    }
  }
}

/**
 * Copies vector `vector` of each of `count` bundles, of either form, to `target`, with its zeros and without gaps: what
 * `loadRows` and `tileRows` take. Bits for which there is no number give zeros.
 */
export function takeVectors(
  form: BundleForm,
  bundles: Uint8Array,
  { vector, count }: { vector: number; count: number },
  target: Uint8Array,
): void {
  const { hiddenSize: d, quantization, capacities } = form, vectors = bundleVectors(form);
  const byteLength = vectorByteLength(quantization, d), scales = quantization === "q8" ? d / 16 : 0;
  const stride = vectors.reduce((sum, bytes) => sum + bytes, 0);
  let from = vectors.slice(0, vector).reduce((sum, bytes) => sum + bytes, 0);
  for (let to = 0; to < count * byteLength; to += byteLength, from += stride) {
    if (!capacities) {
      target.set(bundles.subarray(from, from + byteLength), to);
      continue;
    }
    target.set(bundles.subarray(from, from + scales), to);
    const numbersBegin = from + sparseNumbersAt(quantization, d);
    const stored = numbersAt(form, bundles, numbersBegin, capacities[vector]).numbers;
    const { numbers } = numbersAt(form, target, to + scales, d);
    let next = 0;
    for (let c = 0; c < d; c++) {
      const isStored = (bundles[from + scales + (c >> 3)] >> (c & 7) & 1) !== 0;
      numbers[c] = isStored && next < stored.length ? stored[next++] : 0;
    }
  }
}
