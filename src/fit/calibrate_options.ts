import type { FitMethod } from "./fit_plan.ts";

/** How to calibrate. Sizes may be written as `"512MiB"`. */
export interface CalibrateOptions {
  /** The `.flash` file; it gets predictors, or new ones. */
  path: string;
  /** Text like the one that will be generated. Documents end with `<|endoftext|>`. */
  text: string;
  /** What the text is called in the file's provenance. */
  textName?: string;
  /** Share of the active neurons that the late look is to find, in each layer. Default 0.99. */
  recall?: number;
  /**
   * About how long it should take on two cores, in minutes; the work is planned by this before it begins, and is the same
   * on any machine. Default 2. Large models take longer, as less than 1024 positions teach nothing.
   */
  minutes?: number;
  /** Ceiling of the whole process's memory. Default: half of what is free, at most 2 GiB. */
  memory?: string | number;
  /** What all low-rank predictors may take: a share of the FFN's bytes in f16. Default 0.1. */
  byteShare?: number;
  /** Most positions of the text to look at; the minutes may allow fewer. */
  tokensMax?: number;
  /**
   * `trained` (default) begins where `closed-form` ends: better low-rank predictors, for most of the time. `sign-sketch` and
   * `low-bit` train nothing: they keep the up rows in 1 bit or a few a weight, and need the text for means and thresholds.
   */
  method?: FitMethod;
  /** Bits that `low-bit` keeps of a weight: 2, 3 or 4 (default). */
  bits?: number;
  /** Shares of the FFN that caches will hold: ranks are weighed by the reads at these sizes. Default 10 to 30 %. */
  cacheShares?: readonly number[];
  /** How many neurons found by the early look are worth one read in vain. Default 0.5. */
  earlyCost?: number;
  /** Begins anew where an unfinished run with any options left off. */
  fresh?: boolean;
  onProgress?: (progress: CalibrateProgress) => void;
  signal?: AbortSignal;
}

/** How far calibration is. */
export interface CalibrateProgress {
  /** "observing": the text runs through the model; "trying": ranks; "fitting": the predictors of the ranks chosen. */
  phase: "observing" | "trying" | "fitting";
  /** Work done and to do in all phases, in a unit of its own; a run that goes on does not begin at 0. */
  done: number;
  total: number;
}
