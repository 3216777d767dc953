import type { PassPlan } from "../arena.ts";
import { PASS_COUNT, passIndex } from "./control.ts";
import type { Control } from "./control.ts";
import { LandingBell } from "./landing.ts";
import type { PipelineOptions } from "./options.ts";
import type { Sequence } from "./sequence.ts";

/**
 * Passes: lists of neurons on their way from the predictor to the lanes. A layer's list is one pass, or several if it is
 * longer than the slots. All numbers count from 0 and wrap at 2^32.
 *
 *   passPublished       passes that the predictor has handed over
 *   passDone, per lane  passes that the lane is through with
 *
 * Pass p lies in the arrays (of its layer's arena) and the descriptor number p % PASS_COUNT, so it may be filled once all
 * lanes are done with pass p - PASS_COUNT. Its neurons are in ascending order; `order` indexes them, hits first, then misses, and a miss
 * may be computed when its landing flag is up.
 */

/** Words of a pass descriptor, written by the predictor. */
const NEURON_COUNT = 0;
const HIT_COUNT = 1;
const IS_LAST = 2;
/** When so many tickets have landed, all misses of the pass have. */
const TICKETS = 3;

/** Views of a pass's arrays in the arena; see `PassPlan`. Entries of `flags` count from the first landing flag. */
export interface PassArrays {
  addresses: Uint32Array;
  neurons: Uint32Array;
  order: Uint32Array;
  flags: Uint32Array;
}

/** What lanes must know of a pass beside its arrays. */
export interface PassFacts {
  count: number;
  hitCount: number;
  /** The layer's list ends with this pass. */
  isLast: boolean;
  tickets: number;
}

/** What the writer must know of the pipeline. */
export interface PassOptions {
  arenas: { memory: { buffer: ArrayBufferLike }; plan: { passes: PassPlan[] } }[];
  passNeuronsMax: number;
}

/** The arrays of each arena's passes. */
function arraysOf({ arenas, passNeuronsMax }: PassOptions): PassArrays[][] {
  return arenas.map(({ memory, plan }) => {
    const words = (address: number) => new Uint32Array(memory.buffer, address, passNeuronsMax);
    return plan.passes.map((pass) => ({
      addresses: words(pass.addresses),
      neurons: words(pass.neurons),
      order: words(pass.order),
      flags: words(pass.flags),
    }));
  });
}

/** The predictor's end. */
export class PassWriter {
  readonly #control: Control;
  readonly #arrays: PassArrays[][];
  readonly #published: Sequence;
  readonly #done: Sequence[];
  /** Number of the pass that is filled next. */
  number = 0;

  constructor(control: Control, options: PassOptions) {
    this.#control = control;
    this.#arrays = arraysOf(options);
    this.#published = control.sequence("passPublished");
    this.#done = control.layout.passDone.map((at) => control.sequenceAt(at));
  }

  /** The next pass's arrays, for a layer in arena `arena`; see `awaitArrays`. */
  arrays(arena: number): PassArrays {
    return this.#arrays[arena][passIndex(this.number)];
  }

  /** Waits until the next pass's arrays are free. */
  awaitArrays(): void {
    this.awaitDone((this.number - PASS_COUNT) | 0);
  }

  /** The same without a bound: for a stream that runs ahead of the next request. */
  awaitArraysIdle(): void {
    for (const done of this.#done) done.waitIdle((this.number - PASS_COUNT + 1) | 0);
  }

  /** Waits until all lanes are done with pass number `pass`. */
  awaitDone(pass: number): void {
    for (const done of this.#done) done.waitFor((pass + 1) | 0, `lanes to finish pass ${pass}`);
  }

  /** Number of the last pass that all lanes are done with. */
  get done(): number {
    let least = this.#done[0].value;
    for (let lane = 1; lane < this.#done.length; lane++) {
      const done = this.#done[lane].value;
      if (((done - least) | 0) < 0) least = done;
    }
    return (least - 1) | 0;
  }

  /** Hands the next pass, whose arrays are filled, to the lanes. */
  publish({ count, hitCount, isLast, tickets }: PassFacts): void {
    const at = this.#control.passAt(this.number), words = this.#control.words;
    words[at + NEURON_COUNT] = count;
    words[at + HIT_COUNT] = hitCount;
    words[at + IS_LAST] = isLast ? 1 : 0;
    words[at + TICKETS] = tickets;
    this.number = (this.number + 1) | 0;
    this.#published.advance();
  }
}

/** A lane's end: takes pass after pass. The facts are those of the pass at hand. */
export class PassReader implements PassFacts {
  readonly #control: Control;
  readonly #plans: PassPlan[][];
  readonly #arrays: PassArrays[][];
  readonly #published: Sequence;
  readonly #done: Sequence;
  readonly #landings: LandingBell;
  /** Landing flags of the pass's order. */
  #flags: Uint32Array;
  #taken = 0;
  /** Addresses of the pass's arrays. */
  plan: PassPlan;
  count = 0;
  hitCount = 0;
  isLast = false;
  tickets = 0;

  constructor(control: Control, options: PipelineOptions, laneIndex: number) {
    this.#control = control;
    this.#plans = options.arenas.map(({ plan }) => plan.passes);
    this.#arrays = arraysOf(options);
    this.#published = control.sequence("passPublished");
    this.#done = control.sequenceAt(control.layout.passDone[laneIndex]);
    this.#landings = new LandingBell(control, laneIndex);
    this.#flags = this.#arrays[0][0].flags;
    this.plan = this.#plans[0][0];
  }

  /** Waits for the next pass, of layer `layer` in arena `arena`. */
  take(layer: number, arena: number): void {
    const pass = this.#taken, words = this.#control.words;
    this.#taken = (pass + 1) | 0;
    this.#published.waitFor(this.#taken, `the predictor's list of layer ${layer}`);
    const at = this.#control.passAt(pass);
    this.count = words[at + NEURON_COUNT];
    this.hitCount = words[at + HIT_COUNT];
    this.isLast = words[at + IS_LAST] === 1;
    this.tickets = words[at + TICKETS];
    this.plan = this.#plans[arena][passIndex(pass)];
    this.#flags = this.#arrays[arena][passIndex(pass)].flags;
  }

  /** Whether entries `from` to `to` of the order, misses, are there. */
  haveLanded(from: number, to: number): boolean {
    const words = this.#control.words, flagBase = this.#control.layout.flags;
    for (let i = from; i < to; i++) {
      if (Atomics.load(words, flagBase + this.#flags[i]) === 0) return false;
    }
    return true;
  }

  /** Waits until they are. */
  awaitLanded(from: number, to: number): void {
    const words = this.#control.words, flagBase = this.#control.layout.flags;
    for (let i = from; i < to; i++) {
      while (Atomics.load(words, flagBase + this.#flags[i]) === 0) {
        const landed = this.#landings.landed;
        if (Atomics.load(words, flagBase + this.#flags[i]) !== 0) break;
        // Sleep over half of what is missing, so that a long list wakes this lane seldom.
        const missing = (this.tickets - landed) | 0;
        const target = (landed + Math.max(1, missing >> 1)) | 0;
        this.#landings.waitFor(target, `miss ${i} of ${to} of the list to land`);
      }
    }
  }

  /** This lane is through with the pass: its arrays and slots may be used again. */
  finish(): void {
    this.#done.advance();
  }
}
