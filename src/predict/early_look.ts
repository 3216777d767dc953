import type { LayerSlots } from "../cache/layer_slots.ts";
import { NO_LIST } from "../cache/neuron_cache.ts";
import { instantiateKernels } from "../kernels.ts";
import type { Kernels } from "../kernels.ts";
import { PREDICTOR } from "../pipeline/statistics.ts";
import { lookLowRank } from "./low_rank_look.ts";
import { bitsOf } from "./mask.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/**
 * Predicts a layer's neurons from the layer's input, with the late look's matrices and thresholds of its own, while the
 * lanes are at attention; and starts reads of what is not there. It decides nothing: a wrong guess costs a read.
 */
export class EarlyLook {
  readonly #seat: PredictorSeat;
  readonly #kernels: Kernels;
  readonly #mask: Uint32Array;
  /** Neurons named, then those of them that are missing. */
  readonly #list: Int32Array;
  readonly #eviction = { passesDone: 0, list: NO_LIST, desperate: false };

  constructor(seat: PredictorSeat) {
    const { kernels, arena, plan, sizes } = seat.options;
    const n = sizes.intermediateSize;
    this.#seat = seat;
    this.#kernels = instantiateKernels(kernels, arena);
    this.#mask = new Uint32Array(arena.buffer, plan.predictor.mask, Math.ceil(n / 32));
    this.#list = new Int32Array(n);
  }

  look(step: number, slots: LayerSlots): void {
    const { weights, sizes, plan } = this.#seat.options;
    const { predictor, ffnNorm } = weights.layers[slots.layer];
    if (!predictor) return;
    const { hiddenSize: d, intermediateSize: n, layerNormEpsilon } = sizes;
    const kernels = this.#kernels, scratch = plan.predictor;
    const input = plan.layerInput[slots.layer & 1];
    kernels.layerNorm(input, ffnNorm.weight, ffnNorm.bias, scratch.normed, d, layerNormEpsilon);
    lookLowRank(kernels, predictor, scratch, {
      d,
      n,
      input: scratch.normed,
      bias: predictor.earlyBias,
      mask: scratch.mask,
    });
    this.#startReads(step, slots, this.#keepMissing(step, slots));
  }

  /** Leaves the named neurons that have no slot in the list; returns how many. */
  #keepMissing(step: number, { cache }: LayerSlots): number {
    const list = this.#list, count = bitsOf(this.#mask, list);
    let missCount = 0;
    for (let i = 0; i < count; i++) {
      const slot = cache.find(list[i]);
      // What is likely wanted must not make room for what is likely wanted.
      if (slot >= 0) cache.refresh(slot, step);
      else list[missCount++] = list[i];
    }
    return missCount;
  }

  /** Reads as many of them as find room, in rings and slots; the others wait for the late look. */
  #startReads(step: number, slots: LayerSlots, missCount: number): void {
    if (missCount === 0) return;
    const { readPlan, passes, statistics } = this.#seat;
    const { cache } = slots, list = this.#list, eviction = this.#eviction;
    const taken = Math.min(missCount, readPlan.earlyRoom, cache.slotCount >> 1);
    let issued = 0;
    eviction.passesDone = passes.done;
    readPlan.begin("early");
    while (issued < taken) {
      const slot = cache.admit(list[issued], step, eviction);
      if (slot < 0) break;
      slots.read(list[issued], slot);
      issued++;
    }
    slots.finishReads();
    readPlan.ring();
    statistics[PREDICTOR.earlyIssued] += issued;
    statistics[PREDICTOR.earlyDropped] += missCount - issued;
  }
}
