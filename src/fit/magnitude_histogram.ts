/** Bins of an octave: a bin is 1.1 to 1.6 % wide. */
const BINS_BITS = 6;
const MANTISSA_BITS = 23;
const SHIFT = MANTISSA_BITS - BINS_BITS;
/** Octaves from 2^-24 to 2^16; what is smaller is in the first bin, what is larger (or NaN) in the last. */
const EXPONENT_MIN = -24, EXPONENT_MAX = 16;
const FIRST = (EXPONENT_MIN + 127) << BINS_BITS;
const BIN_COUNT = ((EXPONENT_MAX - EXPONENT_MIN) << BINS_BITS) + 2;

/**
 * Counts numbers by their magnitude, in bins that are even within an octave: the upper bits of a float name its bin. Counts of several
 * histograms add up, so it does not matter who counted what.
 */
export class MagnitudeHistogram {
  /** u32[bins], or sums of such. */
  readonly counts: Float64Array = new Float64Array(BIN_COUNT);

  /** Counts `values` [from, to). */
  add({ buffer, byteOffset }: Float32Array, from: number, to: number): void {
    const words = new Uint32Array(buffer, byteOffset), { counts } = this;
    for (let at = from; at < to; at++) {
      const bin = ((words[at] & 0x7fffffff) >>> SHIFT) - FIRST + 1;
      counts[bin < 0 ? 0 : bin >= BIN_COUNT ? BIN_COUNT - 1 : bin]++;
    }
  }

  merge(counts: ArrayLike<number>): void {
    for (let bin = 0; bin < BIN_COUNT; bin++) this.counts[bin] += counts[bin];
  }

  /**
   * The magnitude below which the share `share` of the numbers lies, on the straight line within a bin. Throws `RangeError` if nothing
   * was counted.
   */
  quantile(share: number): number {
    const total = this.counts.reduce((sum, count) => sum + count, 0), wanted = share * total;
    if (total === 0) throw new RangeError("Cannot tell a quantile as nothing was counted");
    let below = 0, bin = 0;
    while (bin < BIN_COUNT - 1 && below + this.counts[bin] < wanted) below += this.counts[bin++];
    const from = edgeOf(bin), count = this.counts[bin];
    return count === 0 ? from : from + (wanted - below) / count * (edgeOf(bin + 1) - from);
  }
}

/** The magnitude at which a bin begins; the last one has no width. */
function edgeOf(bin: number): number {
  if (bin === 0) return 0;
  const steps = Math.min(bin, BIN_COUNT - 1) - 1, perOctave = 1 << BINS_BITS;
  return 2 ** (EXPONENT_MIN + Math.floor(steps / perOctave)) * (1 + steps % perOctave / perOctave);
}
