import type { Lane } from "../lane/lane.ts";
import { REQUEST_RING, TOKEN_RING } from "./control.ts";
import type { Control, Snapshot } from "./control.ts";
import { DraftBalance } from "./draft_balance.ts";
import type { PipelineOptions } from "./options.ts";
import { PromptLookup } from "./prompt_lookup.ts";
import type { Ring } from "./ring.ts";
import { Sampler } from "./sampler.ts";
import type { Sampling } from "./sampler.ts";
import type { Sequence } from "./sequence.ts";
import { LANE } from "./statistics.ts";
import { emptyStep } from "./step.ts";
import type { Step } from "./step.ts";

/**
 * What the main thread asks lane 0 to do, as a record in the request ring: run the ids that it wrote to the ids buffer through the
 * model, then either go on by sampling (`generate`) or hand every position out: its logits (`logits`), or only what the
 * layers saw (`observe`).
 */
export interface Request extends Sampling {
  kind: "generate" | "logits" | "observe";
  idCount: number;
  /** Most new tokens. */
  maxTokens: number;
  /** Do not stop at the end-of-text token. */
  ignoreEos: boolean;
  /** Hand out what each layer saw, too. */
  wantsObservations: boolean;
  /** Tokens whose logits have a bias: the first so many of `RequestBuffer`. */
  biasCount: number;
  /** Before each token lane 0 waits for a mask of those that may come. */
  isGuided: boolean;
  /** What the sequence of masks was before the first of them. */
  masksBefore: number;
}

/** Tokens with a bias, at most. */
export const BIASES_MAX = 4096;

/** What a request has beside its record, in memory that the main thread and lane 0 share; it stands while the request is served. */
export class RequestBuffer {
  /** i32[context] */
  readonly ids: Int32Array;
  /** i32[BIASES_MAX], f32[BIASES_MAX] */
  readonly biasIds: Int32Array;
  readonly biasValues: Float32Array;
  /** i32[vocabulary / 32]: bits of tokens that may come next. The main thread writes it before it says so. */
  readonly mask: Int32Array;

  constructor(buffer: SharedArrayBuffer, contextLength: number, vocabSize: number) {
    this.ids = new Int32Array(buffer, 0, contextLength);
    this.biasIds = new Int32Array(buffer, 4 * contextLength, BIASES_MAX);
    this.biasValues = new Float32Array(buffer, 4 * (contextLength + BIASES_MAX), BIASES_MAX);
    this.mask = new Int32Array(buffer, 4 * (contextLength + 2 * BIASES_MAX));
    if (this.mask.length < vocabSize / 32) {
      throw new RangeError("The buffer has no room for a mask");
    }
  }

  static byteLength(contextLength: number, vocabSize: number): number {
    return 4 * (contextLength + 2 * BIASES_MAX + Math.ceil(vocabSize / 32));
  }
}

const KINDS = ["generate", "logits", "observe"] as const;

/** Why a generation ended; in the token ring, as the token of the last record. */
export const END_REASONS = [
  "max-tokens",
  "end-of-text",
  "context-full",
  "cancelled",
  "nothing-allowed",
] as const;
export type EndReason = (typeof END_REASONS)[number];

/** Marks the record that ends a request. */
export const END_MARK = 1;

const float = new Float32Array(1);
const floatBits = new Int32Array(float.buffer);

/** Words of a record that are f32. */
const FLOATS = ["temperature", "topP", "minP", "repetitionPenalty"] as const;
const WHOLES = ["idCount", "maxTokens", "seed", "topK", "biasCount", "masksBefore"] as const;
const FLAGS = ["ignoreEos", "wantsObservations", "isGuided"] as const;

/** Main thread: writes a request; false if the ring is full. */
export function pushRequest(control: Control, ring: Ring, request: Request): boolean {
  let at = ring.reserve();
  if (at < 0) return false;
  const words = control.words;
  words[at++] = KINDS.indexOf(request.kind);
  for (const field of WHOLES) words[at++] = request[field];
  for (const field of FLAGS) words[at++] = request[field] ? 1 : 0;
  for (const field of FLOATS) {
    float[0] = request[field];
    words[at++] = floatBits[0];
  }
  ring.publish();
  return true;
}

function readRequest(words: Int32Array, at: number): Request {
  const floatAt = (index: number) => {
    floatBits[0] = words[index];
    return float[0];
  };
  const kind = KINDS[words[at++]];
  const wholes = WHOLES.map((field) => [field, words[at++]]);
  const flags = FLAGS.map((field) => [field, words[at++] === 1]);
  const floats = FLOATS.map((field) => [field, floatAt(at++)]);
  return { kind, ...Object.fromEntries([...wholes, ...flags, ...floats]) };
}

