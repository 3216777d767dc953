/**
 * Tables that tell from eight bits of a bitmap where each of eight columns finds its number among those that are
 * stored: shuffles, whose indices of 128 and more give zero.
 *
 *   BYTES:  256 x 32 bytes: | 0 x 8 | shuffle of 8 bytes | how many bits are set x 8 | unused |
 *   HALVES: 256 x 16 bytes: | shuffle of 8 f16 |
 *
 * They lie at the end of the kernels' 64 KiB, and not in the module, as its data would be longer than its code. Each
 * instance fills them when it is made, with the same bytes: whoever reads them meanwhile finds nothing changed.
 */
const BYTES: usize = 0xd000;
const HALVES: usize = 0xf000;

/** An index that no shuffle finds anything at, whatever is added to it here. */
const NONE: u8 = 0x80;

export class Positions {
  /** The shuffle that gives sixteen bytes, by the lowest 16 bits. */
  @inline
  static sixteen(bits: u32): v128 {
    const low = usize((bits << 5) & 0x1fe0), high = usize((bits >> 3) & 0x1fe0);
    return i8x16.add(v128.load(low, BYTES + 8), v128.load(high, BYTES));
  }

  /** The shuffle that gives eight f16, by eight bits that stand at bit 4 of `bits`. */
  @inline
  static eightHalves(bits: u32): v128 {
    return v128.load(usize(bits & 0xff0), HALVES);
  }

  /** Bytes of `numbers` by a shuffle. Both builds give zero for an index of 128 and more. */
  @inline
  static shuffle(numbers: v128, indices: v128): v128 {
    if (ASC_FEATURE_RELAXED_SIMD) return i8x16.relaxed_swizzle(numbers, indices);
    return i8x16.swizzle(numbers, indices);
  }

  static fill(): void {
    assert(__heap_base <= BYTES);
    for (let bits: usize = 0; bits < 256; bits++) {
      const bytes = BYTES + (bits << 5), halves = HALVES + (bits << 4);
      let stored: u8 = 0;
      for (let column: usize = 0; column < 8; column++) {
        const isStored = (bits >> column & 1) != 0;
        store<u8>(bytes + column, 0);
        store<u8>(bytes + column, isStored ? stored : NONE, 8);
        store<u8>(bytes + column, u8(popcnt<usize>(bits)), 16);
        store<u8>(halves + (column << 1), isStored ? stored << 1 : NONE);
        store<u8>(halves + (column << 1), isStored ? (stored << 1) + 1 : NONE, 1);
        if (isStored) stored++;
      }
    }
  }
}

Positions.fill();
