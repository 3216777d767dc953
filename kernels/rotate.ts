/**
 * Turns the first `dims` numbers of `heads` rows, f32[heads][headDim], in place: number i with number i + dims / 2, by the
 * angle whose cosine is `angles[i]` and whose sine is `angles[i + dims / 2]`. dims is a multiple of 8.
 */
export function rotate(x: usize, angles: usize, heads: i32, headDim: i32, dims: i32): void {
  assert(dims % 8 == 0 && dims <= headDim);
  const half = usize(dims) << 1, row = usize(headDim) << 2;
  for (let head = 0; head < heads; head++, x += row) {
    for (let byte: usize = 0; byte < half; byte += 16) {
      const first = v128.load(x + byte), second = v128.load(x + half + byte);
      const cosine = v128.load(angles + byte), sine = v128.load(angles + half + byte);
      // No fused operation: both sums round alike, whichever product comes first.
      v128.store(x + byte, f32x4.sub(f32x4.mul(first, cosine), f32x4.mul(second, sine)));
      v128.store(x + half + byte, f32x4.add(f32x4.mul(second, cosine), f32x4.mul(first, sine)));
    }
  }
}
