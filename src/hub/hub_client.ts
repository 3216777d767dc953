import { setTimeout as sleep } from "node:timers/promises";
import { HubError, messageOf } from "../errors.ts";

export interface HubClientOptions {
  /** Default: `https://huggingface.co`. */
  endpoint?: string;
  /** For models that are not open to all. */
  token?: string;
  signal?: AbortSignal;
  /** Waits between tries, and the longest silence that is borne, in ms; tests make them short. */
  retryMsMin?: number;
  silenceMsMax?: number;
}

export const HUB_ENDPOINT = "https://huggingface.co";

/** Tries in a row that bring nothing, at most. */
const TRIES_MAX = 6;
const RETRY_MS_MIN = 1000, RETRY_MS_MAX = 30_000;
const SILENCE_MS_MAX = 30_000;
const REDIRECTS_MAX = 5;

/** What may be different next time: too many requests, and what servers say of themselves. */
const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);

/**
 * Asks a model hub, again and again where the connection or the server fails; every wait has a bound.
 *
 * Routes (https://huggingface.co/docs/hub/api): `/api/models/OWNER/NAME/revision/REVISION?blobs=true` lists files,
 * `/OWNER/NAME/resolve/REVISION/FILE` is a file, mostly by way of a redirection to another host.
 */
export class HubClient {
  readonly #endpoint: URL;
  readonly #options: HubClientOptions;

  constructor(options: HubClientOptions = {}) {
    this.#endpoint = new URL(options.endpoint || HUB_ENDPOINT);
    this.#options = options;
  }

