import { alignUp } from "../format/align.ts";
import { seededRandom } from "../random.ts";

/**
 * Which neurons outside the predicted set are looked at. Every neuron has the same known chance in its stratum, so that what is
 * seen, times the inverse of that chance, is right on average (Horvitz and Thompson 1952), whatever the predictor does:
 *
 *   - in a slot of the cache: every k-th slot, from a random one on. Costs a dot product.
 *   - not there: in one step of a few, one of the windows into which the layer's neurons are cut, as they lie on flash. Costs
 *     one read; a read of 16 KiB is hardly dearer than one of a single bundle, and shows more neurons.
 */
export interface AuditSample {
  /** Slots that are looked at in a layer in each step, or a few more. */
  slotsPerStep: number;
  /** Neurons of a window, and windows of a layer (the last may be shorter). */
  windowNeurons: number;
  windowCount: number;
  /** One window is read in so many steps of a layer, on average. */
  stepsPerWindow: number;
}

const SLOTS_PER_STEP = 16;
const WINDOW_BYTES = 16 * 1024;
/** A read each layer and token would cost the embedded model a quarter of its speed (bench/audit.ts). */
const STEPS_PER_WINDOW = 3;

/** The sample of a layer of `neuronCount` neurons whose bundles take `strideBytes` each on flash. */
export function planSample(neuronCount: number, strideBytes: number): AuditSample {
  const most = Math.max(1, Math.min(neuronCount, Math.floor(WINDOW_BYTES / strideBytes)));
  const windowCount = Math.ceil(neuronCount / most);
  return {
    slotsPerStep: SLOTS_PER_STEP,
    windowNeurons: Math.ceil(neuronCount / windowCount),
    windowCount,
    stepsPerWindow: STEPS_PER_WINDOW,
  };
}

/** Neurons that one layer's sample has at most, of both strata. */
export function sampleNeuronsMax({ slotsPerStep, windowNeurons }: AuditSample): number {
  return alignUp(2 * slotsPerStep + windowNeurons, 4);
}

/** Every how many of `slotCount` slots one is looked at: the inverse of a slot's chance. */
export function slotStride({ slotsPerStep }: AuditSample, slotCount: number): number {
  return Math.max(1, Math.floor(slotCount / slotsPerStep));
}

/** How many neurons one of a window stands for: the inverse of its chance. */
export function windowWeight({ windowCount, stepsPerWindow }: AuditSample): number {
  return windowCount * stepsPerWindow;
}

/** How many neurons one that is looked at stands for, at most. */
export function largestWeight(sample: AuditSample, slotCountMax: number): number {
  return Math.max(windowWeight(sample), slotStride(sample, slotCountMax));
}

/** Draws samples, the same ones for the same seed. Allocates nothing. */
export class SampleDraw {
  readonly #sample: AuditSample;
  readonly #random: () => number;

  constructor(sample: AuditSample, seed: number) {
    this.#sample = sample;
    this.#random = seededRandom(seed);
  }

  /** The first slot to look at. */
  firstSlot(stride: number): number {
    return Math.floor(this.#random() * stride);
  }

  /** The window to read in this step, or -1 for none. */
  window(): number {
    const { windowCount } = this.#sample;
    const drawn = Math.floor(this.#random() * windowWeight(this.#sample));
    return drawn < windowCount ? drawn : -1;
  }
}
