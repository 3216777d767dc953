/**
 * The kinds of numbers that GGUF files have, as ggml lays them out (ggml-common.h; the arithmetic is that of
 * ggml-quants.c). Blocks of 32 numbers share an f16 scale, and those of 256 ("K") have scales of 16 or 32 numbers each,
 * which share an f16 scale of their own.
 *
 *   Q8_0   | d f16 | 32 i8 |                                             n d
 *   Q4_0   | d | 16 bytes: j low, j + 16 high |                          (n - 8) d
 *   Q4_1   | d | m | 16 bytes |                                          n d + m
 *   Q5_0   | d | 32 fifth bits | 16 bytes |                              (n - 16) d
 *   Q5_1   | d | m | 32 fifth bits | 16 bytes |                          n d + m
 *   Q2_K   | 16 x (scale 4 bits, minimum 4 bits) | 64 bytes | d | m |    n d scale - m minimum
 *   Q3_K   | 256 third bits | 64 bytes | 16 scales of 6 bits | d |       (n - 4) d (scale - 32)
 *   Q4_K   | d | m | 8 x (scale 6 bits, minimum 6 bits) | 128 bytes |    n d scale - m minimum
 *   Q5_K   | d | m | 8 x (6, 6) | 256 fifth bits | 128 bytes |           n d scale - m minimum
 *   Q6_K   | 128 bytes | 256 x 2 upper bits | 16 i8 scales | d |         (n - 32) d scale
 *
 * Scales times minima and numbers are exact before the last rounding to f32, as they are in ggml: equal bits.
 */
export interface BlockType {
  /** Numbers of a block. */
  readonly length: number;
  readonly byteLength: number;
  /** Reads the block at byte `at` into `values` from `first` on. */
  read(view: DataView, at: number, values: Float32Array, first: number): void;
}

export const BLOCK_TYPES: Readonly<Record<string, BlockType>> = {
  Q8_0: { length: 32, byteLength: 34, read: readQ8_0 },
  Q4_0: { length: 32, byteLength: 18, read: readQ4_0 },
  Q4_1: { length: 32, byteLength: 20, read: readQ4_1 },
  Q5_0: { length: 32, byteLength: 22, read: readQ5_0 },
  Q5_1: { length: 32, byteLength: 24, read: readQ5_1 },
  Q2_K: { length: 256, byteLength: 84, read: readQ2K },
  Q3_K: { length: 256, byteLength: 110, read: readQ3K },
  Q4_K: { length: 256, byteLength: 144, read: readQ4K },
  Q5_K: { length: 256, byteLength: 176, read: readQ5K },
  Q6_K: { length: 256, byteLength: 210, read: readQ6K },
};

function readQ8_0(view: DataView, at: number, values: Float32Array, first: number): void {
  const d = view.getFloat16(at, true);
  for (let i = 0; i < 32; i++) values[first + i] = view.getInt8(at + 2 + i) * d;
}

function readQ4_0(view: DataView, at: number, values: Float32Array, first: number): void {
  readNibbles(view, at + 2, values, first, { d: view.getFloat16(at, true), zero: 8 });
}

function readQ4_1(view: DataView, at: number, values: Float32Array, first: number): void {
  const m = view.getFloat16(at + 2, true);
  readNibbles(view, at + 4, values, first, { d: view.getFloat16(at, true), zero: 0, m });
}

function readQ5_0(view: DataView, at: number, values: Float32Array, first: number): void {
  const fifth = view.getUint32(at + 2, true);
  readNibbles(view, at + 6, values, first, { d: view.getFloat16(at, true), zero: 16, fifth });
}

function readQ5_1(view: DataView, at: number, values: Float32Array, first: number): void {
  const m = view.getFloat16(at + 2, true), fifth = view.getUint32(at + 4, true);
  readNibbles(view, at + 8, values, first, { d: view.getFloat16(at, true), zero: 0, m, fifth });
}

/** (number - `zero`) `d`, plus `m` if there is one, of 16 bytes with two numbers each; bit i of `fifth` is worth 16 of number i. */
function readNibbles(
  view: DataView,
  at: number,
  values: Float32Array,
  first: number,
  // Zero times a negative scale is -0, which a sum with 0 would not be.
  { d, zero, m = -0, fifth = 0 }: { d: number; zero: number; m?: number; fifth?: number },
): void {
  for (let i = 0; i < 16; i++) {
    const pair = view.getUint8(at + i);
    const low = (pair & 15) | (fifth >>> i & 1) << 4;
    const high = pair >> 4 | (fifth >>> (i + 16) & 1) << 4;
    values[first + i] = (low - zero) * d + m;
    values[first + i + 16] = (high - zero) * d + m;
  }
}

