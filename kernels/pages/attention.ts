import { Softmax } from "../softmax";
import { softcap } from "../vector";
import { HeadF16 } from "./f16";
import { HeadF32 } from "./f32";
import { F16, F32, Page, PAGE_POSITIONS, Q8 } from "./page";
import { HeadQ8 } from "./q8";
import { Row } from "./row";

/**
 * Attention of one position over pages of f32: for heads [headFrom, headTo) of `numHeads` key/value heads, and for each
 * of the `group` queries that share one: `out = softmax(scale * keys q) values`.
 *
 *   q, out:  f32[(headTo - headFrom) * group][headDim], headDim a multiple of 16
 *   table:   u32[pages], addresses of pages (page.ts)
 *   scratch: for each query 4 * headDim bytes, and f32[count rounded up to whole pages]
 *
 * All heads take a page before the next one, so that memory is read in long runs. The bits of a head depend neither on
 * where pages lie nor on the other heads, and are those of attentionHead. Places of the last page that have no position
 * yet may hold anything. Of the first page the first `first` positions are left out; scores s become cap * tanh(s / cap), unless
 * cap is 0.
 */
export function attentionPagesF32(
  q: usize,
  table: usize,
  numHeads: i32,
  headFrom: i32,
  headTo: i32,
  group: i32,
  out: usize,
  scratch: usize,
  headDim: i32,
  count: i32,
  first: i32,
  scale: f32,
  cap: f32,
): void {
  const heads = headTo - headFrom;
  Paged.run(
    F32,
    q,
    table,
    numHeads,
    headFrom,
    heads,
    group,
    out,
    scratch,
    headDim,
    count,
    first,
    scale,
    cap,
  );
}

/** attentionPagesF32 over pages of f16. */
export function attentionPagesF16(
  q: usize,
  table: usize,
  numHeads: i32,
  headFrom: i32,
  headTo: i32,
  group: i32,
  out: usize,
  scratch: usize,
  headDim: i32,
  count: i32,
  first: i32,
  scale: f32,
  cap: f32,
): void {
  const heads = headTo - headFrom;
  Paged.run(
    F16,
    q,
    table,
    numHeads,
    headFrom,
    heads,
    group,
    out,
    scratch,
    headDim,
    count,
    first,
    scale,
    cap,
  );
}

/** attentionPagesF32 over pages of q8; headDim is at most 512. */
export function attentionPagesQ8(
  q: usize,
  table: usize,
  numHeads: i32,
  headFrom: i32,
  headTo: i32,
  group: i32,
  out: usize,
  scratch: usize,
  headDim: i32,
  count: i32,
  first: i32,
  scale: f32,
  cap: f32,
): void {
  assert(headDim <= 512);
  const heads = headTo - headFrom;
  Paged.run(
    Q8,
    q,
    table,
    numHeads,
    headFrom,
    heads,
    group,
    out,
    scratch,
    headDim,
    count,
    first,
    scale,
    cap,
  );
}

class Paged {
  static run(
    kv: i32,
    q: usize,
    table: usize,
    numHeads: i32,
    headFrom: i32,
    heads: i32,
    group: i32,
    out: usize,
    scratch: usize,
    headDim: i32,
    count: i32,
    first: i32,
    scale: f32,
    cap: f32,
  ): void {
    assert(headDim % 16 == 0 && count > first && first < PAGE_POSITIONS);
    const queries = heads * group, row = usize(headDim) << 2;
    const blockLength = Page.blockLength(kv, headDim);
    const weights = scratch + usize(queries) * row;
    const pages = (count + PAGE_POSITIONS - 1) / PAGE_POSITIONS;
    const weightsLength = usize(pages) * (usize(PAGE_POSITIONS) << 2);
    if (kv == F32) scratch = q;
    else Paged.prepare(kv, q, scratch, queries, headDim, scale);

    for (let page = 0; page < pages; page++) {
      const n = Page.positions(page, count);
      let keys = usize(load<u32>(table + (usize(page) << 2))) + usize(headFrom) * blockLength;
      let x = scratch, w = weights + usize(page) * (usize(PAGE_POSITIONS) << 2);
      for (let head = 0; head < heads; head++, keys += blockLength) {
        for (let i = 0; i < group; i++, x += row, w += weightsLength) {
          if (kv == Q8) HeadQ8.score(x, keys, w, headDim, n);
          else if (kv == F16) HeadF16.score(x, keys, w, row >> 1, n, scale);
          else HeadF32.score(x, keys, w, row, n, scale);
        }
      }
    }

    for (let i: usize = 0; i < usize(queries); i++) {
      const scores = weights + i * weightsLength;
      if (cap != 0) softcap(scores, cap, 0, count + 3 & -4);
      for (let t = 0; t < first; t++) store<f32>(scores + (usize(t) << 2), -Infinity);
      Softmax.run(scores, count);
      if (kv == F16) HeadF16.scaleWeights(weights + i * weightsLength, count);
    }
    memory.fill(out, 0, usize(queries) * row);

    for (let page = 0; page < pages; page++) {
      const n = Page.positions(page, count);
      let values = usize(load<u32>(table + (usize(page) << 2))) +
        usize(numHeads + headFrom) * blockLength;
      let sums = out, w = weights + usize(page) * (usize(PAGE_POSITIONS) << 2);
      for (let head = 0; head < heads; head++, values += blockLength) {
        for (let i = 0; i < group; i++, sums += row, w += weightsLength) {
          if (kv == Q8) HeadQ8.mix(values, sums, w, scratch, headDim, n);
          else if (kv == F16) HeadF16.mix(values, sums, w, row >> 1, n);
          else HeadF32.mix(values, sums, w, row, n);
        }
      }
    }
    if (kv == F16) HeadF16.finish(out, usize(queries) * row >> 1);
  }

  /** Queries in the form that scores want, 4 * headDim bytes each. */
  static prepare(
    kv: i32,
    q: usize,
    target: usize,
    queries: i32,
    headDim: i32,
    scale: f32,
  ): void {
    const row = usize(headDim) << 2;
    for (let i = 0; i < queries; i++, q += row, target += row) {
      if (kv == F16) HeadF16.prepare(q, target, row >> 1);
      else store<f32>(target + (row >> 1), Row.round16(q, target, headDim) * scale);
    }
  }
}
