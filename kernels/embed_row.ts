import { Block } from "./block";
import { Half, WHOLE } from "./half";
import { Nibbles } from "./nibbles";

/** `y[c] = w[row][c]` as f32, of a matrix of f32 tiles; cols a multiple of 32. */
export function embedRowF32(w: usize, row: i32, y: usize, cols: i32): void {
  assert(row >= 0 && cols % 32 == 0);
  const yEnd = y + (usize(cols) << 2);
  let p = w + (usize(row >> 3) * usize(cols) << 5) + (usize(row & 7) << 7);
  for (; y < yEnd; p += 1024, y += 128) memory.copy(y, p, 128);
}

/** `y[c] = w[row][c]` as f32, of a matrix of f16 tiles. */
export function embedRowF16(w: usize, row: i32, y: usize, cols: i32): void {
  assert(row >= 0 && cols % 32 == 0);
  const even = Half.even(), odd = Half.odd(), mask = Half.mask(), whole = f32x4.splat(WHOLE);
  const yEnd = y + (usize(cols) << 2);
  let p = w + (usize(row >> 3) * usize(cols) << 4) + (usize(row & 7) << 6);
  for (; y < yEnd; p += 512) {
    for (let byte: usize = 0; byte < 64; byte += 16, y += 32) {
      const eight = v128.load(p + byte);
      const a = f32x4.mul(Half.widen(eight, even, mask), whole);
      const b = f32x4.mul(Half.widen(eight, odd, mask), whole);
      v128.store(y, v128.shuffle<u32>(a, b, 0, 4, 1, 5));
      v128.store(y, v128.shuffle<u32>(a, b, 2, 6, 3, 7), 16);
    }
  }
}

/** `y[c] = w[row][c]` as f32, of a matrix of q8 tiles. */
export function embedRowQ8(w: usize, row: i32, y: usize, cols: i32): void {
  assert(row >= 0 && cols % 32 == 0);
  const mask = Half.mask(), whole = f32x4.splat(WHOLE);
  const yEnd = y + (usize(cols) << 2);
  const scaleByte = usize(row & 7) << 1, rowByte = (usize(row & 7) << 5) + 16;
  let p = w + usize(row >> 3) * usize(cols >> 5) * 272;
  for (; y < yEnd; p += 272) {
    const scale = Block.scale(p + scaleByte, whole, mask);
    for (let byte = rowByte; byte < rowByte + 32; byte += 8, y += 32) {
      const eight = v128.load_ext<i8>(p + byte);
      const low = f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(eight));
      const high = f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(eight));
      v128.store(y, f32x4.mul(low, scale));
      v128.store(y, f32x4.mul(high, scale), 16);
    }
  }
}

/** `y[c] = w[row][c]` as f32, of a matrix of q4 tiles. */
export function embedRowQ4(w: usize, row: i32, y: usize, cols: i32): void {
  assert(row >= 0 && cols % 32 == 0);
  const mask = Half.mask(), whole = f32x4.splat(WHOLE), nibble = Nibbles.mask();
  const yEnd = y + (usize(cols) << 2);
  const scaleByte = usize(row & 7) << 1, rowByte = (usize(row & 6) << 1) + 16;
  const shift = (row & 1) << 2;
  let p = w + usize(row >> 3) * usize(cols >> 5) * 144;
  for (; y < yEnd; p += 144) {
    const scale = Block.scale(p + scaleByte, whole, mask);
    for (let byte = rowByte; byte < rowByte + 128; byte += 16, y += 16) {
      const bytes = v128.and(i32x4.shr_u(v128.load_splat<u32>(p + byte), shift), nibble);
      const four = i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(bytes));
      const numbers = f32x4.convert_i32x4_s(i32x4.sub(four, i32x4.splat(8)));
      v128.store(y, f32x4.mul(numbers, scale));
    }
  }
}
