/** Sends 0, 1, 2, ... through a ring in random batches; the other end is in tests/ring_test.ts. */
import { parentPort, workerData } from "node:worker_threads";
import { Ring } from "../../src/pipeline/ring.ts";
import type { RingShape } from "../../src/pipeline/ring.ts";
import { Sequence } from "../../src/pipeline/sequence.ts";
import type { WaitStyle } from "../../src/pipeline/sequence.ts";
import { seededRandom } from "../../src/random.ts";

export interface RingProducerOptions {
  buffer: SharedArrayBuffer;
  /** First word of the ring. */
  ring: number;
  shape: RingShape;
  /** Words of the sequences "records sent" and "records taken". */
  sent: number;
  taken: number;
  /** Value of `taken` before the first record was taken. */
  takenBefore: number;
  recordCount: number;
  seed: number;
  style: WaitStyle;
}

const options = workerData as RingProducerOptions;
const words = new Int32Array(options.buffer);
const ring = new Ring(words, options.ring, options.shape);
const sent = new Sequence(words, options.sent, options.style);
const taken = new Sequence(words, options.taken, options.style);
const random = seededRandom(options.seed);

let next = 0;
while (next < options.recordCount) {
  const batch = 1 + Math.floor(random() * 2 * options.shape.capacity);
  for (let i = 0; i < batch && next < options.recordCount; i++) {
    let at: number;
    while ((at = ring.reserve()) < 0) {
      // Full: room for this record is there once all but `capacity - 1` of those before it were taken.
      const wanted = options.takenBefore + next - options.shape.capacity + 1;
      taken.waitFor(wanted | 0, "room in the ring");
    }
    for (let word = 0; word < options.shape.recordWords; word++) words[at + word] = next + word;
    ring.publish();
    sent.advance();
    next++;
  }
}
parentPort!.postMessage(next);
