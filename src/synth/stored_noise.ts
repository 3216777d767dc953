import { floatsAt, isBlocked, TILE_COLS, vectorByteLength } from "../format/layout.ts";
import type { Quantization } from "../format/layout.ts";
import { storeRows } from "../format/quantize.ts";
import { deviate, randomFor, STREAM } from "./noise.ts";

/** Blocks of 32 numbers that are stored once, and how many follow each other in a row. */
const BLOCKS = 1 << 15;
const RUN_BLOCKS = 16;
/** Deviations for which scales (of plain numbers: the numbers) are kept: those of a layer's gates, up rows and down columns. */
const KEPT = 3;

/** Stored numbers of one deviation: their scales, or null where there are none, and the numbers of a block side by side. */
interface Stored {
  /** f16[BLOCKS] */
  readonly scales: Uint16Array | null;
  readonly numbers: Uint8Array;
}

/**
 * Rows of noise that are put together from stored runs of it: rounding numbers to q4 takes ten times as long as all else that noise
 * costs. No two rows have the same runs, but by a chance of 2^-60 and less.
 */
export class StoredNoise {
  readonly #seed: number;
  /** Of deviation 1, by type. */
  readonly #units = new Map<Quantization, Stored>();
  readonly #kept = new Map<string, Stored>();

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** Writes a row of `cols` numbers of this deviation as it lies in a bundle, to `target[byteOffset]` and after. */
  write(
    target: Uint8Array,
    { byteOffset, cols, deviation, quantization }: {
      byteOffset: number;
      cols: number;
      deviation: number;
      quantization: Quantization;
    },
    random: () => number,
  ): void {
    const { scales, numbers } = this.#stored(quantization, deviation);
    const count = cols / TILE_COLS, blockBytes = numbers.byteLength / BLOCKS;
    const scaleBytes = scales && new Uint8Array(scales.buffer);
    const numbersAt = byteOffset + (scales ? 2 * count : 0);
    for (let block = 0; block < count; block += RUN_BLOCKS) {
      const length = Math.min(RUN_BLOCKS, count - block);
      const from = Math.floor(random() * (BLOCKS - length)), to = from + length;
      target.set(
        numbers.subarray(from * blockBytes, to * blockBytes),
        numbersAt + block * blockBytes,
      );
      if (scaleBytes) target.set(scaleBytes.subarray(2 * from, 2 * to), byteOffset + 2 * block);
    }
  }

  #stored(quantization: Quantization, deviation: number): Stored {
    const key = `${quantization} ${deviation}`, kept = this.#kept.get(key);
    if (kept) return kept;
    if (this.#kept.size === KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    const stored = scaled(this.#unit(quantization), deviation, quantization);
    this.#kept.set(key, stored);
    return stored;
  }

  #unit(quantization: Quantization): Stored {
    let unit = this.#units.get(quantization);
    if (!unit) this.#units.set(quantization, unit = unitOf(quantization, this.#seed));
    return unit;
  }
}

/** Blocks as rows of one block each, whose scales then go to a place of their own. */
function unitOf(quantization: Quantization, seed: number): Stored {
  const random = randomFor(seed, STREAM.stored);
  const values = Float32Array.from({ length: BLOCKS * TILE_COLS }, () => deviate(random));
  const rowBytes = vectorByteLength(quantization, TILE_COLS);
  const rows = new Uint8Array(BLOCKS * rowBytes);
  storeRows(quantization, values, { rows: BLOCKS, cols: TILE_COLS }, rows);
  if (!isBlocked(quantization)) return { scales: null, numbers: rows };
  const scales = new Uint16Array(BLOCKS), numberBytes = rowBytes - 2;
  const numbers = new Uint8Array(BLOCKS * numberBytes), view = new DataView(rows.buffer);
  for (let block = 0; block < BLOCKS; block++) {
    const at = block * rowBytes;
    scales[block] = view.getUint16(at, true);
    numbers.set(rows.subarray(at + 2, at + rowBytes), block * numberBytes);
  }
  return { scales, numbers };
}

/** The same times a factor: of numbers in blocks the scales alone. */
function scaled({ scales, numbers }: Stored, factor: number, quantization: Quantization): Stored {
  if (scales) {
    const values = Float16Array.from(new Float16Array(scales.buffer), (value) => factor * value);
    return { scales: new Uint16Array(values.buffer), numbers };
  }
  const kind = quantization === "f32" ? "f32" : "f16";
  const values = floatsAt(kind, numbers.buffer as ArrayBuffer, 0, BLOCKS * TILE_COLS);
  const copy = numbers.slice();
  const target = floatsAt(kind, copy.buffer, 0, values.length);
  for (let index = 0; index < values.length; index++) target[index] = factor * values[index];
  return { scales: null, numbers: copy };
}
