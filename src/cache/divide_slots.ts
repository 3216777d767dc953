import type { MissCurve } from "./miss_curve.ts";

export interface DivideSlotsOptions {
  /** One curve a layer. */
  curves: readonly MissCurve[];
  /** Slots to give out over all layers. */
  totalSlots: number;
  /** What each layer gets before anything is weighed. */
  minSlotsPerLayer: number;
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
 * divideSlots({ curves: [steep, flat], totalSlots: 20, minSlotsPerLayer: 2, count: 100 }); // [10, 10]
 * ```
 */
export function divideSlots(options: DivideSlotsOptions): number[] {
  const { curves, totalSlots, count } = options;
  const minSlots = Math.min(options.minSlotsPerLayer, count);
  const spare = Math.min(totalSlots, curves.length * count) - curves.length * minSlots;
  if (!(spare >= 0)) {
    throw new RangeError(
      `Cannot divide slots as ${curves.length} layers need ${minSlots} each: received ${totalSlots}`,
    );
  }
  const steps = curves.flatMap((curve, layer) => hullSteps(curve, layer, minSlots, count))
    .sort((a, b) => b.savedPerSlot - a.savedPerSlot || a.from - b.from || a.layer - b.layer);
  const slots = curves.map(() => minSlots);
  let left = spare;
  for (const step of steps) {
    const granted = Math.min(left, step.to - step.from);
    slots[step.layer] += granted;
    left -= granted;
  }
  return slots;
}

/**
 * What each layer gets at least: a quarter of an even share. The curves do not know of passes and of slots
 * that early reads take; a layer whose list is longer than its slots waits for both.
 */
export function fewestSlots(totalSlots: number, layerCount: number): number {
  return Math.max(1, Math.floor(totalSlots / layerCount / 4));
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
