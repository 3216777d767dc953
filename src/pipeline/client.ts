import type { FlashHeader } from "../format/header.ts";
import type { Plan } from "../plan.ts";
import type { Control } from "./control.ts";
import { REQUEST_RING, TOKEN_RING } from "./control.ts";
import type { Crew } from "./crew.ts";
import { END_MARK, END_REASONS, pushRequest, RequestBuffer } from "./request.ts";
import type { EndReason, Request } from "./request.ts";
import { CLOSING_WORD, FAULT_WORD } from "./sequence.ts";
import { positionsDone } from "./step.ts";

/** What a layer saw at one position: f32[hiddenSize] each. */
export interface Observation {
  /** The residual stream before the layer. */
  layerInput: Float32Array;
  /** The input of the FFN: after attention and norm. */
  ffnInput: Float32Array;
}

/** What comes of one position. The arrays are views, valid until the next row is asked for. */
export interface Row {
  position: number;
  /** f32[vocabulary] */
  logits: Float32Array;
  /** What each layer saw; empty unless the model was opened with `observations: true`. */
  layers: Observation[];
}

/** What the main thread shares with lane 0. */
export interface ClientParts {
  header: FlashHeader;
  plan: Plan;
  /** One of each arena. */
  memories: WebAssembly.Memory[];
  control: Control;
  crew: Crew;
  /** See `RequestBuffer`. */
  request: SharedArrayBuffer;
}

/** What a request has beside its ids. */
interface RunOptions {
  /** Tokens and what is added to their logits. */
  bias?: readonly (readonly [number, number])[];
  /** Says before each token which ones may come. */
  guide?: Guide;
  signal?: AbortSignal;
  onPrompt?: (positions: number) => void;
}

/** Chooses what may come next. */
export interface Guide {
  /** One bit a token. */
  mask(): Promise<Int32Array>;
  accept(id: number): void;
  readonly isOver: boolean;
}

/** A sleeping main thread looks at the fault word this often. */
const SLICE_MS = 200;

/** A worker that raised the fault word has so long to say why. */
const REPORT_MS_MAX = 5000;

/**
 * The main thread's end of the rings: sends a request to lane 0 and takes what comes of it, without ever blocking.
 * One request at a time; who calls sees to that.
 */
export class Client {
  readonly #parts: ClientParts;
  readonly #buffer: RequestBuffer;
  #requestCount = 0;
  /** Why the last request ended. */
  endReason: EndReason | undefined;

