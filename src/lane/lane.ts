import { floatsAt } from "../format/layout.ts";
import type { PipelineOptions } from "../pipeline/options.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import { LANE } from "../pipeline/statistics.ts";
import { Attention } from "./attention.ts";
import { Ffn } from "./ffn.ts";
import { LaneSeat } from "./lane_seat.ts";
import type { Share } from "./lane_seat.ts";

/** A step: one token at one position through the whole model. */
export interface Step {
  token: number;
  position: number;
  wantsLogits: boolean;
  /** Row of the logits (or of the observations) that this step fills. */
  row: number;
  wantsObservation: boolean;
}

/** Words of the step that lane 0 announces to the other lanes. */
const TOKEN = 0;
const POSITION = 1;
const WANTS_LOGITS = 2;
const ROW = 3;
const WANTS_OBSERVATION = 4;

/**
 * A compute lane: its share of the forward pass. All lanes run the same steps; they split heads, rows and columns, and
 * meet where one needs what another computed. Which lane computes a number never changes it.
 *
 * The family that this pass is written for: pre-LayerNorm, learned positions, ReLU FFN without gate (OPT).
 */
export class Lane {
  readonly seat: LaneSeat;
  readonly #attention: Attention;
  readonly #ffn: Ffn;
  readonly #vocabulary: Share;
  readonly #layerReady: Sequence;
  readonly #stepStarted: Sequence;
  /** f32[hiddenSize] */
  readonly #residual: Float32Array;
  /** [positions][hiddenSize] */
  readonly #positions: Float32Array | Float16Array;
  #stepCount = 0;

  constructor(options: PipelineOptions, index: number) {
    const seat = new LaneSeat(options, index);
    const { sizes, plan, weights, arena: { buffer } } = options, d = sizes.hiddenSize;
    this.seat = seat;
    this.#attention = new Attention(seat);
    this.#ffn = new Ffn(seat);
    this.#vocabulary = seat.shareOf(Math.ceil(sizes.vocabSize / 8) * 8, 8);
    this.#layerReady = seat.control.sequence("layerReady");
    this.#stepStarted = seat.control.sequence("stepStarted");
    this.#residual = new Float32Array(buffer, plan.residual, d);
    const { address, dtype, rows } = weights.embedPositions;
    this.#positions = floatsAt(dtype, buffer, address, rows * d);
  }

  /** Lane 0: announces a step to the others and runs its share. */
  lead(step: Step): void {
    const { words, layout } = this.seat.control, at = layout.step;
    words[at + TOKEN] = step.token;
    words[at + POSITION] = step.position;
    words[at + WANTS_LOGITS] = step.wantsLogits ? 1 : 0;
    words[at + ROW] = step.row;
    words[at + WANTS_OBSERVATION] = step.wantsObservation ? 1 : 0;
    this.#stepStarted.advance();
    this.#run(step);
  }

  /** Other lanes: follow lane 0 until the pipeline stops (`PipelineStoppedError`). */
  follow(): never {
    const { words, layout } = this.seat.control, at = layout.step;
    for (;;) {
      this.#stepStarted.waitIdle((this.#stepCount + 1) | 0);
      this.#run({
        token: words[at + TOKEN],
        position: words[at + POSITION],
        wantsLogits: words[at + WANTS_LOGITS] === 1,
        row: words[at + ROW],
        wantsObservation: words[at + WANTS_OBSERVATION] === 1,
      });
    }
  }

  /** One token's way; see ARCHITECTURE. */
  #run(step: Step): void {
    const { index, clock, statistics, options } = this.seat;
    const began = clock(), isFirst = index === 0;
    const observation = step.wantsObservation && isFirst ? this.#observationAt(step.row) : 0;
    this.#stepCount = (this.#stepCount + 1) | 0;
    if (isFirst) this.#embed(step);
    this.seat.meet("the embedding");
    for (let layer = 0; layer < options.sizes.numLayers; layer++) {
      if (isFirst) this.#layerReady.advance();
      this.#attention.compute(layer, step.position);
      this.#ffn.compute(layer, observation);
    }
    if (step.wantsLogits) this.#computeLogits(step.row);
    this.seat.meet("the end of the step");
    const ended = clock();
    statistics[LANE.steps]++;
    statistics[LANE.stepMs] += ended - began;
    statistics[LANE.atMs] = ended;
  }

  #observationAt(row: number): number {
    const { observations, observationStride } = this.seat.options.plan;
    return observations + row * observationStride;
  }

  /** residual = embedding of the token + embedding of the position. */
  #embed({ token, position }: Step): void {
    const { kernels, options } = this.seat, { sizes, weights, plan, quantization } = options;
    const { hiddenSize: d, positionOffset } = sizes;
    kernels.embedRow[quantization](weights.embedTokens, token, plan.residual, d);
    const row = (position + positionOffset) * d;
    for (let i = 0; i < d; i++) this.#residual[i] += this.#positions[row + i];
    kernels.copy(plan.layerInput[0], plan.residual, 4 * d);
  }

  #computeLogits(row: number): void {
    const { kernels, scratch, clock, trace, options } = this.seat;
    const { sizes, weights, plan, quantization } = options;
    const { hiddenSize: d, layerNormEpsilon } = sizes;
    const began = clock();
    const { weight, bias } = weights.finalNorm;
    kernels.layerNorm(plan.residual, weight, bias, scratch.normed, d, layerNormEpsilon);
    kernels.prepare[quantization](scratch.normed, scratch.prepared, d);
    const target = plan.logits + row * plan.logitsStride;
    const { from, to } = this.#vocabulary;
    kernels.matvec[quantization](weights.output, scratch.prepared, 0, target, from, to, d);
    trace?.span("logits", began, clock());
  }
}
