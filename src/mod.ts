/**
 * flashpipe runs language models larger than memory: attention and predictors stay in RAM, FFN neurons are read from flash
 * when a predictor names them.
 *
 * @module
 */
export { open } from "./open.ts";
export type { OpenOptions } from "./open.ts";
export type { GenerateOptions, Model, Token } from "./model.ts";
export type { Cost, Statistics } from "./statistics.ts";
export { pack } from "./format/pack.ts";
export {
  FlashReadError,
  MemoryBudgetError,
  ModelFileError,
  UnsupportedModelError,
} from "./errors.ts";
