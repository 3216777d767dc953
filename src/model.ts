import type { AuditBoardShare } from "./audit/board.ts";
import { ChatTemplate } from "./chat_template.ts";
import type { ChatMessage } from "./chat_template.ts";
import type { DiskFacts } from "./flash/bypass.ts";
import type { ReaderBackend } from "./flash/reader_options.ts";
import type { FlashHeader } from "./format/header.ts";
import { JsonGuides } from "./json_guide.ts";
import type { KernelBuild } from "./kernels.ts";
import { Client } from "./pipeline/client.ts";
import type { ClientParts, Observation, Row } from "./pipeline/client.ts";
import { BIASES_MAX } from "./pipeline/request.ts";
import type { EndReason, Request } from "./pipeline/request.ts";
import { traceJson } from "./pipeline/trace.ts";
import type { Plan } from "./plan.ts";
import { summarize } from "./statistics.ts";
import type { Statistics } from "./statistics.ts";
import { StopStrings } from "./stop_strings.ts";
import { TextCodec } from "./text_stream.ts";

/** A token that was generated. */
export interface Token {
  id: number;
  /**
   * Its text; empty while a character is incomplete, or if the model has no tokenizer. If the text ends within a
   * character, the last token shows what there is of it (as U+FFFD).
   */
  text: string;
}

/** How to generate. */
export interface GenerateOptions {
  /** Most new tokens. Default 128. */
  maxTokens?: number;
  /** 0 (default): always the likeliest token. */
  temperature?: number;
  /** Sample from so many of the likeliest tokens. Default 0: from all. */
  topK?: number;
  /** Sample from the likeliest tokens whose probabilities reach this sum. Default 1: from all. */
  topP?: number;
  /** Sample from tokens at least so likely as this share of the likeliest. Default 0: from all. */
  minP?: number;
  /** Makes tokens less likely that the text has already: their logits are divided by it, negative ones multiplied. Default 1. */
  repetitionPenalty?: number;
  /** What is added to the logits of tokens, by id; -Infinity forbids one. */
  logitBias?: ReadonlyMap<number, number> | Readonly<Record<number, number>>;
  /** Seed of the sampling: a whole number. Default 0. */
  seed?: number;
  /** A JSON schema, as text or as what it says: the text will be JSON of it, unless it ends early. */
  jsonSchema?: string | object;
  /** Strings that end the text before them, wherever tokens part. */
  stop?: readonly string[];
  /** Do not stop at the end-of-text token. */
  ignoreEos?: boolean;
  signal?: AbortSignal;
  /** Hears now and then how many positions of the prompt are done (those under way in part), until the first token comes. */
  onPrompt?: (positions: number) => void;
}

/** What `open` joins together. */
export interface ModelParts extends ClientParts {
  path: string;
  disk: DiskFacts;
  traces: { name: string; buffer: SharedArrayBuffer }[];
  build: KernelBuild;
  backend: ReaderBackend;
  damaged: string | null;
  earlyLook: boolean;
  audit?: AuditBoardShare;
}

/** An open model with its pipeline running. Made by `open`; ended by `close` or `await using`. */
export class Model {
  readonly path: string;
  readonly header: FlashHeader;
  readonly plan: Plan;
  readonly disk: DiskFacts;
  /** Which kernels run here. */
  readonly build: KernelBuild;
  /** What is wrong with the newer header, if the one before it had to be used; else null. */
  readonly damaged: string | null;
  /** How readers ask the kernel. */
  readonly backend: ReaderBackend;
  /** Whether reads are started by an early look. */
  readonly earlyLook: boolean;
  readonly #parts: ModelParts;
  readonly #codec: TextCodec | undefined;
  #template: ChatTemplate | null | undefined;
  readonly #client: Client;
  readonly #guides: JsonGuides;
  #isStopped = false;
  /** Settles when the request before is over: requests take turns. */
  #turn: Promise<void> = Promise.resolve();
  #isClosed = false;
  #closing: Promise<void> | undefined;