/** Lane 0's own loop: takes requests, leads the lanes through their steps, samples, hands tokens out. */
export class Leader {
  readonly #lane: Lane;
  readonly #options: PipelineOptions;
  readonly #words: Int32Array;
  readonly #buffer: RequestBuffer;
  readonly #ids: Int32Array;
  readonly #requests: Ring;
  readonly #tokens: Ring;
  readonly #requested: Sequence;
  readonly #masksGiven: Sequence;
  readonly #tokensOut: Sequence;
  readonly #tokensTaken: Sequence;
  readonly #rowsProduced: Sequence;
  readonly #rowsConsumed: Sequence;
  readonly #rows: Float32Array[];
  /** Ids whose keys and values are in the KV cache, from position 0 on, and how many of the text at hand are. */
  readonly #known: Int32Array;
  #knownCount = 0;
  #requestCount = 0;
  #rowCount = 0;

  constructor(lane: Lane, options: PipelineOptions, request: SharedArrayBuffer) {
    const { control } = lane.seat, { layout } = control;
    this.#lane = lane;
    this.#options = options;
    this.#words = control.words;
    const { contextLength } = options;
    this.#buffer = new RequestBuffer(request, contextLength, options.sizes.vocabSize);
    this.#ids = this.#buffer.ids;
    this.#known = new Int32Array(contextLength);
    this.#requests = control.ring(layout.requests, REQUEST_RING);
    this.#tokens = control.ring(layout.tokens, TOKEN_RING);
    this.#requested = control.sequence("requested");
    this.#masksGiven = control.sequence("masksGiven");
    this.#tokensOut = control.sequence("tokensOut");
    this.#tokensTaken = control.sequence("tokensTaken");
    this.#rowsProduced = control.sequence("rowsProduced");
    this.#rowsConsumed = control.sequence("rowsConsumed");
    const { logitsRows, sizes, arenas: [{ memory, plan }] } = options;
    this.#rows = Array.from(
      { length: logitsRows },
      (_, row) =>
        new Float32Array(memory.buffer, plan.logits + row * plan.logitsStride, sizes.vocabSize),
    );
  }

  /** Serves requests until the pipeline stops (`PipelineStoppedError`). */
  run(): never {
    for (;;) {
      this.#requested.waitIdle((this.#requestCount + 1) | 0);
      this.#requestCount = (this.#requestCount + 1) | 0;
      const request = readRequest(this.#words, this.#requests.peek());
      this.#requests.release();
      this.#mark("begin", 0);
      const reason = request.kind === "generate"
        ? this.#generate(request)
        : this.#handOutRows(request);
      // The main thread may write the next ids as soon as it hears of the end.
      this.#known.set(this.#ids.subarray(0, this.#knownCount));
      this.#mark("end", 2);
      this.#pushToken(END_REASONS.indexOf(reason), END_MARK);
    }
  }

  #generate(request: Request): EndReason {
    const { sizes, contextLength } = this.#options, { clock } = this.#lane.seat;
    const { idCount, maxTokens, biasCount } = request, ids = this.#ids;
    const { biasIds, biasValues, mask } = this.#buffer, { isGuided, masksBefore } = request;
    const bias = {
      ids: biasIds.subarray(0, biasCount),
      values: biasValues.subarray(0, biasCount),
    };
    const sampler = new Sampler(sizes.vocabSize, request, bias, isGuided ? mask : undefined);
    const step = emptyStep();
    step.position = this.#goOn(idCount);
    if (!this.#takePrompt(idCount, step)) return "cancelled";
    this.#mark("prompt", 1);
    const lookup = new PromptLookup(this.#options.draftsMax);
    const balance = new DraftBalance(this.#options.draftLoss);
    // The row of logits that comes next, and how many drafts the step has beside its first token.
    let row = 0, drafts = 0, stepMs = 0;
    const judge = (accepted: number) => {
      this.#judge(lookup, drafts, accepted);
      balance.draftedStep(stepMs, 1 + accepted);
    };
    for (let count = 1; count <= maxTokens; count++) {
      if (isGuided) {
        this.#masksGiven.waitIdle((masksBefore + count) | 0);
        if (this.#isCancelled()) return "cancelled";
      }
      // The text that a row's logits follow ends before the step's next position.
      const token = this.#sample(sampler, row, step.position + row);
      const isDrafted = row < drafts && token === ids[step.position + row];
      if (row < drafts && !isDrafted) judge(row);
      if (token < 0) return "nothing-allowed";
      // A guide says itself when a text is whole.
      const isEnd = sizes.eosTokenIds.includes(token) && (isGuided || !request.ignoreEos);
      if (isEnd || count === maxTokens) {
        if (isDrafted) judge(row + 1);
        if (isEnd) return "end-of-text";
        this.#pushToken(token, 0);
        break;
      }
      this.#pushToken(token, 0);
      if (isDrafted) {
        // It was right, so what comes after it is there already.
        if (++row === drafts) judge(drafts);
        this.#knownCount = step.position + row;
        continue;
      }
      if (this.#isCancelled()) return "cancelled";
      step.position += row;
      if (step.position === contextLength) return "context-full";
      ids[step.position] = token;
      const room = Math.min(contextLength - step.position - 1, maxTokens - count - 1);
      drafts = balance.allowsDrafts && !isGuided ? lookup.propose(ids, step.position + 1, room) : 0;
      step.positions = step.logits = 1 + drafts;
      const began = clock();
      this.#lane.lead(step, ids.subarray(step.position, step.position + step.positions));
      stepMs = clock() - began;
      if (drafts === 0) balance.plainStep(stepMs);
      this.#knownCount = ++step.position;
      row = 0;
    }
    return "max-tokens";
  }

  /**
   * The position from which a prompt must be computed: behind what it has in common with the text before, whose keys and values are
   * there still, as those of a chat's next question are. They are what they would be now, as no bit depends on how a text was cut into
   * steps. The last token is computed anew: its logits are wanted.
   */
  #goOn(idCount: number): number {
    const most = Math.min(idCount - 1, this.#knownCount), ids = this.#ids, known = this.#known;
    let same = 0;
    while (same < most && ids[same] === known[same]) same++;
    if (!this.#lane.mayGoOnFrom(same)) same = 0;
    this.#lane.seat.statistics[LANE.known] += same;
    return this.#knownCount = same;
  }

  /** `accepted` of the drafts were right. The others went through the model for nothing, and count as no tokens. */
  #judge(lookup: PromptLookup, drafts: number, accepted: number): void {
    const { statistics } = this.#lane.seat;
    lookup.judge(drafts, accepted);
    statistics[LANE.drafted] += drafts;
    statistics[LANE.accepted] += accepted;
    statistics[LANE.steps] -= drafts - accepted;
  }

  /** Takes the prompt through the model in chunks; false if nobody wants it any more. Leaves the step of the next token. */
  #takePrompt(idCount: number, step: Step): boolean {
    const { promptChunk } = this.#options;
    while (step.position < idCount) {
      if (this.#isCancelled()) return false;
      step.positions = Math.min(promptChunk, idCount - step.position);
      const end = step.position + step.positions;
      step.logits = end === idCount ? 1 : 0;
      this.#lane.lead(step, this.#ids.subarray(step.position, end));
      this.#knownCount = step.position = end;
    }
    step.positions = 1;
    return true;
  }

  /** Snapshots the statistics at a border of the request. */
  #mark(snapshot: Snapshot, stage: number): void {
    const { statistics, clock, control } = this.#lane.seat;
    statistics[LANE.atMs] = clock();
    statistics[LANE.stage] = stage;
    control.takeSnapshot(snapshot);
  }

  #sample(sampler: Sampler, row: number, textLength: number): number {
    const { clock, statistics, trace } = this.#lane.seat;
    const began = clock();
    const token = sampler.next(this.#rows[row], this.#ids.subarray(0, textLength));
    const ended = clock();
    statistics[LANE.sampleMs] += ended - began;
    trace?.span("sample", began, ended, token);
    return token;
  }

  /** One row of logits (and observations) a position, as fast as the main thread takes them. */
  #handOutRows({ kind, idCount, wantsObservations }: Request): EndReason {
    const { logitsRows, observationRows, promptChunk } = this.#options;
    const rows = wantsObservations ? Math.min(logitsRows, observationRows) : logitsRows;
    // Half of the rows at a time, so that their taker need not wait.
    const most = Math.max(1, Math.min(promptChunk, rows >> 1));
    const first = this.#rowCount, step = emptyStep();
    step.wantsObservation = wantsObservations;
    this.#knownCount = 0;
    while (step.position < idCount) {
      if (this.#isCancelled()) return "cancelled";
      step.positions = Math.min(most, idCount - step.position);
      this.#rowsConsumed.waitIdle((this.#rowCount - rows + step.positions) | 0);
      step.row = ((this.#rowCount - first) >>> 0) % rows;
      step.logits = kind === "logits" ? step.positions : 0;
      const end = step.position + step.positions;
      this.#lane.lead(step, this.#ids.subarray(step.position, end));
      step.position = end;
      this.#rowCount = (this.#rowCount + step.positions) | 0;
      this.#rowsProduced.advance(step.positions);
    }
    return "max-tokens";
  }

  /** The main thread raises `cancelled` to the number of the request that it no longer wants. */
  #isCancelled(): boolean {
    const cancelled = Atomics.load(this.#words, this.#lane.seat.control.layout.cancelled);
    return ((cancelled - this.#requestCount) | 0) >= 0;
  }

  #pushToken(token: number, mark: number): void {
    let at: number;
    while ((at = this.#tokens.reserve()) < 0) {
      // A slow consumer holds the pipeline, unless it has lost interest.
      if (this.#isCancelled() && mark !== END_MARK) return;
      const taken = this.#tokensTaken.value;
      if (this.#tokens.reserve() < 0) this.#tokensTaken.waitIdle((taken + 1) | 0);
    }
    this.#words[at] = token;
    this.#words[at + 1] = mark;
    this.#tokens.publish();
    this.#tokensOut.advance();
  }
}