  constructor(parts: ClientParts) {
    this.#parts = parts;
    this.#buffer = new RequestBuffer(
      parts.request,
      parts.plan.shape.contextLength,
      parts.header.config.vocabSize,
    );
  }

  /** Throws what ended the pipeline, if it ended. */
  checkAlive(): void {
    const { crew, control } = this.#parts;
    if (crew.failure) throw crew.failure;
    if (Atomics.load(control.words, FAULT_WORD) !== 0) throw new Error("The pipeline failed");
  }

  /** Sends a request to lane 0. */
  #send(ids: number[], request: Request, bias: NonNullable<RunOptions["bias"]>): void {
    const { control } = this.#parts;
    request.masksBefore = control.sequence("masksGiven").value;
    this.#buffer.ids.set(ids);
    for (const [index, [id, value]] of bias.entries()) {
      this.#buffer.biasIds[index] = id;
      this.#buffer.biasValues[index] = value;
    }
    const ring = control.ring(control.layout.requests, REQUEST_RING);
    // Requests take turns, so the ring always has room.
    if (!pushRequest(control, ring, request)) throw new Error("The request ring is full");
    this.#requestCount++;
    control.sequence("requested").advance();
  }

  #cancel(): void {
    const { control } = this.#parts, { words, layout } = control;
    Atomics.store(words, layout.cancelled, this.#requestCount);
    // It may wait for a mask that nobody will give.
    control.sequence("masksGiven").advance();
  }

  async #giveMask(guide: Guide): Promise<void> {
    this.#buffer.mask.set(await guide.mask());
    this.#parts.control.sequence("masksGiven").advance();
  }

  /**
   * Runs a request and yields its tokens; cancels it if the consumer leaves or the signal says so.
   *
   * @param bias tokens and what is added to their logits: `biasCount` of the request
   * @param onPrompt hears now and then how many positions of the prompt are done, until the first token comes
   */
  async *run(
    ids: number[],
    request: Request,
    { bias = [], guide, signal, onPrompt }: RunOptions = {},
  ): AsyncGenerator<number> {
    const { control } = this.#parts, { words, layout } = control;
    const tokens = control.ring(layout.tokens, TOKEN_RING);
    const taken = control.sequence("tokensTaken");
    const cancel = () => this.#cancel(), { numLayers } = this.#parts.header.config;
    let isOver = false, tellsPrompt = onPrompt !== undefined;
    this.endReason = undefined;
    this.#send(ids, request, bias);
    signal?.addEventListener("abort", cancel);
    // It may have been raised between the request's turn and now.
    if (signal?.aborted) cancel();
    try {
      if (guide) await this.#giveMask(guide);
      for (;;) {
        const seen = Atomics.load(words, layout.sequences.tokensOut);
        const at = tokens.peek();
        if (at < 0) {
          await this.#changed(layout.sequences.tokensOut, seen);
          if (tellsPrompt) onPrompt!(Math.min(ids.length, positionsDone(control, numLayers)));
          continue;
        }
        tellsPrompt = false;
        const token = words[at], isEnd = words[at + 1] === END_MARK;
        tokens.release();
        taken.advance();
        if (isEnd) {
          isOver = true;
          this.endReason = END_REASONS[token];
          break;
        }
        if (guide && !signal?.aborted) {
          guide.accept(token);
          if (guide.isOver) {
            yield token;
            return;
          }
          await this.#giveMask(guide);
        }
        if (!signal?.aborted) yield token;
      }
      signal?.throwIfAborted();
    } finally {
      signal?.removeEventListener("abort", cancel);
      if (!isOver) await this.#drain();
    }
  }

  /** The consumer left: stops the request and takes what is left of its tokens. */
  async #drain(): Promise<void> {
    const { control } = this.#parts, { words, layout } = control;
    const tokens = control.ring(layout.tokens, TOKEN_RING);
    this.#cancel();
    const isStopped = () =>
      [FAULT_WORD, CLOSING_WORD].some((word) => Atomics.load(words, word) !== 0);
    while (!isStopped()) {
      const seen = Atomics.load(words, layout.sequences.tokensOut);
      const at = tokens.peek();
      if (at < 0) {
        await this.#changed(layout.sequences.tokensOut, seen).catch(() => {});
        continue;
      }
      const isEnd = words[at + 1] === END_MARK, token = words[at];
      tokens.release();
      control.sequence("tokensTaken").advance();
      if (!isEnd) continue;
      this.endReason = END_REASONS[token];
      return;
    }
  }

  /**
   * Runs a request for rows and yields them, position by position; the next one frees the place of the one before.
   * Lane 0 runs a few rows ahead and then waits, however long the consumer takes. Cancels the request if the consumer
   * leaves or the signal says so.
   */
  async *rows(ids: number[], request: Request, signal?: AbortSignal): AsyncGenerator<Row> {
    const { control, plan: { shape } } = this.#parts, { words, layout } = control;
    const rowCount = request.wantsObservations
      ? Math.min(shape.logitsRows, shape.observationRows)
      : shape.logitsRows;
    const consumed = control.sequence("rowsConsumed");
    const from = Atomics.load(words, layout.sequences.rowsProduced);
    const cancel = () => this.#cancel();
    // The request yields no token, only its end; meanwhile rows come.
    let isOver = false, taken = 0;
    const over = this.run(ids, request).next().finally(() => isOver = true);
    over.catch(() => {});
    const nextRow = async (): Promise<boolean> => {
      for (;;) {
        const wasOver = isOver, seen = Atomics.load(words, layout.sequences.rowsProduced);
        if (taken < ((seen - from) | 0)) return true;
        if (wasOver) return false;
        await Promise.race([over, this.#changed(layout.sequences.rowsProduced, seen)]);
      }
    };
    const release = () => {
      taken++;
      consumed.advance();
    };
    signal?.addEventListener("abort", cancel);
    if (signal?.aborted) cancel();
    try {
      for (; await nextRow(); release()) {
        const row = taken % rowCount;
        if (signal?.aborted) continue;
        yield {
          position: taken,
          logits: this.#logitsRow(row),
          layers: this.#observations(row),
        };
      }
      await over;
    } finally {
      signal?.removeEventListener("abort", cancel);
      if (!isOver) this.#cancel();
      // The consumer left: lane 0 may wait for the place of a row that nobody wants.
      while (await nextRow().catch(() => false)) release();
    }
    signal?.throwIfAborted();
  }

  #logitsRow(row: number): Float32Array {
    const { memories: [{ buffer }], plan: { arenas: [arena] }, header } = this.#parts;
    const address = arena.logits + row * arena.logitsStride;
    return new Float32Array(buffer, address, header.config.vocabSize);
  }

  #observations(row: number): Observation[] {
    const { memories: [{ buffer }], plan, header } = this.#parts, [arena] = plan.arenas;
    if (plan.shape.observationRows === 0) return [];
    const d = header.config.hiddenSize;
    const address = arena.observations + row * arena.observationStride;
    return Array.from({ length: header.config.numLayers }, (_, layer) => ({
      layerInput: new Float32Array(buffer, address + layer * 8 * d, d),
      ffnInput: new Float32Array(buffer, address + layer * 8 * d + 4 * d, d),
    }));
  }

  /** Resolves when a shared word is no longer `seen` (or after a moment); throws if the pipeline failed. */
  async #changed(index: number, seen: number): Promise<void> {
    const { words } = this.#parts.control;
    Atomics.add(words, index + 1, 1);
    // A pending `waitAsync` does not keep the process alive, and nor do workers that end meanwhile.
    const hold = setTimeout(() => {}, 2 * SLICE_MS);
    try {
      const waiting = Atomics.waitAsync(words, index, seen, SLICE_MS);
      if (waiting.async) await waiting.value;
    } finally {
      clearTimeout(hold);
      Atomics.sub(words, index + 1, 1);
    }
    if (Atomics.load(words, FAULT_WORD) !== 0) throw await this.#failure();
    if (Atomics.load(words, CLOSING_WORD) !== 0) throw new Error("The model was closed");
  }

  /** The failure of the pipeline; its report may come a moment after the fault word. */
  async #failure(): Promise<Error> {
    const { crew } = this.#parts;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => timer = setTimeout(resolve, REPORT_MS_MAX));
    await Promise.race([crew.stopped, late]);
    clearTimeout(timer);
    return crew.failure ?? new Error("A worker failed without a report");
  }
}
