import { instantiateKernels } from "../kernels.ts";
import type { Kernels } from "../kernels.ts";
import { Barrier } from "./barrier.ts";
import {
  Control,
  PASS_HIT_COUNT,
  PASS_IS_LAST,
  PASS_NEURON_COUNT,
  PASS_TICKETS,
  passIndex,
  STEP_POSITION,
  STEP_ROW,
  STEP_TOKEN,
  STEP_WANTS_LOGITS,
  STEP_WANTS_OBSERVATION,
} from "./control.ts";
import { LandingBell } from "./landing.ts";
import type { PipelineOptions } from "./options.ts";
import type { Sequence } from "./sequence.ts";
import { LANE } from "./statistics.ts";
import { sharedClock, Trace } from "./trace.ts";
import type { Clock } from "./trace.ts";

/** A step: one token at one position through the whole model. */
export interface Step {
  token: number;
  position: number;
  wantsLogits: boolean;
  /** Row of the logits (or of the observations) that this step fills. */
  row: number;
  wantsObservation: boolean;
}

/** Part of a range that one lane computes. */
interface Share {
  from: number;
  to: number;
}

/**
 * A compute lane: its share of the forward pass. All lanes run the same steps; they split heads, rows and columns, and
 * meet where one needs what another computed. Which lane computes a number never changes it.
 *
 * The family that this pass is written for: pre-LayerNorm, learned positions, ReLU FFN without gate (OPT).
 */
export class Lane {
  readonly index: number;
  readonly control: Control;
  readonly statistics: Float64Array;
  readonly clock: Clock;
  readonly trace?: Trace;
  readonly #options: PipelineOptions;
  readonly #kernels: Kernels;
  readonly #barrier: Barrier;
  readonly #layerReady: Sequence;
  readonly #maskReady: Sequence;
  readonly #published: Sequence;
  readonly #landings: LandingBell;
  readonly #stepStarted: Sequence;
  readonly #passDone: Sequence;
  readonly #flags: Uint32Array[];
  readonly #residual: Float32Array;
  /** [positions][hiddenSize] */
  readonly #positions: Float32Array | Float16Array;
  readonly #heads: Share;
  readonly #columns: Share;
  readonly #neurons: Share;
  readonly #vocabulary: Share;
  #pass = 0;
  #steps = 0;

  constructor(options: PipelineOptions, index: number) {
    const control = new Control(options.control);
    const { sizes, plan } = options;
    const laneCount = control.shape.laneCount;
    this.index = index;
    this.control = control;
    this.#options = options;
    this.#kernels = instantiateKernels(options.kernels, options.arena);
    this.#barrier = new Barrier(control.words, control.layout.barrier, laneCount, control.style);
    this.#layerReady = control.sequence("layerReady");
    this.#maskReady = control.sequence("maskReady");
    this.#published = control.sequence("passPublished");
    this.#landings = new LandingBell(control, index);
    this.#stepStarted = control.sequence("stepStarted");
    this.#passDone = control.sequenceAt(control.layout.passDone[index]);
    this.statistics = control.statistics(index);
    this.clock = sharedClock(options.timeOrigin);
    if (options.trace) this.trace = new Trace(new Float64Array(options.trace));
    const words = (address: number) =>
      new Uint32Array(options.arena.buffer, address, options.passNeuronsMax);
    this.#flags = plan.passes.map(({ flags }) => words(flags));
    const memory = options.arena.buffer, d = sizes.hiddenSize;
    const { address, dtype, rows } = options.weights.embedPositions;
    this.#residual = new Float32Array(memory, plan.residual, d);
    this.#positions = dtype === "f16"
      ? new Float16Array(memory, address, rows * d)
      : new Float32Array(memory, address, rows * d);
    const share = (count: number, unit: number) => shareOf(count, unit, index, laneCount);
    this.#heads = share(sizes.numAttentionHeads, 1);
    this.#columns = share(sizes.hiddenSize, 32);
    this.#neurons = share(sizes.intermediateSize, 32);
    this.#vocabulary = share(Math.ceil(sizes.vocabSize / 8) * 8, 8);
  }

  /** Lane 0: announces a step to the others and runs its share. */
  lead(step: Step): void {
    const words = this.control.words, at = this.control.layout.step;
    words[at + STEP_TOKEN] = step.token;
    words[at + STEP_POSITION] = step.position;
    words[at + STEP_WANTS_LOGITS] = step.wantsLogits ? 1 : 0;
    words[at + STEP_ROW] = step.row;
    words[at + STEP_WANTS_OBSERVATION] = step.wantsObservation ? 1 : 0;
    this.#stepStarted.advance();
    this.#run(step);
  }

