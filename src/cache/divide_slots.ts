import type { MissCurve } from "./miss_curve.ts";

export interface DivideSlotsOptions {
  /** One curve a layer. */
  curves: readonly MissCurve[];
  /** Slots to give out over all layers. */
  totalSlots: number;
  /** What each layer gets before anything is weighed: one number for all, or one a layer. */
  minSlots: number | readonly number[];
  /** Neurons of a layer: more slots would stay empty. */
  count: number;
}

/**
 * Divides cache slots among layers so that the expected misses per token are fewest: each next slot goes where the
 * lower convex hull of a layer's miss curve falls most steeply. Returns the slots of each layer, whose sum is
 * `totalSlots`, or all neurons if there are more slots than neurons.
 *
 * Throws a RangeError if the layers' minimum is not affordable.
 *
 * ```ts
 * import { divideSlots } from "./divide_slots.ts";
 *
 * const steep = { slots: [0, 10, 100], missesPerToken: [9, 1, 0] };
 * const flat = { slots: [0, 10, 100], missesPerToken: [3, 2, 0] };
 * divideSlots({ curves: [steep, flat], totalSlots: 20, minSlots: 2, count: 100 }); // [10, 10]
 * ```
 */
export function divideSlots(options: DivideSlotsOptions): number[] {
  const { curves, totalSlots, count, minSlots } = options;
  const slots = curves.map((_, layer) =>
    Math.min(count, typeof minSlots === "number" ? minSlots : minSlots[layer])
  );
  const needed = slots.reduce((sum, least) => sum + least, 0);
  const spare = Math.min(totalSlots, curves.length * count) - needed;
  if (!(spare >= 0)) {
    throw new RangeError(
      `Cannot divide slots as ${curves.length} layers need ${needed}: received ${totalSlots}`,
    );
  }
  const steps = curves.flatMap((curve, layer) => hullSteps(curve, layer, slots[layer], count))
    .sort((a, b) => b.savedPerSlot - a.savedPerSlot || a.from - b.from || a.layer - b.layer);
  let left = spare;
  for (const step of steps) {
    const granted = Math.min(left, step.to - step.from);
    slots[step.layer] += granted;
    left -= granted;
  }
  return slots;
}

/** A layer's slots over the neurons that it computes for a token, at least. Measured: bench/tokens.ts on models/tales. */
const LISTS_MIN = 1.4;

/**
 * What each layer gets at least: room for 1.4 lists of a token, where that is affordable, else in
 * proportion. The miss curves do not know that a list longer than its slots comes in passes, each waiting for
 * the one before, and that reads in flight hold slots too.
 *
 * @param lists neurons that each layer computes for a token, on average
 */
export function fewestSlots(
  lists: readonly number[],
  { totalSlots, count, leastSlots = 1 }: {
    totalSlots: number;
    count: number;
    leastSlots?: number;
  },
): number[] {
  const wanted = lists.map((neurons) => Math.min(count, Math.max(leastSlots, LISTS_MIN * neurons)));
  const sum = wanted.reduce((total, slots) => total + slots, 0);
  if (sum <= totalSlots) return wanted.map((slots) => Math.floor(slots));
  // What is above the least is scaled, so that the sum fits.
  const least = Math.min(leastSlots, count), leastSum = least * lists.length;
  const scale = Math.max(0, (totalSlots - leastSum) / Math.max(1, sum - leastSum));
  return wanted.map((slots) => least + Math.floor(scale * (slots - least)));
}

/**
 * The slots of each layer, of `slotTotal` in all: by marginal gain, above what a list needs; evenly if nothing is known
 * of the layers.
 */
export function divideAmongLayers(
  { numLayers, count, slotTotal, leastSlots = 1, curves, predictedShares }: {
    numLayers: number;
    count: number;
    slotTotal: number;
    /** What each layer must have, whatever its curve says. */
    leastSlots?: number;
    /** One a layer, or none. */
    curves: readonly MissCurve[];
    /** Neurons that each layer computes for a token, on average, as a share of all. */
    predictedShares: readonly number[];
  },
): number[] {
  if (slotTotal === 0) return new Array(numLayers).fill(0);
  if (slotTotal >= count * numLayers) return new Array(numLayers).fill(count);
  if (curves.length === 0) {
    return Array.from(
      { length: numLayers },
      (_, layer) =>
        Math.floor(slotTotal * (layer + 1) / numLayers) - Math.floor(slotTotal * layer / numLayers),
    );
  }
  const lists = predictedShares.map((share) => share * count);
  const minSlots = fewestSlots(lists, { totalSlots: slotTotal, count, leastSlots });
  return divideSlots({ curves, totalSlots: slotTotal, minSlots, count });
}

/** Misses per token at a number of slots, on the straight lines between a curve's points. */
export function missesAt(curve: MissCurve, slots: number): number {
  const { slots: xs, missesPerToken: ys } = curve;
  const right = xs.findIndex((x) => x >= slots);
  if (right < 0) return ys[ys.length - 1];
  if (right === 0 || xs[right] === slots) return ys[right];
  const share = (slots - xs[right - 1]) / (xs[right] - xs[right - 1]);
  return ys[right - 1] + share * (ys[right] - ys[right - 1]);
}

interface HullStep {
  layer: number;
  from: number;
  to: number;
  savedPerSlot: number;
}

/** The edges of the lower convex hull of a curve between `minSlots` and `count` slots, steepest first. */
function hullSteps(curve: MissCurve, layer: number, minSlots: number, count: number): HullStep[] {
  const inside = curve.slots.filter((x) => x > minSlots && x < count);
  const points = [minSlots, ...inside, count].map((x) => ({ x, y: missesAt(curve, x) }));
  const hull: { x: number; y: number }[] = [];
  for (const point of points) {
    while (hull.length >= 2 && !isBelow(hull[hull.length - 1], hull[hull.length - 2], point)) {
      hull.pop();
    }
    hull.push(point);
  }
  return hull.slice(1).map((end, k) => ({
    layer,
    from: hull[k].x,
    to: end.x,
    savedPerSlot: (hull[k].y - end.y) / Math.max(1, end.x - hull[k].x),
  }));
}

/** Whether `middle` lies below the line from `left` to `right`. */
function isBelow(
  middle: { x: number; y: number },
  left: { x: number; y: number },
  right: { x: number; y: number },
): boolean {
  return (middle.y - left.y) * (right.x - left.x) < (right.y - left.y) * (middle.x - left.x);
}
