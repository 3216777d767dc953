const BINS_PER_UNIT = 64;
const RANGE = 64;
const BIN_COUNT = 2 * RANGE * BINS_PER_UNIT;

/**
 * Counts (position, neuron) pairs by their margin: how many residual deviations a neuron's score lies below zero, so
 * that a margin of tau predicts every pair counted below tau. `wanted` counts the pairs that ought to be predicted.
 */
export class MarginHistogram {
  readonly all: Float64Array = new Float64Array(BIN_COUNT);
  readonly wanted: Float64Array = new Float64Array(BIN_COUNT);

  add(margin: number, isWanted: boolean): void {
    let bin = ((margin + RANGE) * BINS_PER_UNIT) | 0;
    if (bin < 0) bin = 0;
    else if (bin >= BIN_COUNT) bin = BIN_COUNT - 1;
    this.all[bin]++;
    if (isWanted) this.wanted[bin]++;
  }

  /** The smallest margin (a multiple of 1/64) below which at least the share `recall` of the wanted pairs lies. */
  marginForRecall(recall: number): number {
    const needed = recall * sum(this.wanted);
    let found = 0;
    for (let bin = 0; bin < BIN_COUNT; bin++) {
      if (found >= needed) return edgeOf(bin);
      found += this.wanted[bin];
    }
    return RANGE;
  }

  /** The margin at which wanted pairs found, less `cost` for each unwanted pair predicted, is largest. */
  marginForBenefit(cost: number): number {
    let benefit = 0, best = 0, bestBin = 0;
    for (let bin = 0; bin < BIN_COUNT; bin++) {
      benefit += this.wanted[bin] - cost * (this.all[bin] - this.wanted[bin]);
      if (benefit > best) best = benefit, bestBin = bin + 1;
    }
    return edgeOf(bestBin);
  }

  /** Share of all pairs that a margin predicts. */
  predictedShare(margin: number): number {
    return sum(this.all, binOf(margin)) / Math.max(1, sum(this.all));
  }

  /** Share of the wanted pairs that a margin predicts; 1 when there are none. */
  recall(margin: number): number {
    const total = sum(this.wanted);
    return total === 0 ? 1 : sum(this.wanted, binOf(margin)) / total;
  }
}

function edgeOf(bin: number): number {
  return bin / BINS_PER_UNIT - RANGE;
}

function binOf(margin: number): number {
  return Math.max(0, Math.min(BIN_COUNT, Math.round((margin + RANGE) * BINS_PER_UNIT)));
}

function sum(values: Float64Array, end = values.length): number {
  let total = 0;
  for (let i = 0; i < end; i++) total += values[i];
  return total;
}
