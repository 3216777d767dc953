/**
 * Writes the indices of the bits that are set, in ascending order, to `indices`; returns how many.
 * Bit i % 32 of word i / 32 stands for neuron i.
 */
export function bitsOf(mask: Uint32Array, indices: Int32Array): number {
  let count = 0;
  for (let word = 0; word < mask.length; word++) {
    let bits = mask[word] | 0;
    while (bits !== 0) {
      const lowest = bits & -bits;
      indices[count++] = word * 32 + 31 - Math.clz32(lowest);
      bits ^= lowest;
    }
  }
  return count;
}

/** Sets the bits of `mask` in `union`, too. */
export function addBits(union: Uint32Array, mask: Uint32Array): void {
  for (let word = 0; word < union.length; word++) union[word] |= mask[word];
}