  /** Other lanes: follow lane 0 until the pipeline stops (`PipelineStoppedError`). */
  follow(): never {
    const words = this.control.words, at = this.control.layout.step;
    for (;;) {
      this.#stepStarted.waitIdle((this.#steps + 1) | 0);
      this.#run({
        token: words[at + STEP_TOKEN],
        position: words[at + STEP_POSITION],
        wantsLogits: words[at + STEP_WANTS_LOGITS] === 1,
        row: words[at + STEP_ROW],
        wantsObservation: words[at + STEP_WANTS_OBSERVATION] === 1,
      });
    }
  }

  /** One token's way; see ARCHITECTURE. */
  #run(step: Step): void {
    const began = this.clock();
    const { numLayers } = this.#options.sizes;
    this.#steps = (this.#steps + 1) | 0;
    if (this.index === 0) this.#embed(step);
    this.#meet("the embedding");
    for (let layer = 0; layer < numLayers; layer++) {
      if (this.index === 0) this.#layerReady.advance();
      this.#attend(layer, step);
      this.#normForFfn(layer, step);
      this.#lookLate(layer);
      while (!this.#computePass(layer));
      this.#finishLayer(layer);
    }
    if (step.wantsLogits) this.#computeLogits(step.row);
    this.#meet("the end of the step");
    this.statistics[LANE.steps]++;
    const ended = this.clock();
    this.statistics[LANE.stepMs] += ended - began;
    this.statistics[LANE.atMs] = ended;
  }

  /** residual = embedding of the token + embedding of the position. */
  #embed({ token, position }: Step): void {
    const { sizes, weights, plan, quantization } = this.#options;
    const { hiddenSize: d, positionOffset } = sizes;
    const kernels = this.#kernels;
    kernels.embedRow[quantization](weights.embedTokens, token, plan.residual, d);
    const row = (position + positionOffset) * d;
    for (let i = 0; i < d; i++) this.#residual[i] += this.#positions[row + i];
    kernels.copy(plan.layerInput[0], plan.residual, 4 * d);
  }

  /** residual += output(attention(norm(residual))); this lane's heads, then this lane's rows. */
  #attend(layer: number, { position }: Step): void {
    const began = this.clock();
    const { sizes, weights, plan, quantization, contextLength } = this.#options;
    const { hiddenSize: d, numAttentionHeads, layerNormEpsilon } = sizes;
    const kernels = this.#kernels, w = weights.layers[layer], scratch = plan.lanes[this.index];
    const headDim = d / numAttentionHeads, headBytes = 4 * contextLength * headDim;
    const { weight, bias } = w.attentionNorm;
    const matvec = kernels.matvec[quantization], prepare = kernels.prepare[quantization];
    kernels.layerNorm(plan.residual, weight, bias, scratch.normed, d, layerNormEpsilon);
    prepare(scratch.normed, scratch.prepared, d);
    for (let head = this.#heads.from; head < this.#heads.to; head++) {
      const from = head * headDim, to = from + headDim;
      const keys = plan.keys[layer] + head * headBytes;
      const values = plan.values[layer] + head * headBytes;
      // Rows of this head land at the head's next place in the KV cache.
      const key = keys + 4 * (position * headDim - from);
      const value = values + 4 * (position * headDim - from);
      matvec(w.query.weight, scratch.prepared, w.query.bias, plan.query, from, to, d);
      matvec(w.key.weight, scratch.prepared, w.key.bias, key, from, to, d);
      matvec(w.value.weight, scratch.prepared, w.value.bias, value, from, to, d);
      kernels.attentionHead(
        plan.query + 4 * from,
        keys,
        values,
        plan.attention + 4 * from,
        scratch.attentionScores,
        headDim,
        position + 1,
        1 / Math.sqrt(headDim),
      );
    }
    const middle = this.clock();
    this.trace?.span("attention", began, middle, layer);
    this.#meet("the heads of a layer");
    const output = this.clock();
    prepare(plan.attention, scratch.prepared, d);
    const { from, to } = this.#columns;
    matvec(w.output.weight, scratch.prepared, w.output.bias, plan.projected, from, to, d);
    kernels.add(plan.residual, plan.projected, from, to);
    this.trace?.span("attention output", output, this.clock(), layer);
    this.#meet("the attention output of a layer");
  }

  /** Each lane norms for itself: cheaper than meeting. Leaves the FFN input in `normed` and `prepared`. */
  #normForFfn(layer: number, step: Step): void {
    const { sizes, weights, plan, quantization } = this.#options;
    const { hiddenSize: d, layerNormEpsilon } = sizes;
    const kernels = this.#kernels, scratch = plan.lanes[this.index];
    const { weight, bias } = weights.layers[layer].ffnNorm;
    kernels.layerNorm(plan.residual, weight, bias, scratch.normed, d, layerNormEpsilon);
    if (step.wantsObservation && this.index === 0) {
      const at = plan.observations + step.row * plan.observationStride + layer * 8 * d;
      kernels.copy(at, plan.layerInput[layer & 1], 4 * d);
      kernels.copy(at + 4 * d, scratch.normed, 4 * d);
    }
    kernels.prepare[quantization](scratch.normed, scratch.prepared, d);
  }

  /** This lane's rows of the late look; the last lane to finish hands the mask to the predictor. */
  #lookLate(layer: number): void {
    const { mode } = this.#options;
    if (mode === "dense") return;
    const began = this.clock();
    if (mode === "exact") this.#lookExactly(layer);
    else this.#lookLowRank(layer);
    const { words, layout, shape } = this.control;
    if (Atomics.add(words, layout.maskArrived, 1) + 1 === shape.laneCount) {
      Atomics.store(words, layout.maskArrived, 0);
      this.#maskReady.advance();
    }
    this.trace?.span("late look", began, this.clock(), layer);
  }

  /** mask = B (A x) + bias > 0, in q8. */
  #lookLowRank(layer: number): void {
    const { sizes, weights, plan, quantization } = this.#options;
    const { hiddenSize: d } = sizes;
    const kernels = this.#kernels, scratch = plan.lanes[this.index];
    const predictor = weights.layers[layer].predictor!;
    const { rank, a, b, bias } = predictor;
    const ranks = shareOf(rank, 8, this.index, this.control.shape.laneCount);
    const matvec = kernels.matvec.q8, prepare = kernels.prepare.q8;
    // The FFN input in q8's preparation goes where only the low-rank product needs it.
    const prepared = quantization === "q8" ? scratch.prepared : scratch.lookPrepared;
    if (quantization !== "q8") prepare(scratch.normed, prepared, d);
    matvec(a, prepared, 0, plan.lowRank, ranks.from, ranks.to, d);
    this.#meet("the predictor's first product");
    prepare(plan.lowRank, scratch.lowRankPrepared, rank);
    const { from, to } = this.#neurons;
    matvec(b, scratch.lowRankPrepared, 0, plan.scores, from, to, rank);
    kernels.thresholdMask(plan.scores, bias, plan.mask, from, to);
  }

  /** activations = ReLU(up x + bias) of all neurons, from the resident up projection; mask = those above 0. */
  #lookExactly(layer: number): void {
    const { sizes, weights, plan, quantization } = this.#options;
    const kernels = this.#kernels, scratch = plan.lanes[this.index];
    const { from, to } = this.#neurons;
    const bias = weights.layers[layer].upBias;
    const matvec = kernels.matvec[quantization];
    const up = plan.residentUp[layer];
    matvec(up, scratch.prepared, bias, plan.scores, from, to, sizes.hiddenSize);
    kernels.reluMask(plan.scores, plan.mask, from, to);
  }

  /** Computes the next pass of the layer's list; true if it was the last. */
  #computePass(layer: number): boolean {
    const began = this.clock();
    const pass = this.#pass;
    this.#pass = (pass + 1) | 0;
    this.#published.waitFor(this.#pass, `the predictor's list of layer ${layer}`);
    const waited = this.clock();
    this.statistics[LANE.waitPredictorMs] += waited - began;
    this.trace?.span("wait: predictor", began, waited, layer);
    const words = this.control.words, at = this.control.passAt(pass);
    const count = words[at + PASS_NEURON_COUNT], hitCount = words[at + PASS_HIT_COUNT];
    const isLast = words[at + PASS_IS_LAST] === 1;
    if (count > 0) {
      if (this.#options.mode === "exact") this.#takeActivations(pass, count, hitCount);
      else this.#computeUp(layer, pass, count, hitCount);
      this.#meet("the activations of a pass");
      this.#computeDown(pass, count);
    }
    this.#passDone.advance();
    return isLast;
  }

  /** Dots of the up rows: this lane's hits, then this lane's groups of misses as they land. */
  #computeUp(layer: number, pass: number, count: number, hitCount: number): void {
    const { sizes, weights, plan, quantization } = this.#options;
    const { laneCount } = this.control.shape;
    const kernels = this.#kernels, arrays = plan.passes[passIndex(pass)];
    const up = kernels.up[quantization], prepared = plan.lanes[this.index].prepared;
    const bias = weights.layers[layer].upBias, d = sizes.hiddenSize;
    const { addresses, neurons, order, activations } = arrays;
    const compute = (from: number, to: number): number =>
      from < to ? up(addresses, neurons, order, from, to, 0, prepared, bias, activations, d) : 0;
    const began = this.clock();
    const hits = shareOf(hitCount, 4, this.index, laneCount);
    const activeHits = compute(hits.from, hits.to);
    this.trace?.span("up hits", began, this.clock(), hits.to - hits.from);
    const misses = shareOf(count - hitCount, 4, this.index, laneCount);
    let active = activeHits;
    for (let from = hitCount + misses.from; from < hitCount + misses.to; from += 4) {
      const to = Math.min(from + 4, hitCount + misses.to);
      this.#awaitLanded(pass, from, to);
      active += compute(from, to);
    }
    this.statistics[LANE.activeHits] += activeHits;
    this.statistics[LANE.active] += active;
  }

  /** `exact` knows the activations already; the down columns must be there. */
  #takeActivations(pass: number, count: number, hitCount: number): void {
    const { plan } = this.#options;
    const { neurons, activations } = plan.passes[passIndex(pass)];
    const { from, to } = shareOf(count, 4, this.index, this.control.shape.laneCount);
    this.#kernels.gather(plan.scores, neurons, activations, from, to);
    if (this.index === 0) {
      this.statistics[LANE.activeHits] += hitCount;
      this.statistics[LANE.active] += count;
    }
    this.#awaitLanded(pass, hitCount, count);
  }

  /** Waits until the misses `from` to `to` of the pass's order have landed. */
  #awaitLanded(pass: number, from: number, to: number): void {
    const words = this.control.words, flagBase = this.control.layout.flags;
    const flags = this.#flags[passIndex(pass)];
    let began = 0;
    for (let i = from; i < to; i++) {
      while (Atomics.load(words, flagBase + flags[i]) === 0) {
        if (began === 0) began = this.clock();
        const landed = this.#landings.landed;
        if (Atomics.load(words, flagBase + flags[i]) !== 0) break;
        // Sleep over half of what is missing, so that a long list wakes this lane seldom.
        const missing = (words[this.control.passAt(pass) + PASS_TICKETS] - landed) | 0;
        const target = (landed + Math.max(1, missing >> 1)) | 0;
        this.#landings.waitFor(target, `miss ${i} of ${to} of the list to land`);
      }
    }
    if (began === 0) return;
    const ended = this.clock();
    this.statistics[LANE.waitFlashMs] += ended - began;
    this.trace?.span("wait: flash", began, ended, to - from);
  }

  /** Adds the down columns of active neurons, in neuron order, to this lane's part of the sum. */
  #computeDown(pass: number, count: number): void {
    const { sizes, plan, quantization, mode } = this.#options;
    const { addresses, activations } = plan.passes[passIndex(pass)];
    const { flash } = this.#options;
    const downOffset = mode === "exact" ? 0 : flash.record.byteLength / 2;
    const began = this.clock();
    this.#kernels.down[quantization](
      addresses,
      downOffset,
      activations,
      count,
      plan.accumulator,
      this.#columns.from,
      this.#columns.to,
      sizes.hiddenSize,
    );
    this.trace?.span("down", began, this.clock(), count);
  }

  /** residual += sum of the columns + bias; it is the next layer's input, and the early look's. */
  #finishLayer(layer: number): void {
    const { weights, plan, quantization } = this.#options;
    const { from, to } = this.#columns;
    const kernels = this.#kernels, bias = weights.layers[layer].downBias;
    kernels.finishDown[quantization](plan.accumulator, bias, plan.residual, from, to);
    const input = plan.layerInput[(layer + 1) & 1];
    kernels.copy(input + 4 * from, plan.residual + 4 * from, 4 * (to - from));
    this.#meet("the end of a layer");
  }

  #computeLogits(row: number): void {
    const began = this.clock();
    const { sizes, weights, plan, quantization } = this.#options;
    const { hiddenSize: d, layerNormEpsilon } = sizes;
    const kernels = this.#kernels, scratch = plan.lanes[this.index];
    const { weight, bias } = weights.finalNorm;
    kernels.layerNorm(plan.residual, weight, bias, scratch.normed, d, layerNormEpsilon);
    kernels.prepare[quantization](scratch.normed, scratch.prepared, d);
    const target = plan.logits + row * plan.logitsStride;
    const { from, to } = this.#vocabulary;
    kernels.matvec[quantization](weights.output, scratch.prepared, 0, target, from, to, d);
    this.trace?.span("logits", began, this.clock());
  }

  #meet(what: string): void {
    if (this.control.shape.laneCount === 1) return;
    const began = this.clock();
    this.#barrier.meet(what);
    const ended = this.clock();
    this.statistics[LANE.waitLanesMs] += ended - began;
    this.trace?.span("wait: lanes", began, ended);
  }
}

/** The part of `count` things, in whole units of `unit`, that falls to lane `index` of `laneCount`. */
function shareOf(count: number, unit: number, index: number, laneCount: number): Share {
  const units = Math.ceil(count / unit);
  const from = Math.floor(units * index / laneCount) * unit;
  const to = Math.min(count, Math.floor(units * (index + 1) / laneCount) * unit);
  return { from: Math.min(from, count), to };
}
