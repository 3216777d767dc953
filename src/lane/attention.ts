import { keysOffset, PAGE_POSITIONS, valuesOffset } from "../kv_page.ts";
import { applyNorm } from "../norm.ts";
import type { WeightPair } from "../pipeline/options.ts";
import type { Step } from "../pipeline/step.ts";
import { Joining } from "./joining.ts";
import type { LaneArena } from "./lane_arena.ts";
import type { LaneSeat, Share } from "./lane_seat.ts";

/**
 * The first half of a layer: this lane's heads of attention, then this lane's rows of the output matrix; in the layers of one
 * arena.
 */
export class Attention {
  readonly #seat: LaneSeat;
  readonly #arena: LaneArena;
  readonly #joining: Joining;
  /** This lane's key/value heads, and its queries. */
  readonly #keyHeads: Share;
  readonly #queryHeads: Share;
  /** Whether queries are those of the lane's own keys, so that nobody waits for another lane's. */
  readonly #ownsKeys: boolean;
  /** Queries that share a key. */
  readonly #group: number;
  /** Of each layer: where the pages of its KV cache lie. */
  readonly #tables: Uint32Array[];
  /** Of each key/value head: where in a page its keys and values begin. */
  readonly #keys: number[];
  readonly #values: number[];
  /** Layers that look back over a window. */
  readonly #windowed: ReadonlySet<number>;

