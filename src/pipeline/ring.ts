import { LINE_WORDS } from "./sequence.ts";

/**
 * A single-producer, single-consumer ring of fixed-size records over shared 32-bit words.
 *
 * The producer alone writes `tail`, the consumer alone writes `head`. Both count up and wrap at
 * 2^32, so `tail - head` records are waiting. Nothing is allocated by a push or a pop: the producer
 * asks where to write (`reserve`) and publishes; the consumer asks where to read (`peek`) and
 * releases. A full or an empty ring is an answer (-1), not an error. Waking the consumer is left to
 * a `Sequence` beside the ring, as one sleeper may serve several rings.
 *
 *   word 0      16       32
 *        | head | tail   | record 0 | record 1 | ...
 */
export class Ring {
  readonly #words: Int32Array;
  readonly #index: number;
  readonly #recordWords: number;
  readonly #mask: number;

  /** @param index first word of the ring. @param capacity records, a power of two. */
  constructor(words: Int32Array, index: number, shape: RingShape) {
    assertRingShape(shape);
    this.#words = words;
    this.#index = index;
    this.#recordWords = shape.recordWords;
    this.#mask = shape.capacity - 1;
  }

  /** Records waiting. Exact for producer and consumer when the other rests; else a moment old. */
  get length(): number {
    const words = this.#words;
    return (Atomics.load(words, this.#index + LINE_WORDS) - Atomics.load(words, this.#index)) | 0;
  }

  /** Producer: the word at which the next record may be written, or -1 if the ring is full. */
  reserve(): number {
    const tail = Atomics.load(this.#words, this.#index + LINE_WORDS);
    const head = Atomics.load(this.#words, this.#index);
    if (((tail - head) | 0) > this.#mask) return -1;
    return this.#recordAt(tail);
  }

  /** Producer: hands the record written at the word `reserve` gave over to the consumer. */
  publish(): void {
    Atomics.add(this.#words, this.#index + LINE_WORDS, 1);
  }

  /** Consumer: the word of the oldest record, or -1 if the ring is empty. */
  peek(): number {
    const head = Atomics.load(this.#words, this.#index);
    if (Atomics.load(this.#words, this.#index + LINE_WORDS) === head) return -1;
    return this.#recordAt(head);
  }

  /** Consumer: gives the place of the oldest record back. */
  release(): void {
    Atomics.add(this.#words, this.#index, 1);
  }

  #recordAt(position: number): number {
    return this.#index + 2 * LINE_WORDS + (position & this.#mask) * this.#recordWords;
  }
}

/** Size of a ring: `capacity` records (a power of two) of `recordWords` 32-bit words. */
export interface RingShape {
  capacity: number;
  recordWords: number;
}

/** Words of shared memory that a ring of this shape takes, a multiple of a cache line. */
export function ringWordLength(shape: RingShape): number {
  assertRingShape(shape);
  const records = shape.capacity * shape.recordWords;
  return 2 * LINE_WORDS + Math.ceil(records / LINE_WORDS) * LINE_WORDS;
}

function assertRingShape({ capacity, recordWords }: RingShape): void {
  if (!Number.isInteger(capacity) || capacity < 1 || (capacity & (capacity - 1)) !== 0) {
    throw new RangeError(
      `Cannot create ring as capacity must be a power of two: received ${capacity}`,
    );
  }
  if (!Number.isInteger(recordWords) || recordWords < 1) {
    throw new RangeError(
      `Cannot create ring as records must have at least one word: received ${recordWords}`,
    );
  }
}
