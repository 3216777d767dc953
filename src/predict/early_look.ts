import type { LayerSlots } from "../cache/layer_slots.ts";
import { EarlyQuota } from "./early_quota.ts";
import { EarlyReads } from "./early_reads.ts";
import type { EarlyScores } from "./early_reads.ts";
import { instantiateKernels } from "../kernels.ts";
import type { Kernels } from "../kernels.ts";
import { applyNorm } from "../norm.ts";
import { addBits } from "./mask.ts";
import { look } from "./layer_predictor.ts";
import { arenaIndexOf } from "../pipeline/options.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/**
 * Predicts a layer's neurons from the residual stream before the FFN of the layer before (the first layer's from its input), with
 * the late look's matrices and thresholds of its own; and starts reads of what is not there. It decides nothing: a wrong guess costs a read.
 */
export class EarlyLook {
  readonly #seat: PredictorSeat;
  /** Of each arena. */
  readonly #kernels: Kernels[];
  /** Of each arena: u32[intermediateSize / 32], the answer for one position. */
  readonly #masks: Uint32Array[];
  /** What any position of a step names. */
  readonly #union: Uint32Array;
  readonly #reads: EarlyReads;
  /** Time of the arithmetic. */
  lookMs = 0;
  readonly #quota = new EarlyQuota();
  /** Of each layer. */
  readonly #sureness: (EarlyScores | undefined)[];
  readonly #landed: Sequence;

  constructor(seat: PredictorSeat) {
    const { kernels, arenas, sizes, weights } = seat.options;
    const n = sizes.intermediateSize, words = Math.ceil(n / 32);
    this.#seat = seat;
    this.#kernels = arenas.map(({ memory }) => instantiateKernels(kernels, memory));
    this.#masks = arenas.map(({ memory, plan }) =>
      new Uint32Array(memory.buffer, plan.predictor.mask, words)
    );
    this.#union = new Uint32Array(words);
    this.#reads = new EarlyReads(seat, n);
    this.#sureness = weights.layers.map(({ predictor }, layer) => {
      const { memory, plan } = arenas[arenaIndexOf(arenas, layer)];
      // A router has no scores of neurons.
      if (!predictor || predictor.kind === "router") return undefined;
      return {
        scores: new Float32Array(memory.buffer, plan.predictor.scores, n),
        bias: new Float32Array(memory.buffer, predictor.earlyBias, n),
      };
    });
    this.#landed = seat.control.sequence("landed");
  }

  /** @param positions of the step, at most `EARLY_POSITIONS` */
  look(step: number, slots: LayerSlots, positions: number): void {
    if (!this.#seat.options.weights.layers[slots.layer].predictor) return;
    const mask = this.#masks[slots.arena];
    this.#lookAt(slots, 0);
    if (positions === 1) {
      const { limit } = this.#quota, sureness = this.#sureness[slots.layer];
      this.#quota.issue(this.#reads.start(mask, slots, step, { limit, sureness }));
      return;
    }
    const union = this.#union;
    union.set(mask);
    for (let position = 1; position < positions; position++) {
      this.#lookAt(slots, position);
      addBits(union, mask);
    }
    this.#reads.start(union, slots, step);
  }

  /** The late look is there. */
  judge(): void {
    this.#quota.judge((this.#seat.readPlan.ticketCount - this.#landed.value) | 0);
  }

  /** Leaves what a position names in the arena's mask. */
  #lookAt({ layer, arena }: LayerSlots, position: number): void {
    const { weights, sizes, arenas } = this.#seat.options;
    const { predictor, ffnNorm } = weights.layers[layer];
    const { hiddenSize: d, intermediateSize: n } = sizes;
    const { plan } = arenas[arena], kernels = this.#kernels[arena], scratch = plan.predictor;
    const input = plan.layerInput[layer & 1] + position * plan.strides.hidden;
    const { normed, mask } = scratch, { readPlan, clock } = this.#seat;
    const began = clock() - readPlan.submitMs;
    applyNorm(kernels, sizes.norm, input, ffnNorm, normed, d);
    // The disk goes on with what it has.
    readPlan.poll();
    look(kernels, predictor!, scratch, { d, n, input: normed, isEarly: true, mask });
    readPlan.poll();
    this.lookMs += clock() - readPlan.submitMs - began;
  }
}
