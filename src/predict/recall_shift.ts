import type { Predictors, RecallCurve } from "../format/header.ts";

/**
 * What is added to both biases of each layer so that its late look finds the share `recall` of the active neurons;
 * null, for nothing, without a wish.
 *
 * @throws {RangeError} the file has no curves, or they do not reach that far
 */
export function recallShifts(
  { layers, recallWanted }: Predictors,
  recall: number | undefined,
  path: string,
): number[] | null {
  if (recall === undefined) return null;
  const curves = layers.map(({ recallCurve }) => recallCurve);
  if (curves.some((curve) => curve === undefined)) {
    throw new RangeError(
      `Cannot set the recall of ${path}: its predictors stand for ${recallWanted} alone; ` +
        "run `flashpipe calibrate` again for predictors with a curve",
    );
  }
  const known = curves as RecallCurve[];
  const least = Math.max(...known.map(({ recalls }) => recalls[0]));
  const most = Math.min(...known.map(({ recalls }) => recalls[recalls.length - 1]));
  // 99.9 % is 0.999 but for its last bits.
  const wanted = Math.abs(recall - most) < 1e-9 ? most : recall;
  if (!(wanted >= least && wanted <= most)) {
    throw new RangeError(
      `Cannot set a recall of ${shown(recall)}: ${path} has ${shown(least)} to ${shown(most)}`,
    );
  }
  return known.map((curve) => shiftAt(curve, wanted));
}

/** On the straight line between the curve's points over -log(1 - recall), by which thresholds grow about evenly. */
function shiftAt({ recalls, shifts }: RecallCurve, recall: number): number {
  const right = recalls.findIndex((point) => point >= recall);
  if (right === 0 || recalls[right] === recall) return shifts[right];
  const [from, at, to] = [recalls[right - 1], recall, recalls[right]]
    .map((value) => -Math.log(1 - value));
  return shifts[right - 1] + (at - from) / (to - from) * (shifts[right] - shifts[right - 1]);
}

/** As percent, without the last bits of a division. */
function shown(share: number): string {
  return `${Number((100 * share).toFixed(4))} %`;
}