  constructor(parts: ModelParts) {
    const { path, header, plan, disk, build, earlyLook } = parts;
    this.path = path;
    this.header = header;
    this.plan = plan;
    this.disk = disk;
    this.build = build;
    this.backend = parts.backend;
    this.damaged = parts.damaged;
    this.earlyLook = earlyLook;
    this.#parts = parts;
    this.#client = new Client(parts);
    this.#guides = new JsonGuides(header);
    if (header.tokenizer) this.#codec = new TextCodec(header.tokenizer, path);
  }

  /** Why the last generation ended. */
  get endReason(): EndReason | "stop-string" | undefined {
    return this.#isStopped ? "stop-string" : this.#client.endReason;
  }

  /** Positions that prompt and answer may take together. */
  get contextLength(): number {
    return this.plan.shape.contextLength;
  }

  /** Ids of a text, with what the tokenizer puts in front. Throws `RangeError` if the file has no tokenizer. */
  encode(text: string): number[] {
    if (!this.#codec) {
      throw new RangeError(`Cannot use text as ${this.path} has no tokenizer: pass token ids`);
    }
    return this.#codec.encode(text);
  }

  /** Whether the model came with a template for conversations. */
  get canChat(): boolean {
    return this.#chatTemplate() !== null;
  }

  /**
   * Ids of a conversation, up to where the model is to answer, as the template wants it that the model came with.
   *
   * @throws {RangeError} there is no template, or it refuses the conversation
   * @throws {ModelFileError} the template cannot be read
   */
  encodeChat(messages: readonly ChatMessage[]): number[] {
    const template = this.#chatTemplate();
    if (!template || !this.#codec) {
      throw new RangeError(`Cannot hold a conversation as ${this.path} has no chat template`);
    }
    // It writes what stands before a text itself.
    return this.#codec.encode(template.render(messages), false);
  }

