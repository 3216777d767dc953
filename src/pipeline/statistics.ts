/**
 * Indices of the numbers that each thread counts in its part of the control memory. Times are in ms. A thread
 * only adds to its own; the main thread reads them, a moment old.
 */

/** A compute lane. */
export const LANE = {
  /** Tokens that went through the model (prompt included). */
  steps: 0,
  stepMs: 1,
  waitPredictorMs: 2,
  waitFlashMs: 3,
  waitLanesMs: 4,
  sampleMs: 5,
  /** Active neurons (activation not zero) among those computed, of this lane. */
  active: 6,
  /** ... and among those that lay in a slot before the token. */
  activeHits: 7,
  /** Lane 0: when the numbers were last brought up to date, and how far the request is (0 prompt, 1 decoding, 2 done). */
  atMs: 8,
  stage: 9,
  /** Neurons computed, counted for each position, of this lane. */
  computed: 10,
  /** Lane 0: tokens that were drafted, and those of them that were right. */
  drafted: 11,
  accepted: 12,
  /** CPU time of the thread, polls included; 0 where the runtime does not tell. */
  cpuMs: 13,
  /** Lane 0: positions of prompts that were in the KV cache already. */
  known: 14,
} as const;

/** The predictor. */
export const PREDICTOR = {
  /** Neurons whose read the early look began, wanted or not. */
  earlyIssued: 0,
  earlyDropped: 1,
  passes: 2,
  /** Time in which the predictor worked, not waiting. */
  earlyMs: 3,
  lateMs: 4,
  /** ... of which: the early look's arithmetic; keeping cache, slots and read plan (and at the end of a step); handing reads over. */
  lookMs: 5,
  manageMs: 6,
  submitMs: 7,
  /** As a lane's. */
  cpuMs: 8,
} as const;

/**
 * A layer: what became of the neurons that were listed. The predictor counts them before it hands a list over, so they
 * are complete whenever lane 0 has computed it.
 */
export const LAYER = {
  /** Neurons that were named by the late look (all of them in dense). */
  listed: 0,
  hits: 1,
  /** Misses whose read the early look had begun. */
  earlyStarted: 2,
  lateMisses: 3,
} as const;

/** A flash reader. */
export const READER = {
  reads: 0,
  /** Bytes read from the disk, covering blocks counted. */
  bytes: 1,
  busyMs: 2,
  /** Time in which at least one read was in flight, counted by the reader that ended it. */
  flashMs: 3,
  /** Time in which it copied what merged reads brought to slots. */
  copyMs: 4,
} as const;
