/**
 * Pages of the KV cache: keys and values of all heads of a layer at PAGE_POSITIONS positions. Any address that is a
 * multiple of 16 will do for a page; a table of u32 says where pages lie, in the order of positions.
 *
 *   page:  | keys of head 0 | keys of head 1 | ... | values of head 0 | values of head 1 | ... |
 *   block: | numbers of a head's keys (or values) | q8: PAGE_POSITIONS f32 scales |
 *
 * Within a block numbers lie in the order in which attention reads them. Keys, 16 bytes of four positions in turn:
 *
 *   | 16 bytes of key 0 | of key 1 | of key 2 | of key 3 | the next 16 bytes of key 0 | ... | keys 4 to 7 | ... |
 *
 * Values, 16 columns of all positions after the other; in q8 those of two positions are mixed, column for column, as
 * `i32x4.dot_i16x8_s` adds pairs:
 *
 *   f32, f16: | columns 0 to 15 of value 0 | of value 1 | ... | columns 16 to 31 of value 0 | ... |
 *   q8:       | columns 0 to 15 of values 0 and 1 | of values 2 and 3 | ... |
 *
 * src/kv_page.ts has the sizes.
 */
export const PAGE_POSITIONS: i32 = 16;

export const F32: i32 = 0, F16: i32 = 1, Q8: i32 = 2;

export class Page {
  /** Bytes of a block: keys, or values, of one head. */
  @inline
  static blockLength(kv: i32, headDim: i32): usize {
    const numbers = usize(PAGE_POSITIONS) * usize(headDim);
    return kv == F32 ? numbers << 2 : kv == F16 ? numbers << 1 : numbers + Page.scalesLength();
  }

  @inline
  static scalesLength(): usize {
    return usize(PAGE_POSITIONS) << 2;
  }

  /** How many of `count` positions the `index`-th page has. */
  @inline
  static positions(index: i32, count: i32): i32 {
    return min(PAGE_POSITIONS, count - index * PAGE_POSITIONS);
  }
}
