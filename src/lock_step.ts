/**
 * Advances streams together, one value of each at a time, so that none runs ahead of the slowest. All are started with one
 * signal: when a stream fails, when the consumer leaves, or when `signal` says so, it ends the others, and nothing is thrown
 * before they have come to rest.
 *
 * ```ts
 * import { inLockStep } from "./lock_step.ts";
 * async function* count(to: number) {
 *   for (let i = 0; i < to; i++) yield i;
 * }
 * for await (const [a, b] of inLockStep([() => count(3), () => count(3)])) console.assert(a === b);
 * ```
 *
 * @throws the first failure of a stream; an Error if one ends before the others
 */
export async function* inLockStep<T>(
  starts: ((signal: AbortSignal) => AsyncGenerator<T, void, void>)[],
  signal?: AbortSignal,
): AsyncGenerator<T[], void, void> {
  const end = new AbortController();
  const either = signal ? AbortSignal.any([signal, end.signal]) : end.signal;
  const streams = starts.map((start) => start(either));
  try {
    for (;;) {
      const results = await Promise.all(streams.map((stream) => stream.next()));
      const values = results.flatMap(({ done, value }) => done ? [] : [value as T]);
      if (values.length === 0) return;
      if (values.length < streams.length) throw new Error("A stream ended before the others");
      yield values;
    }
  } finally {
    end.abort();
    // A stream in the middle of a value ends after it.
    await Promise.allSettled(streams.map((stream) => stream.return()));
  }
}