  constructor(seat: LaneSeat, arena: LaneArena) {
    this.#seat = seat;
    this.#arena = arena;
    this.#joining = new Joining(seat, arena);
    const { plan, buffer } = arena, { pages, sizes } = seat.options;
    const { numAttentionHeads, numKeyValueHeads, attention } = sizes;
    const heads = Array.from({ length: numKeyValueHeads }, (_, head) => head);
    this.#keys = heads.map((head) => keysOffset(pages.kv, pages, head));
    this.#values = heads.map((head) => valuesOffset(pages.kv, pages, head));
    this.#tables = plan.layers.map(({ pageTable }) =>
      new Uint32Array(buffer, pageTable, pages.count)
    );
    const group = numAttentionHeads / numKeyValueHeads;
    this.#group = group;
    this.#ownsKeys = numKeyValueHeads >= seat.control.shape.laneCount;
    this.#keyHeads = seat.shareOf(numKeyValueHeads, 1);
    const { from, to } = this.#keyHeads;
    this.#queryHeads = this.#ownsKeys
      ? { from: from * group, to: to * group }
      : seat.shareOf(numAttentionHeads, 1);
    this.#windowed = new Set(attention.window?.layers);
  }

  /** `input`: rows of the residual stream, normed and prepared. */
  compute(layer: number, step: Step, input: number): void {
    const { clock, trace } = this.#seat, began = clock();
    this.#project(layer, step, input);
    if (!this.#ownsKeys) this.#seat.meet("the keys and values of a layer");
    this.#attend(layer, step);
    trace?.span("attention", began, clock(), layer);
    this.#seat.meet("the heads of a layer");
    const output = clock();
    this.#addOutput(layer, step.positions);
    trace?.span("attention output", output, clock(), layer);
    this.#seat.meet("the attention output of a layer");
  }

  /** Queries, and keys and values, which go to their pages of the KV cache. */
  #project(layer: number, step: Step, input: number): void {
    const { sizes, weights, quantization } = this.#seat.options, { positions } = step;
    const { plan } = this.#arena, { strides } = plan, { headDim } = sizes;
    const { query, key, value, queryNorm, keyNorm } = weights.layers[layer];
    const x = { address: input, stride: strides.prepared };
    const multiply = (matrix: WeightPair, y: number, stride: number, heads: Share) => {
      const from = heads.from * headDim, to = heads.to * headDim;
      if (from === to) return;
      const range = { positions, from, to, cols: sizes.hiddenSize };
      this.#arena.multiply(quantization, matrix, x, { address: y, stride }, range);
    };
    multiply(query, plan.query, strides.query, this.#queryHeads);
    multiply(key, plan.key, strides.key, this.#keyHeads);
    multiply(value, plan.value, strides.key, this.#keyHeads);
    const isWhole = sizes.attention.queryKeyNorm === "all";
    if (isWhole) this.#normWhole(layer, positions);
    const norms = isWhole ? [null, null] : [queryNorm, keyNorm];
    this.#place(layer, step, plan.query, strides.query, this.#queryHeads, norms[0]);
    this.#place(layer, step, plan.key, strides.key, this.#keyHeads, norms[1]);
    this.#store(layer, step);
  }

  /** Norms all queries of a position together, and all keys: lanes meet before, and share positions. */
  #normWhole(layer: number, positions: number): void {
    const { weights, sizes } = this.#seat.options, { queryNorm, keyNorm } = weights.layers[layer];
    const { plan, kernels } = this.#arena, { headDim, numAttentionHeads } = sizes;
    const rows = [
      [plan.query, plan.strides.query, queryNorm!, numAttentionHeads * headDim],
      [plan.key, plan.strides.key, keyNorm!, sizes.numKeyValueHeads * headDim],
    ] as const;
    this.#seat.meet("all queries and keys");
    const { from, to } = this.#seat.shareOf(positions, 1);
    for (let position = from; position < to; position++) {
      for (const [address, stride, norm, length] of rows) {
        const row = address + position * stride;
        applyNorm(kernels, sizes.norm, row, norm, row, length);
      }
    }
    this.#seat.meet("all normed queries and keys");
  }

  /** Norms and turns heads, where the model does. */
  #place(
    layer: number,
    { positions }: Step,
    address: number,
    stride: number,
    heads: Share,
    norm: WeightPair | null,
  ): void {
    const { sizes } = this.#seat.options, { headDim, positions: places } = sizes;
    const { plan, kernels } = this.#arena, count = heads.to - heads.from;
    for (let position = 0; position < positions; position++) {
      const x = address + position * stride + 4 * heads.from * headDim;
      for (let head = 0; norm && head < count; head++) {
        const at = x + 4 * head * headDim;
        applyNorm(kernels, sizes.norm, at, norm, at, headDim);
      }
      if (places.kind !== "rotary") continue;
      // A second table is that of layers with a window.
      const table = this.#windowed.has(layer) ? plan.strides.angles - 4 * places.dims : 0;
      const angles = plan.angles + position * plan.strides.angles + table;
      kernels.rotate(x, angles, count, headDim, places.dims);
    }
  }

  /** Keys and values of this lane's heads, into their places. */
  #store(layer: number, { position: first, positions }: Step): void {
    const { pages } = this.#seat.options, { kv, headDim } = pages;
    const { plan, kernels } = this.#arena, table = this.#tables[layer - plan.range.from];
    const storeKey = kernels.storeKey[kv], storeValue = kernels.storeValue[kv];
    for (let position = 0; position < positions; position++) {
      const page = table[Math.floor((first + position) / PAGE_POSITIONS)];
      const place = (first + position) % PAGE_POSITIONS;
      for (let head = this.#keyHeads.from; head < this.#keyHeads.to; head++) {
        const row = position * plan.strides.key + 4 * head * headDim;
        storeKey(plan.key + row, page + this.#keys[head], place, headDim);
        storeValue(plan.value + row, page + this.#values[head], place, headDim);
      }
    }
  }

  #attend(layer: number, { position: first, positions }: Step): void {
    const { window } = this.#seat.options.sizes.attention;
    const length = this.#windowed.has(layer) ? window!.length : Infinity;
    for (let position = 0; position < positions; position++) {
      const count = first + position + 1, begin = Math.max(0, count - length);
      if (this.#ownsKeys) {
        this.#attendHeads(layer, position, { begin, count }, this.#keyHeads, this.#group);
        continue;
      }
      // Queries of one key are shared out, too: one key/value head after the other.
      const { from, to } = this.#queryHeads, group = this.#group;
      for (let query = from; query < to;) {
        const head = Math.floor(query / group), end = Math.min(to, (head + 1) * group);
        const heads = { from: head, to: head + 1 };
        this.#attendHeads(layer, position, { begin, count }, heads, end - query, query);
        query = end;
      }
    }
  }

  /** `group` queries of each of some key/value heads, from query `query` on, over positions [begin, count). */
  #attendHeads(
    layer: number,
    position: number,
    { begin, count }: { begin: number; count: number },
    heads: Share,
    group: number,
    query = heads.from * group,
  ): void {
    if (heads.from === heads.to) return;
    const { pages: { kv, headDim, numKeyValueHeads }, sizes } = this.#seat.options;
    const { plan, kernels, scratch } = this.#arena, { scale, softcap } = sizes.attention;
    const { pageTable } = plan.layers[layer - plan.range.from];
    const row = position * plan.strides.query + 4 * query * headDim;
    const page = Math.floor(begin / PAGE_POSITIONS), outside = page * PAGE_POSITIONS;
    kernels.attentionPages[kv](
      plan.query + row,
      pageTable + 4 * page,
      numKeyValueHeads,
      heads.from,
      heads.to,
      group,
      plan.attention + row,
      scratch.attentionScratch,
      headDim,
      count - outside,
      begin - outside,
      scale,
      softcap ?? 0,
    );
  }

  #addOutput(layer: number, positions: number): void {
    const { columns, options } = this.#seat, { sizes, weights, quantization } = options;
    const { output, attentionOutputNorm, attentionNorm } = weights.layers[layer];
    const { plan, kernels } = this.#arena, { hidden, query, prepared } = plan.strides;
    const { from, to } = columns, cols = sizes.numAttentionHeads * sizes.headDim;
    const inputs = this.#arena.inputs(positions);
    const address = this.#seat.isParallel ? inputs.attentionPrepared : inputs.prepared;
    this.#seat.eachPosition(positions, (position) => {
      const source = plan.attention + position * query;
      kernels.prepare[quantization](source, address + position * prepared, cols);
    });
    if (positions > 1) this.#seat.meet("the heads' results");
    const x = { address, stride: prepared }, y = { address: plan.projected, stride: hidden };
    this.#arena.multiply(quantization, output, x, y, { positions, from, to, cols });
    const norm = sizes.block === "after" ? attentionNorm : attentionOutputNorm;
    this.#joining.join(norm, positions);
  }
}