function readQ2K(view: DataView, at: number, values: Float32Array, first: number): void {
  const d = view.getFloat16(at + 80, true), m = view.getFloat16(at + 82, true);
  for (let group = 0; group < 16; group++) {
    // Two groups of each 32 bytes have the same bits of them.
    const byte = at + 16 + (group >> 3) * 32 + (group & 1) * 16, shift = (group >> 1 & 3) * 2;
    const pair = view.getUint8(at + group), scale = d * (pair & 15), minimum = m * (pair >> 4);
    for (let i = 0; i < 16; i++) {
      values[first++] = (view.getUint8(byte + i) >> shift & 3) * scale - minimum;
    }
  }
}

function readQ3K(view: DataView, at: number, values: Float32Array, first: number): void {
  const d = view.getFloat16(at + 108, true), scales = at + 96;
  for (let group = 0; group < 16; group++) {
    const inHalf = (group >> 3) * 32, side = (group & 1) * 16, shift = (group >> 1 & 3) * 2;
    // Four lower bits of a scale in 8 bytes, two upper ones in the 4 that follow.
    const lower = view.getUint8(scales + (group & 7)) >> (group >> 3) * 4 & 15;
    const upper = view.getUint8(scales + 8 + (group & 3)) >> (group >> 2) * 2 & 3;
    const scale = d * ((lower | upper << 4) - 32);
    for (let i = 0; i < 16; i++) {
      const two = view.getUint8(at + 32 + inHalf + side + i) >> shift & 3;
      const third = view.getUint8(at + side + i) >> (group >> 1) & 1;
      values[first++] = (two - (third === 1 ? 0 : 4)) * scale;
    }
  }
}

function readQ4K(view: DataView, at: number, values: Float32Array, first: number): void {
  readScaledNibbles(view, at, { numbers: at + 16, fifths: -1 }, values, first);
}

function readQ5K(view: DataView, at: number, values: Float32Array, first: number): void {
  readScaledNibbles(view, at, { numbers: at + 48, fifths: at + 16 }, values, first);
}

/** Eight groups of 32, of which two share the bytes of their nibbles. */
function readScaledNibbles(
  view: DataView,
  at: number,
  { numbers, fifths }: { numbers: number; fifths: number },
  values: Float32Array,
  first: number,
): void {
  const d = view.getFloat16(at, true), m = view.getFloat16(at + 2, true), scales = at + 4;
  for (let group = 0; group < 8; group++) {
    const scale = d * sixBits(view, scales, group), minimum = m * sixBits(view, scales + 4, group);
    const bytes = numbers + (group >> 1) * 32, shift = (group & 1) * 4;
    for (let i = 0; i < 32; i++) {
      let number = view.getUint8(bytes + i) >> shift & 15;
      if (fifths >= 0) number |= (view.getUint8(fifths + i) >> group & 1) << 4;
      values[first++] = number * scale - minimum;
    }
  }

  /**
   * Of 12 bytes: the first four scales are the lower six bits of bytes 0 to 3 and the first four minima those of bytes 4 to 7.
   * The later ones have four bits in bytes 8 to 11, scales in the lower and minima in the upper half, and two in what is left.
   */
  function sixBits(view: DataView, from: number, group: number): number {
    const byte = view.getUint8(from + (group & 3));
    if (group < 4) return byte & 63;
    const isScale = from === scales;
    const nibbles = view.getUint8(scales + 8 + (group & 3));
    return (isScale ? nibbles & 15 : nibbles >> 4) | byte >> 6 << 4;
  }
}

function readQ6K(view: DataView, at: number, values: Float32Array, first: number): void {
  const d = view.getFloat16(at + 208, true);
  for (let group = 0; group < 16; group++) {
    const half = group >> 3, quarter = group >> 1 & 3, side = (group & 1) * 16;
    const scale = d * view.getInt8(at + 192 + group);
    // Quarters 0 and 2 share their bytes, and 1 and 3.
    const lower = at + half * 64 + (quarter & 1) * 32 + side, lowerShift = (quarter >> 1) * 4;
    const upper = at + 128 + half * 32 + side, upperShift = quarter * 2;
    for (let i = 0; i < 16; i++) {
      const low = view.getUint8(lower + i) >> lowerShift & 15;
      const high = view.getUint8(upper + i) >> upperShift & 3;
      values[first++] = ((low | high << 4) - 32) * scale;
    }
  }
}
