import { keysOffset, PAGE_POSITIONS, valuesOffset } from "../kv_page.ts";
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
  /** Of each layer: where the pages of its KV cache lie. */
  readonly #tables: Uint32Array[];
  /** Of each head: where in a page its keys and values begin. */
  readonly #keys: number[];
  readonly #values: number[];

  constructor(seat: LaneSeat, arena: LaneArena) {
    this.#seat = seat;
    this.#arena = arena;
    const { plan, buffer } = arena, { pages } = seat.options;
    const heads = Array.from({ length: pages.numKeyValueHeads }, (_, head) => head);
    this.#keys = heads.map((head) => keysOffset(pages.kv, pages, head));
    this.#values = heads.map((head) => valuesOffset(pages.kv, pages, head));
    this.#tables = plan.layers.map(({ pageTable }) =>
      new Uint32Array(buffer, pageTable, pages.count)
    );
    this.#heads = seat.shareOf(seat.options.sizes.numAttentionHeads, 1);
  }

  compute(layer: number, step: Step): void {
    const { clock, trace, options: { weights, quantization } } = this.#seat;
    const began = clock();
    this.#seat.prepareInputs(this.#arena, weights.layers[layer].attentionNorm, quantization, {
      positions: step.positions,
      what: "the input of attention",
    });
    this.#project(layer, step);
    this.#attend(layer, step);
    trace?.span("attention", began, clock(), layer);
    this.#seat.meet("the heads of a layer");
    const output = clock();
    this.#addOutput(layer, step.positions);
    trace?.span("attention output", output, clock(), layer);
    this.#seat.meet("the attention output of a layer");
  }

  /** Queries, and keys and values, which go to their pages of the KV cache. */
  #project(layer: number, step: Step): void {
    const { sizes, weights, quantization } = this.#seat.options, { positions } = step;
    const { plan } = this.#arena, { hidden: stride, prepared } = plan.strides;
    const { query, key, value } = weights.layers[layer];
    const cols = sizes.hiddenSize, headDim = cols / sizes.numAttentionHeads;
    const x = { address: this.#arena.inputs(positions).prepared, stride: prepared };
    const range = {
      positions,
      from: this.#heads.from * headDim,
      to: this.#heads.to * headDim,
      cols,
    };
    if (range.from === range.to) return;
    this.#arena.multiply(quantization, query, x, { address: plan.query, stride }, range);
    this.#arena.multiply(quantization, key, x, { address: plan.key, stride }, range);
    this.#arena.multiply(quantization, value, x, { address: plan.value, stride }, range);
    this.#store(layer, step);
  }

  /** Keys and values of this lane's heads, into their places. */
  #store(layer: number, { position: first, positions }: Step): void {
    const { pages } = this.#seat.options, { kv, headDim } = pages;
    const { plan, kernels } = this.#arena, table = this.#tables[layer - plan.range.from];
    const storeKey = kernels.storeKey[kv], storeValue = kernels.storeValue[kv];
    for (let position = 0; position < positions; position++) {
      const page = table[Math.floor((first + position) / PAGE_POSITIONS)];
      const place = (first + position) % PAGE_POSITIONS;
      for (let head = this.#heads.from; head < this.#heads.to; head++) {
        const row = position * plan.strides.hidden + 4 * head * headDim;
        storeKey(plan.key + row, page + this.#keys[head], place, headDim);
        storeValue(plan.value + row, page + this.#values[head], place, headDim);
      }
    }
  }

  #attend(layer: number, { position: first, positions }: Step): void {
    const { kv, headDim, numKeyValueHeads } = this.#seat.options.pages;
    const { plan, kernels, scratch } = this.#arena, { from, to } = this.#heads;
    const { pageTable } = plan.layers[layer - plan.range.from];
    if (from === to) return;
    for (let position = 0; position < positions; position++) {
      const row = position * plan.strides.hidden + 4 * from * headDim;
      kernels.attentionPages[kv](
        plan.query + row,
        pageTable,
        numKeyValueHeads,
        from,
        to,
        1,
        plan.attention + row,
        scratch.attentionScratch,
        headDim,
        first + position + 1,
        1 / Math.sqrt(headDim),
      );
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
