import type { Step } from "../pipeline/step.ts";
import type { LaneArena } from "./lane_arena.ts";
import type { LaneSeat, Share } from "./lane_seat.ts";

/**
 * residual += output(attention(norm(residual))): this lane's heads, then this lane's rows of the output matrix; in the layers of
 * one arena.
 */
export class Attention {
  readonly #seat: LaneSeat;
  readonly #arena: LaneArena;
  readonly #heads: Share;

  constructor(seat: LaneSeat, arena: LaneArena) {
    this.#seat = seat;
    this.#arena = arena;
    this.#heads = seat.shareOf(seat.options.sizes.numAttentionHeads, 1);
  }

  compute(layer: number, step: Step): void {
    const { clock, trace } = this.#seat;
    const began = clock();
    this.#norm(layer, step.positions);
    this.#project(layer, step);
    this.#attend(layer, step);
    trace?.span("attention", began, clock(), layer);
    this.#seat.meet("the heads of a layer");
    const output = clock();
    this.#addOutput(layer, step.positions);
    trace?.span("attention output", output, clock(), layer);
    this.#seat.meet("the attention output of a layer");
  }

  /** Leaves the normed residual stream prepared. */
  #norm(layer: number, positions: number): void {
    const { quantization, weights } = this.#seat.options;
    const { plan: { residual, strides }, kernels } = this.#arena;
    const { normed, prepared } = this.#arena.inputs(positions);
    this.#seat.eachPosition(positions, (position) => {
      const target = normed + position * strides.hidden;
      this.#seat.norm(this.#arena, weights.layers[layer].attentionNorm, {
        source: residual + position * strides.hidden,
        target,
      });
      const { hiddenSize } = this.#seat.options.sizes;
      kernels.prepare[quantization](target, prepared + position * strides.prepared, hiddenSize);
    });
    if (positions > 1) this.#seat.meet("the input of attention");
  }

  /** Queries, and keys and values, which land in the KV cache. */
  #project(layer: number, { position, positions }: Step): void {
    const { sizes, weights, quantization, contextLength } = this.#seat.options;
    const { plan } = this.#arena, { hidden, prepared } = plan.strides;
    const { query, key, value } = weights.layers[layer];
    const { keys, values } = plan.layers[layer - plan.range.from];
    const cols = sizes.hiddenSize, headDim = cols / sizes.numAttentionHeads;
    const x = { address: this.#arena.inputs(positions).prepared, stride: prepared };
    const multiply = (matrix: typeof query, address: number, stride: number, from: number) => {
      const to = from + headDim;
      const y = { address, stride };
      this.#arena.multiply(quantization, matrix, x, y, { positions, from, to, cols });
    };
    for (let head = this.#heads.from; head < this.#heads.to; head++) {
      const from = head * headDim, rowBytes = 4 * headDim;
      // Rows of this head land at the head's next places in the KV cache.
      const next = head * contextLength * rowBytes + position * rowBytes - 4 * from;
      multiply(query, plan.query, hidden, from);
      multiply(key, keys + next, rowBytes, from);
      multiply(value, values + next, rowBytes, from);
    }
  }

  #attend(layer: number, { position: first, positions }: Step): void {
    const { sizes, contextLength } = this.#seat.options;
    const { plan, kernels, scratch } = this.#arena, { hidden } = plan.strides;
    const { keys, values } = plan.layers[layer - plan.range.from];
    const headDim = sizes.hiddenSize / sizes.numAttentionHeads;
    const headBytes = 4 * contextLength * headDim, scale = 1 / Math.sqrt(headDim);
    for (let head = this.#heads.from; head < this.#heads.to; head++) {
      for (let position = 0; position < positions; position++) {
        const row = position * hidden + 4 * head * headDim;
        kernels.attentionHead(
          plan.query + row,
          keys + head * headBytes,
          values + head * headBytes,
          plan.attention + row,
          scratch.attentionScores,
          headDim,
          first + position + 1,
          scale,
        );
      }
    }
  }

  #addOutput(layer: number, positions: number): void {
    const { columns, options } = this.#seat;
    const { sizes, weights, quantization } = options, { output } = weights.layers[layer];
    const { plan, kernels } = this.#arena, { hidden, prepared } = plan.strides;
    const { from, to } = columns, cols = sizes.hiddenSize;
    const x = { address: this.#arena.inputs(positions).prepared, stride: prepared };
    this.#seat.eachPosition(positions, (position) => {
      const source = plan.attention + position * hidden;
      kernels.prepare[quantization](source, x.address + position * prepared, cols);
    });
    if (positions > 1) this.#seat.meet("the heads' results");
    const y = { address: plan.projected, stride: hidden };
    this.#arena.multiply(quantization, output, x, y, { positions, from, to, cols });
    for (let position = 0; position < positions; position++) {
      const row = position * hidden;
      kernels.add(plan.residual + row, plan.projected + row, from, to);
    }
  }
}
