/** Which columns of a vector are stored: bit c % 8 of byte c / 8. */
export class Bitmap {
  /** Bits that are set in the first bytes, a multiple of 4. */
  @inline
  static count(bitmap: usize, byteLength: usize): usize {
    let count: u32 = 0;
    for (const end = bitmap + byteLength; bitmap < end; bitmap += 4) {
      count += popcnt<u32>(load<u32>(bitmap));
    }
    return usize(count);
  }
}
