import { EARLY_POSITIONS } from "../arena.ts";
import { PageWaiter } from "../cache/pool_keeper.ts";
import { floatsAt } from "../format/layout.ts";
import { WindowGuard } from "../kv_page.ts";
import type { PipelineOptions } from "../pipeline/options.ts";
import { PassReader } from "../pipeline/pass_ring.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import { LANE } from "../pipeline/statistics.ts";
import { threadCpuMs } from "../runtime.ts";
import { countLayer, emptyStep, readStep, writeStep } from "../pipeline/step.ts";
import type { Step } from "../pipeline/step.ts";
import { Rope } from "../rope.ts";
import { Attention } from "./attention.ts";
import { Ffn } from "./ffn.ts";
import { Observer } from "./observer.ts";
import { LaneSeat } from "./lane_seat.ts";
import type { Share } from "./lane_seat.ts";

/**
 * A compute lane: its share of the forward pass. All lanes run the same steps; they split heads, rows and columns, and
 * meet where one needs what another computed. Which lane computes a number never changes it.
 *
 * What the model is says its config (models/config.ts): this is the one pass of all families.
 */
export class Lane {
  readonly seat: LaneSeat;
  /** One of each arena. */
  readonly #attentions: Attention[];
  readonly #ffns: Ffn[];
  readonly #vocabulary: Share;
  readonly #layerReady: Sequence;
  readonly #stepStarted: Sequence;
  /** Of each arena: f32[positions][hiddenSize] */
  readonly #residuals: Float32Array[];
  /** [positions][hiddenSize], of learned positions. */
  readonly #positions?: Float32Array | Float16Array;
  readonly #rope?: Rope;
  /** Of each arena: f32[positions][tables][dims] */
  readonly #angles: Float32Array[];
  readonly #step = emptyStep();
  readonly #pages?: PageWaiter;
  readonly #windowGuard?: WindowGuard;
  readonly #observer?: Observer;
  #stepCount = 0;