  /** A small file, whole. Throws `HubError` if it has more than `byteLengthMax` bytes. */
  async bytes(path: string, byteLengthMax: number): Promise<Uint8Array<ArrayBuffer>> {
    const pieces: Uint8Array[] = [];
    let byteLength = 0;
    for await (const piece of this.#stream(path)) {
      pieces.push(piece);
      byteLength += piece.byteLength;
      if (byteLength <= byteLengthMax) continue;
      throw new HubError(`it has more than ${byteLengthMax} bytes`, { url: this.#url(path) });
    }
    const all = new Uint8Array(byteLength);
    let at = 0;
    for (const piece of pieces) {
      all.set(piece, at);
      at += piece.byteLength;
    }
    return all;
  }

  /** Bytes `from` to `to` of a file of `byteLength`, as they come. Where a connection breaks the next one goes on. */
  range(
    path: string,
    range: { from: number; to: number; byteLength: number },
  ): AsyncGenerator<Uint8Array, void, void> {
    return this.#stream(path, range);
  }

  async *#stream(
    path: string,
    range?: { from: number; to: number; byteLength: number },
  ): AsyncGenerator<Uint8Array, void, void> {
    const { signal } = this.#options;
    let at = range?.from ?? 0, tries = 0;
    for (;;) {
      signal?.throwIfAborted();
      try {
        for await (const all of this.#connection(path, range && { ...range, from: at })) {
          // A server may send more than it was asked for.
          const piece = range ? all.subarray(0, range.to - at) : all;
          at += piece.byteLength;
          tries = 0;
          yield piece;
          if (range && at >= range.to) return;
        }
        if (!range || at >= range.to) return;
        throw new Passing("the connection ended early");
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof HubError) throw error;
        // Without ranges there is no going on: who has seen a part would see it twice.
        const isOver = ++tries > TRIES_MAX || (!range && at > 0);
        if (isOver) {
          const problem = `${messageOf(error)}, ${tries} times in a row`;
          throw new HubError(problem, { url: this.#url(path) }, { cause: error });
        }
        await sleep(this.#delayMs(tries, error), undefined, { signal }).catch((error) => {
          signal?.throwIfAborted();
          throw error;
        });
      }
    }
  }

  async *#connection(
    path: string,
    range?: { from: number; to: number; byteLength: number },
  ): AsyncGenerator<Uint8Array, void, void> {
    const cut = new AbortController(), { signal } = this.#options;
    const silence = this.#options.silenceMsMax ?? SILENCE_MS_MAX;
    const abort = () => cut.abort(signal!.reason);
    signal?.addEventListener("abort", abort);
    try {
      const response = await within(this.#answer(path, cut.signal, range), cut, silence);
      this.#check(path, response, range);
      const reader = response.body?.getReader();
      while (reader) {
        const read = await within(reader.read(), cut, silence);
        if (read.done || read.value === undefined) return;
        yield read.value;
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      cut.abort(new Passing("it is not wanted any more"));
    }
  }

  /** Follows redirections by hand: a token is for the hub, and not for where it sends us. */
  async #answer(
    path: string,
    signal: AbortSignal,
    range?: { from: number; to: number },
  ): Promise<Response> {
    let url = new URL(this.#url(path));
    for (let redirects = 0; redirects <= REDIRECTS_MAX; redirects++) {
      const headers = new Headers({ "user-agent": "flashpipe" });
      const { token } = this.#options;
      if (token && url.origin === this.#endpoint.origin) {
        headers.set("authorization", `Bearer ${token}`);
      }
      if (range) headers.set("range", `bytes=${range.from}-${range.to - 1}`);
      const response = await fetch(url, { headers, signal, redirect: "manual" });
      const location = response.headers.get("location");
      if (response.status < 300 || response.status > 399 || location === null) return response;
      await response.body?.cancel();
      url = new URL(location, url);
    }
    throw new HubError("it redirects without end", { url: this.#url(path) });
  }

  #check(
    path: string,
    response: Response,
    range?: { from: number; to: number; byteLength: number },
  ): void {
    const { status, headers } = response, url = this.#url(path);
    if (PASSING.has(status)) {
      const seconds = Number(headers.get("retry-after") ?? NaN);
      throw new Passing(`the server answers ${status}`, 1000 * seconds);
    }
    if (status === 401 || status === 403) {
      const hint = this.#options.token
        ? "the token in HF_TOKEN does not open it"
        : "it is not open to all, or does not exist: HF_TOKEN may hold a token";
      throw new HubError(hint, { url, status });
    }
    if (status === 404) throw new HubError("there is no such model or file", { url, status });
    const wanted = range ? 206 : 200;
    // A whole file is as good as its first range.
    const isWhole = status === 200 && range?.from === 0;
    if (status !== wanted && !isWhole) {
      throw new HubError(`the server answers ${status}, not ${wanted}`, { url, status });
    }
    if (!range || isWhole) return;
    const told = headers.get("content-range");
    if (told === `bytes ${range.from}-${range.to - 1}/${range.byteLength}`) return;
    throw new HubError(`the server sends another range: ${told}`, { url, status });
  }

  #url(path: string): string {
    // A mirror may live in a folder of its host.
    return new URL(this.#endpoint.pathname.replace(/\/$/, "") + path, this.#endpoint).href;
  }

  #delayMs(tries: number, error: unknown): number {
    const least = this.#options.retryMsMin ?? RETRY_MS_MIN;
    const own = Math.min(RETRY_MS_MAX, least * 2 ** (tries - 1));
    const asked = error instanceof Passing ? error.waitMs : NaN;
    return Number.isFinite(asked) ? Math.min(RETRY_MS_MAX, Math.max(own, asked)) : own;
  }
}

/** What may be different next time. */
class Passing extends Error {
  readonly waitMs: number;

  constructor(message: string, waitMs = NaN) {
    super(message);
    this.waitMs = waitMs;
  }
}

/**
 * Waits for `wait`, or until `cut` is aborted; aborts it itself when nothing comes for so long. No promise outlives the wait: one that did
 * would hold on to whatever was read meanwhile.
 */
async function within<T>(wait: Promise<T>, cut: AbortController, silenceMsMax: number): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const abort = () => reject(cut.signal.reason);
  const timer = setTimeout(() => cut.abort(new Passing("nothing came")), silenceMsMax);
  cut.signal.addEventListener("abort", abort);
  wait.then(resolve, reject);
  if (cut.signal.aborted) abort();
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    cut.signal.removeEventListener("abort", abort);
  }
}