  #chatTemplate(): ChatTemplate | null {
    const { path, header: { tokenizer } } = this;
    return this.#template ??= ChatTemplate.of(tokenizer?.config ?? null, path);
  }

  /** Text of ids; empty if the file has no tokenizer. */
  decode(ids: number[]): string {
    return this.#codec?.decode(ids) ?? "";
  }

  /**
   * Goes on from a prompt, token by token. Generations take turns in the order in which their first token was asked
   * for; leaving the loop stops this one.
   *
   * @param prompt text, or token ids
   * @throws {RangeError} an option that makes no sense, or a prompt that is empty or longer than the context
   * @throws {FlashReadError} the disk failed; the model is of no use after that
   */
  async *generate(
    prompt: string | ArrayLike<number>,
    options: GenerateOptions = {},
  ): AsyncGenerator<Token, void, void> {
    const ids = this.#idsOf(prompt);
    const request = requestOf(ids.length, options);
    const bias = this.#biasOf(options);
    request.biasCount = bias.length;
    const { jsonSchema, stop: strings = [] } = options;
    const stop = new StopStrings(strings), stopIds = this.#stopIdsOf(strings);
    const stream = this.#codec?.stream(ids);
    const end = await this.#begin(options.signal);
    this.#isStopped = false;
    try {
      using guide = jsonSchema === undefined ? undefined : await this.#guides.guide(jsonSchema);
      request.isGuided = guide !== undefined;
      // A token that ends within a character is held until the next one comes: it may be the last.
      let held: Token | undefined;
      const { signal, onPrompt } = options;
      for await (const id of this.#client.run(ids, request, { bias, guide, signal, onPrompt })) {
        this.#isStopped = stopIds.has(id);
        if (this.#isStopped) break;
        const token = { id, text: stop.push(stream?.push(id) ?? "") };
        if (held) yield held;
        this.#isStopped = stop.isFound;
        const isHeld = stream?.isPending || stop.isHolding;
        held = isHeld && !stop.isFound ? token : undefined;
        if (!held) yield token;
        if (stop.isFound) return;
      }
      if (held) {
        yield { id: held.id, text: held.text + stop.push(stream?.end() ?? "") + stop.end() };
      }
    } finally {
      end();
    }
  }

  /**
   * The logits at each position of `prompt`: Float32Array, positions x vocabulary, row by row. The same
   * forward pass as `generate`. Takes 4 bytes x positions x vocabulary; `eachLogits` does not.
   */
  async logits(prompt: string | ArrayLike<number>, signal?: AbortSignal): Promise<Float32Array> {
    const ids = this.#idsOf(prompt);
    const { vocabSize } = this.header.config;
    const all = new Float32Array(ids.length * vocabSize);
    await this.eachLogits(ids, (row, position) => all.set(row, position * vocabSize), signal);
    return all;
  }

  /**
   * Calls `use` with the logits of each position, f32[vocabulary], a view that is valid during the call. If it returns
   * a promise, the next call waits for that.
   */
  async eachLogits(
    prompt: string | ArrayLike<number>,
    use: (logits: Float32Array, position: number) => unknown,
    signal?: AbortSignal,
  ): Promise<void> {
    for await (const { logits, position } of this.rows(prompt, signal)) await use(logits, position);
  }

  /**
   * Yields the logits of each position, and what each layer saw if the model was opened with `observations: true`:
   * views that are valid until the next row is asked for. The model runs a few rows ahead and waits for its consumer
   * as long as that takes; leaving the loop stops it.
   */
  rows(prompt: string | ArrayLike<number>, signal?: AbortSignal): AsyncGenerator<Row, void, void> {
    return this.#rows("logits", prompt, signal);
  }

  /**
   * Calls `use` with what each layer saw at each position, views that are valid during the call. Computes no
   * logits. For models opened with `observations: true`.
   */
  async eachObservation(
    prompt: string | ArrayLike<number>,
    use: (layers: Observation[], position: number) => unknown,
    signal?: AbortSignal,
  ): Promise<void> {
    for await (const { layers, position } of this.#rows("observe", prompt, signal)) {
      await use(layers, position);
    }
  }

  async *#rows(
    kind: "logits" | "observe",
    prompt: string | ArrayLike<number>,
    signal?: AbortSignal,
  ): AsyncGenerator<Row, void, void> {
    const ids = this.#idsOf(prompt);
    const wantsObservations = this.plan.shape.observationRows > 0;
    const request: Request = {
      kind,
      idCount: ids.length,
      maxTokens: 0,
      ignoreEos: true,
      wantsObservations,
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      biasCount: 0,
      isGuided: false,
      masksBefore: 0,
      seed: 0,
    };
    const end = await this.#begin(signal);
    try {
      yield* this.#client.rows(ids, request, signal);
    } finally {
      end();
    }
  }

  /** What the last (or the running) request cost; see `Statistics`. */
  stats(): Statistics {
    return summarize(this.#parts.control, this.plan, this.#parts);
  }

  /** The recorded spans as Chrome/Perfetto JSON; opened with `trace: true` only. */
  traceJson(): string {
    if (this.#parts.traces.length === 0) {
      throw new RangeError("Cannot write a trace as the model was opened without `trace: true`");
    }
    return traceJson(this.#parts.traces);
  }

  /** Stops what runs, ends all workers, gives the memory back. May be called twice. */
  close(): Promise<void> {
    this.#isClosed = true;
    this.#closing ??= Promise.all([this.#parts.crew.close(), this.#guides.close()]).then(() => {});
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #idsOf(prompt: string | ArrayLike<number>): number[] {
    const ids = typeof prompt === "string" ? this.encode(prompt) : Array.from(prompt);
    const { vocabSize } = this.header.config;
    if (ids.length === 0) throw new RangeError("Cannot go on from an empty prompt");
    if (ids.length > this.contextLength) {
      throw new RangeError(
        `Cannot take a prompt of ${ids.length} tokens: the context has ${this.contextLength}`,
      );
    }
    for (const id of ids) {
      if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
        throw new RangeError(`Cannot take token ${id}: ids go from 0 to ${vocabSize - 1}`);
      }
    }
    return ids;
  }

  /** Strings that are tokens which no text has. Throws `RangeError` if the file has no tokenizer. */
  #stopIdsOf(strings: readonly string[]): ReadonlySet<number> {
    const codec = this.#codec;
    if (strings.length > 0 && !codec) {
      throw new RangeError(`Cannot stop at a text as ${this.path} has no tokenizer`);
    }
    return new Set(strings.flatMap((string) => codec!.specialIds(string)));
  }

  #biasOf({ logitBias = {} }: GenerateOptions): [number, number][] {
    const { vocabSize } = this.header.config;
    const entries = logitBias instanceof Map
      ? [...logitBias]
      : Object.entries(logitBias).map(([id, value]): [number, number] => [Number(id), value]);
    if (entries.length > BIASES_MAX) {
      throw new RangeError(`Cannot take ${entries.length} biases: ${BIASES_MAX} at most`);
    }
    for (const [id, value] of entries) {
      if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
        throw new RangeError(`Cannot add to the logit of token ${id}: ids go to ${vocabSize - 1}`);
      }
      if (Number.isNaN(value) || Math.fround(value) === Infinity) {
        throw new RangeError(`Cannot add ${value} to the logit of token ${id}`);
      }
    }
    return entries;
  }

  /** Waits for this request's turn; returns what ends it. */
  async #begin(signal?: AbortSignal): Promise<() => void> {
    signal?.throwIfAborted();
    const before = this.#turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#turn = before.then(() => promise);
    try {
      // The request before may never be over, if its consumer lost interest when the pipeline stopped.
      await orAborted(Promise.race([before, this.#parts.crew.stopped]), signal);
      this.#checkAlive();
    } catch (error) {
      resolve();
      throw error;
    }
    return resolve;
  }

  #checkAlive(): void {
    if (this.#isClosed) throw new Error("Cannot use a model that is closed");
    this.#client.checkAlive();
  }
}

function requestOf(idCount: number, options: GenerateOptions): Request {
  const { maxTokens = 128, temperature = 0, seed = 0, ignoreEos = false } = options;
  const { topK = 0, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
  if (!Number.isInteger(maxTokens) || maxTokens < 1) {
    throw new RangeError(`Cannot generate ${maxTokens} tokens: a whole number, at least 1`);
  }
  if (!(temperature >= 0 && temperature < Infinity)) {
    throw new RangeError(`Cannot sample with temperature ${temperature}: a number, 0 or more`);
  }
  if (!(topP > 0 && topP <= 1)) {
    throw new RangeError(`Cannot sample with top-p ${topP}: a number above 0, up to 1`);
  }
  if (!Number.isInteger(topK) || topK < 0) {
    throw new RangeError(`Cannot sample with top-k ${topK}: a whole number, 0 for all`);
  }
  if (!(minP >= 0 && minP <= 1)) {
    throw new RangeError(`Cannot sample with min-p ${minP}: a number from 0 to 1`);
  }
  if (!(repetitionPenalty >= 0.01 && repetitionPenalty <= 100)) {
    throw new RangeError(
      `Cannot sample with a penalty of ${repetitionPenalty}: a number from 0.01 to 100`,
    );
  }
  if (!Number.isInteger(seed)) {
    throw new RangeError(`Cannot sample with seed ${seed}: a whole number`);
  }
  return {
    kind: "generate",
    idCount,
    maxTokens: Math.min(maxTokens, 2 ** 31 - 1),
    temperature,
    topK: Math.min(topK, 2 ** 31 - 1),
    topP,
    minP,
    repetitionPenalty,
    biasCount: 0,
    isGuided: false,
    masksBefore: 0,
    seed: seed | 0,
    ignoreEos,
    wantsObservations: false,
  };
}

/** Waits for `promise`, or throws the signal's reason. */
async function orAborted(promise: Promise<void>, signal?: AbortSignal): Promise<void> {
  if (!signal) return await promise;
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = () => reject(signal.reason);
  signal.addEventListener("abort", abort);
  try {
    await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
