import type { LayerSlots } from "../cache/layer_slots.ts";
import { EarlyReads } from "./early_reads.ts";
import { instantiateKernels } from "../kernels.ts";
import type { Kernels } from "../kernels.ts";
import { look } from "./layer_predictor.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/**
 * Predicts a layer's neurons from the layer's input, with the late look's matrices and thresholds of its own, while the
 * lanes are at attention; and starts reads of what is not there. It decides nothing: a wrong guess costs a read.
 */
export class EarlyLook {
  readonly #seat: PredictorSeat;
  readonly #kernels: Kernels;
  readonly #mask: Uint32Array;
  readonly #reads: EarlyReads;

  constructor(seat: PredictorSeat) {
    const { kernels, arena, plan, sizes } = seat.options;
    const n = sizes.intermediateSize;
    this.#seat = seat;
    this.#kernels = instantiateKernels(kernels, arena);
    this.#mask = new Uint32Array(arena.buffer, plan.predictor.mask, Math.ceil(n / 32));
    this.#reads = new EarlyReads(seat, n);
  }

  look(step: number, slots: LayerSlots): void {
    const { weights, sizes, plan } = this.#seat.options;
    const { predictor, ffnNorm } = weights.layers[slots.layer];
    if (!predictor) return;
    const { hiddenSize: d, intermediateSize: n, layerNormEpsilon } = sizes;
    const kernels = this.#kernels, scratch = plan.predictor;
    const input = plan.layerInput[slots.layer & 1], { normed, mask } = scratch;
    kernels.layerNorm(input, ffnNorm.weight, ffnNorm.bias, normed, d, layerNormEpsilon);
    look(kernels, predictor, scratch, { d, n, input: normed, isEarly: true, mask });
    this.#reads.start(this.#mask, slots, step);
  }
}
