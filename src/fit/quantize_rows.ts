/** Rows of odd levels, each times the scale of its row. */
export interface QuantizedRows {
  /** i8[rows][cols]: odd numbers from 1 - 2^bits to 2^bits - 1. */
  levels: Int8Array;
  /** f32[rows]: what brings levels nearest to the row in the mean square. */
  scales: Float32Array;
}

/** Steps that are tried, as shares of the one that reaches the largest magnitude. */
const STEP_SHARES = Array.from({ length: 29 }, (_, index) => 0.3 + 0.025 * index);

/**
 * Rows in `bits` bits a weight. Levels are odd, so that there are as many below zero as above it and none is zero: one bit is
 * the sign. A few large weights are cut off where that serves the others.
 *
 * @param values f32[rows][cols]
 */
export function quantizeRows(
  values: Float32Array,
  { rows, cols, bits }: { rows: number; cols: number; bits: number },
): QuantizedRows {
  const levels = new Int8Array(rows * cols), scales = new Float32Array(rows);
  const most = 2 ** bits - 1;
  for (let row = 0; row < rows; row++) {
    const from = row * cols, to = from + cols;
    let largest = 0;
    for (let i = from; i < to; i++) largest = Math.max(largest, Math.abs(values[i]));
    // The sign needs no step.
    const steps = bits === 1 ? [largest] : STEP_SHARES.map((share) => share * largest / most);
    let best = { gain: -1, scale: 0, step: 1 };
    for (const step of steps) {
      let product = 0, square = 0;
      for (let i = from; i < to; i++) {
        const level = levelOf(values[i], step, most);
        product += level * values[i], square += level * level;
      }
      // The square of the error is that of the values less the gain.
      const gain = product * product / square;
      if (gain > best.gain) best = { gain, scale: product / square, step };
    }
    for (let i = from; i < to; i++) levels[i] = levelOf(values[i], best.step, most);
    scales[row] = best.scale;
  }
  return { levels, scales };
}

/** The odd number of steps nearest to a value, at most `most` in magnitude. */
function levelOf(value: number, step: number, most: number): number {
  if (!(step > 0)) return 1;
  return Math.max(-most, Math.min(most, 2 * Math.floor(value / (2 * step)) + 1));
}
