import type { LaneSeat, Share } from "./lane_seat.ts";

/** residual += output(attention(norm(residual))): this lane's heads, then this lane's rows of the output matrix. */
export class Attention {
  readonly #seat: LaneSeat;
  readonly #heads: Share;

  constructor(seat: LaneSeat) {
    this.#seat = seat;
    this.#heads = seat.shareOf(seat.options.sizes.numAttentionHeads, 1);
  }

  compute(layer: number, position: number): void {
    const { clock, trace } = this.#seat;
    const began = clock();
    this.#attend(layer, position);
    trace?.span("attention", began, clock(), layer);
    this.#seat.meet("the heads of a layer");
    const output = clock();
    this.#addOutput(layer);
    trace?.span("attention output", output, clock(), layer);
    this.#seat.meet("the attention output of a layer");
  }

  #attend(layer: number, position: number): void {
    const { kernels, scratch, options } = this.#seat;
    const { sizes, weights, plan, quantization, contextLength } = options;
    const { hiddenSize: d, numAttentionHeads, layerNormEpsilon } = sizes;
    const { attentionNorm, query: q, key: k, value: v } = weights.layers[layer];
    const headDim = d / numAttentionHeads, headBytes = 4 * contextLength * headDim;
    const matvec = kernels.matvec[quantization], { normed, prepared } = scratch;
    const { weight, bias } = attentionNorm;
    kernels.layerNorm(plan.residual, weight, bias, normed, d, layerNormEpsilon);
    kernels.prepare[quantization](normed, prepared, d);
    for (let head = this.#heads.from; head < this.#heads.to; head++) {
      const from = head * headDim, to = from + headDim;
      const keys = plan.keys[layer] + head * headBytes;
      const values = plan.values[layer] + head * headBytes;
      // Rows of this head land at the head's next place in the KV cache.
      const next = 4 * (position * headDim - from);
      matvec(q.weight, prepared, q.bias, plan.query, from, to, d);
      matvec(k.weight, prepared, k.bias, keys + next, from, to, d);
      matvec(v.weight, prepared, v.bias, values + next, from, to, d);
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
  }

  #addOutput(layer: number): void {
    const { kernels, scratch, columns, options } = this.#seat;
    const { sizes, weights, plan, quantization } = options;
    const { weight, bias } = weights.layers[layer].output;
    const { from, to } = columns, d = sizes.hiddenSize;
    kernels.prepare[quantization](plan.attention, scratch.prepared, d);
    const matvec = kernels.matvec[quantization];
    matvec(weight, scratch.prepared, bias, plan.projected, from, to, d);
    kernels.add(plan.residual, plan.projected, from, to);
  }
}