  constructor(options: PipelineOptions, index: number) {
    const seat = new LaneSeat(options, index), pass = new PassReader(seat.control, options, index);
    const { sizes, weights, arenas, positionsMax } = options, d = sizes.hiddenSize;
    this.seat = seat;
    this.#attentions = seat.arenas.map((arena) => new Attention(seat, arena));
    if (index === 0 && options.observationRows > 0) this.#observer = new Observer(seat);
    this.#ffns = seat.arenas.map((arena) => new Ffn(seat, arena, pass, this.#observer));
    this.#vocabulary = seat.shareOf(Math.ceil(sizes.vocabSize / 8) * 8, 8);
    if (options.isPoolShared) this.#pages = new PageWaiter(seat.control.sequence("poolsReady"));
    const { windowed } = options.pages;
    if (windowed) this.#windowGuard = new WindowGuard(windowed.window, windowed.count);
    this.#layerReady = seat.control.sequence("layerReady");
    this.#stepStarted = seat.control.sequence("stepStarted");
    this.#residuals = arenas.map(({ memory, plan }) =>
      new Float32Array(memory.buffer, plan.residual, positionsMax * d)
    );
    if (weights.embedPositions) {
      const { address, dtype, rows } = weights.embedPositions;
      this.#positions = floatsAt(dtype, arenas[0].memory.buffer, address, rows * d);
    }
    if (sizes.positions.kind === "rotary") this.#rope = new Rope(sizes.positions);
    this.#angles = arenas.map(({ memory, plan }) =>
      new Float32Array(memory.buffer, plan.angles, positionsMax * plan.strides.angles / 4)
    );
  }

  /** Whether a text whose first positions are in the KV cache may go on from there. */
  mayGoOnFrom(position: number): boolean {
    return this.#windowGuard?.mayGoOnFrom(position) ?? true;
  }

  /** Lane 0: announces a step to the others and runs its share. `tokens` are those of the step's positions. */
  lead(step: Step, tokens: ArrayLike<number>): void {
    writeStep(this.seat.control, step);
    this.#stepStarted.advance();
    for (let i = 0; i < step.positions; i++) {
      this.#embed(tokens[i], step.position + i, i);
      this.#turn(step.position + i, i);
    }
    const { kernels, plan } = this.seat.arenas[0];
    const shown = Math.min(step.positions, EARLY_POSITIONS);
    kernels.copy(plan.layerInput[0], plan.residual, shown * plan.strides.hidden);
    this.#run(step);
  }

  /** Other lanes: follow lane 0 until the pipeline stops (`PipelineStoppedError`). */
  follow(): never {
    for (;;) {
      this.#stepStarted.waitIdle((this.#stepCount + 1) | 0);
      readStep(this.seat.control, this.#step);
      this.#run(this.#step);
    }
  }

  /** One step's way; see ARCHITECTURE. */
  #run(step: Step): void {
    const { clock, statistics, arenas } = this.seat;
    const began = clock();
    this.#windowGuard?.check(step);
    this.#stepCount = (this.#stepCount + 1) | 0;
    this.seat.meet("the embedding");
    // The predictor hears of a step with its first layer.
    if (this.seat.index === 0) this.#layerReady.advance();
    this.#pages?.await(step.position + step.positions);
    for (const [index, { plan: { range } }] of arenas.entries()) {
      if (index > 0) this.#carry(index - 1, index, step.positions);
      for (let layer = range.from; layer < range.to; layer++) {
        if (this.seat.index === 0 && layer > 0) this.#layerReady.advance();
        if (step.wantsObservation) this.#observer?.seeInput(this.seat.arenas[index], layer, step);
        this.#computeLayer(index, layer, step);
        if (this.seat.index === 0) countLayer(this.seat.control);
      }
    }
    if (step.logits > 0) this.#computeLogits(step);
    // Lane 0 copies everybody's numbers when all have met, so they are brought up to date before.
    const ended = clock();
    statistics[LANE.steps] += step.positions;
    statistics[LANE.stepMs] += ended - began;
    statistics[LANE.cpuMs] = threadCpuMs();
    statistics[LANE.atMs] = ended;
    this.seat.meetUncounted("the end of the step");
  }

  /** See `BLOCKS` in models/config.ts. What is named is read while attention is computed, where the FFN does not wait for that. */
  #computeLayer(index: number, layer: number, step: Step): void {
    const attention = this.#attentions[index], ffn = this.#ffns[index], { seat } = this;
    const { options, isParallel } = seat, { weights, quantization, ffnQuantization } = options;
    const arena = seat.arenas[index], { attentionNorm, ffnNorm } = weights.layers[layer];
    const { positions } = step, isAfter = options.sizes.block === "after";
    const target = isParallel ? "attentionPrepared" as const : "prepared" as const;
    const what = "the input of attention", norm = isAfter ? null : attentionNorm;
    const lookAtFfn = () => {
      const norm = isAfter ? null : ffnNorm, what = "the input of the FFN";
      seat.prepareInputs(arena, norm, ffnQuantization, { positions, what });
      ffn.look(layer, step);
    };
    seat.prepareInputs(arena, norm, quantization, { positions, target, what });
    if (isParallel) lookAtFfn();
    attention.compute(layer, step, arena.inputs(positions)[target]);
    if (!isParallel) lookAtFfn();
    ffn.compute(layer, step);
  }

  /** Lane 0 brings the residual stream from one arena to another. */
  #carry(from: number, to: number, positions: number): void {
    if (this.seat.index === 0) {
      const length = positions * this.seat.options.sizes.hiddenSize;
      this.#residuals[to].set(this.#residuals[from].subarray(0, length));
    }
    this.seat.meet("the residual stream in another arena");
  }

  /** residual = embedding of the token, and of the position where those are learned; `row`: its place in the step. */
  #embed(token: number, position: number, row: number): void {
    const { kernels, plan } = this.seat.arenas[0],
      { sizes, weights, quantization } = this.seat.options;
    const { hiddenSize: d, embeddingSize, positions, scales } = sizes;
    const target = plan.residual + row * plan.strides.hidden;
    if (embeddingSize === d) kernels.embedRow[quantization](weights.embedTokens, token, target, d);
    else this.#embedNarrow(token, target);
    if (scales.embedding !== 1) kernels.scale(target, scales.embedding, 0, d);
    if (positions.kind !== "learned") return;
    const from = (position + positions.offset) * d, residual = this.#residuals[0];
    const table = this.#positions!;
    for (let i = 0; i < d; i++) residual[row * d + i] += table[from + i];
  }

  /** An embedding of another length than the residual stream, through its matrix; by lane 0 alone. */
  #embedNarrow(token: number, target: number): void {
    const { kernels, plan, scratch } = this.seat.arenas[0],
      { sizes, weights, quantization } = this.seat.options;
    const { hiddenSize: d, embeddingSize } = sizes;
    kernels.embedRow[quantization](weights.embedTokens, token, plan.projected, embeddingSize);
    kernels.prepare[quantization](plan.projected, scratch.prepared, embeddingSize);
    kernels.matvec[quantization](
      weights.projectIn,
      scratch.prepared,
      0,
      target,
      0,
      d,
      embeddingSize,
    );
  }

  /** Angles of a position, for the layers of each arena; by lane 0, before all meet. */
  #turn(position: number, row: number): void {
    const rope = this.#rope;
    for (const angles of rope ? this.#angles : []) {
      const { dims, tables } = rope!;
      for (let table = 0; table < tables; table++) {
        const from = (row * tables + table) * dims;
        rope!.write(position, table > 0, angles.subarray(from, from + dims));
      }
    }
  }

  /** Logits of the step's last positions; the output matrix lies in the first arena. */
  #computeLogits({ positions, logits, row }: Step): void {
    const { seat } = this, { sizes, weights, quantization, logitsRows } = seat.options;
    const last = seat.arenas.length - 1, [arena] = seat.arenas;
    const began = seat.clock();
    if (last > 0) this.#carry(last, 0, positions);
    const { plan, kernels } = arena, { strides } = plan, inputs = arena.inputs(logits);
    seat.prepareInputs(arena, weights.finalNorm, quantization, {
      positions: logits,
      first: positions - logits,
      what: "the input of the logits",
    });
    if (sizes.embeddingSize !== sizes.hiddenSize) this.#narrow(logits);
    const range = { ...this.#vocabulary, cols: sizes.embeddingSize };
    const { logits: factor, logitsSoftcap } = sizes.scales;
    for (let first = 0; first < logits;) {
      // The rows are a ring.
      const at = (row + first) % logitsRows, count = Math.min(logits - first, logitsRows - at);
      const y = { address: plan.logits + at * plan.logitsStride, stride: plan.logitsStride };
      const x = {
        address: inputs.prepared + first * strides.prepared,
        stride: strides.prepared,
      };
      arena.multiply(quantization, weights.output, x, y, { positions: count, ...range });
      for (let i = 0; i < count; i++) {
        const at = y.address + i * y.stride;
        if (factor !== 1) kernels.scale(at, factor, range.from, range.to);
        if (logitsSoftcap !== null) kernels.softcap(at, logitsSoftcap, range.from, range.to);
      }
      first += count;
    }
    seat.trace?.span("logits", began, seat.clock());
  }

  /** Rows of `prepared` go through the matrix back to the length of embeddings. */
  #narrow(positions: number): void {
    const { seat } = this, { sizes, weights, quantization } = seat.options, [arena] = seat.arenas;
    const { plan, kernels } = arena, { strides } = plan, { prepared } = arena.inputs(positions);
    const range = seat.shareOf(sizes.embeddingSize, 32),
      matrix = { weight: weights.projectOut, bias: 0 };
    const x = { address: prepared, stride: strides.prepared };
    const y = { address: plan.projected, stride: strides.hidden };
    arena.multiply(quantization, matrix, x, y, { positions, ...range, cols: sizes.hiddenSize });
    seat.meet("the length of an embedding");
    seat.eachPosition(positions, (position) => {
      const source = plan.projected + position * strides.hidden;
      const target = prepared + position * strides.prepared;
      kernels.prepare[quantization](source, target, sizes.embeddingSize);
    });
    if (positions > 1) seat.meet("the input of the logits");
  }
}
