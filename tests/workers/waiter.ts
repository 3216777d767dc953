/** Waits on a shared word, or meets others at a barrier, and says how it went; see tests/sequence_test.ts. */
import { parentPort, workerData } from "node:worker_threads";
import { Barrier } from "../../src/pipeline/barrier.ts";
import { Sequence } from "../../src/pipeline/sequence.ts";
import type { WaitStyle } from "../../src/pipeline/sequence.ts";
import { seededRandom } from "../../src/random.ts";

export interface WaiterOptions {
  buffer: SharedArrayBuffer;
  index: number;
  style: WaitStyle;
  task:
    | { kind: "wait" | "wait idle"; target: number }
    /** Each round writes its number to `board + lane`, meets, and looks what the others wrote. */
    | { kind: "meet"; lane: number; laneCount: number; rounds: number; board: number };
}

export type WaiterAnswer = { ok: true; seen: number } | {
  ok: false;
  name: string;
  message: string;
};

const { buffer, index, style, task } = workerData as WaiterOptions;
const words = new Int32Array(buffer);

function run(): number {
  if (task.kind !== "meet") {
    const sequence = new Sequence(words, index, style);
    if (task.kind === "wait") sequence.waitFor(task.target, "the test");
    else sequence.waitIdle(task.target);
    return sequence.value;
  }
  const { lane, laneCount, rounds, board } = task;
  const barrier = new Barrier(words, index, laneCount, style);
  const random = seededRandom(lane);
  for (let round = 1; round <= rounds; round++) {
    for (let idle = Math.floor(random() * 2000); idle > 0; idle--) Atomics.load(words, board);
    words[board + lane] = round;
    barrier.meet(`round ${round}`);
    for (let other = 0; other < laneCount; other++) {
      if (words[board + other] !== round) {
        throw new Error(`in round ${round} lane ${other} wrote ${words[board + other]}`);
      }
    }
    barrier.meet(`the end of round ${round}`);
  }
  return rounds;
}

let answer: WaiterAnswer;
try {
  answer = { ok: true, seen: run() };
} catch (error) {
  const { name, message } = error as Error;
  answer = { ok: false, name, message };
}
parentPort!.postMessage(answer);
