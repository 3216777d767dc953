/**
 * What each thread did when: spans in a shared buffer, written only by their thread, made into
 * a Chrome/Perfetto trace by the main thread after the run. A full buffer stops recording.
 *
 *   f64 0: number of spans     then per span: name, begin (us), duration (us), argument
 */

/** Names of spans; a span stores the index. */
export const SPAN_NAMES = [
  "embed",
  "attention",
  "attention output",
  "late look",
  "wait: predictor",
  "up hits",
  "up misses",
  "up of several",
  "wait: flash",
  "down",
  "wait: lanes",
  "logits",
  "sample",
  "early look",
  "plan late reads",
  "wait: lanes' layer",
  "wait: lanes' scores",
  "wait: slots",
  "read",
] as const;

export type SpanName = (typeof SPAN_NAMES)[number];

const SPAN_FLOATS = 4;

const SPAN_INDEX = new Map<string, number>(SPAN_NAMES.map((name, index) => [name, index]));

/** Milliseconds since the origin that all threads share (the main thread's start). */
export type Clock = () => number;

/** A clock that agrees among the workers of a process: `origin` is the main thread's `timeOrigin`. */
export function sharedClock(origin: number): Clock {
  const shift = performance.timeOrigin - origin;
  return () => performance.now() + shift;
}

/** One thread's spans. */
export class Trace {
  readonly #floats: Float64Array;
  readonly #capacity: number;

  constructor(floats: Float64Array) {
    this.#floats = floats;
    this.#capacity = Math.floor((floats.length - 1) / SPAN_FLOATS);
  }

  /** Records that `name` lasted from `beganMs` to `endedMs`, with a number to go with it. */
  span(name: SpanName, beganMs: number, endedMs: number, argument = 0): void {
    const floats = this.#floats, count = floats[0];
    if (count >= this.#capacity) return;
    const at = 1 + count * SPAN_FLOATS;
    floats[at] = SPAN_INDEX.get(name)!;
    floats[at + 1] = beganMs * 1000;
    floats[at + 2] = (endedMs - beganMs) * 1000;
    floats[at + 3] = argument;
    floats[0] = count + 1;
  }
}

/** Shared memory for `spanCount` spans of one thread. */
export function createTraceBuffer(spanCount: number): SharedArrayBuffer {
  return new SharedArrayBuffer(8 * (1 + spanCount * SPAN_FLOATS));
}

/** The Chrome trace-event JSON of several threads' buffers, for Perfetto or chrome://tracing. */
export function traceJson(threads: { name: string; buffer: SharedArrayBuffer }[]): string {
  const events: unknown[] = [];
  threads.forEach(({ name, buffer }, thread) => {
    const floats = new Float64Array(buffer);
    events.push({ name: "thread_name", ph: "M", pid: 1, tid: thread, args: { name } });
    events.push({
      name: "thread_sort_index",
      ph: "M",
      pid: 1,
      tid: thread,
      args: { sort_index: thread },
    });
    for (let span = 0; span < floats[0]; span++) {
      const at = 1 + span * SPAN_FLOATS;
      events.push({
        name: SPAN_NAMES[floats[at]],
        ph: "X",
        pid: 1,
        tid: thread,
        ts: Math.round(floats[at + 1] * 100) / 100,
        dur: Math.round(floats[at + 2] * 100) / 100,
        args: { value: floats[at + 3] },
      });
    }
  });
  return JSON.stringify({ traceEvents: events, displayTimeUnit: "ms" });
}
