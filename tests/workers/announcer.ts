/** A reader that reads nothing: counts tickets as landed, at random times; see tests/landing_test.ts. */
import { workerData } from "node:worker_threads";
import { Control } from "../../src/pipeline/control.ts";
import type { ControlShare } from "../../src/pipeline/control.ts";
import { LandingCounter } from "../../src/pipeline/landing.ts";
import { seededRandom } from "../../src/random.ts";

export interface AnnouncerOptions {
  share: ControlShare;
  ticketCount: number;
  seed: number;
  pauseMsMax: number;
  /** Raise the fault word after the last. */
  failsAtEnd: boolean;
}

const { share, ticketCount, seed, pauseMsMax, failsAtEnd } = workerData as AnnouncerOptions;
const control = new Control(share);
const counter = new LandingCounter(control);
const random = seededRandom(seed);
const bell = new Int32Array(new SharedArrayBuffer(4));
for (let ticket = 0; ticket < ticketCount; ticket++) {
  if (random() < 0.3) Atomics.wait(bell, 0, 0, random() * pauseMsMax);
  counter.announce(1);
}
if (failsAtEnd) {
  Atomics.wait(bell, 0, 0, 30);
  control.fail();
}
