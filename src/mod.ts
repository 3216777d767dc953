/**
 * flashpipe runs language models larger than memory: attention and predictors stay in RAM, FFN neurons are read from flash
 * when a predictor names them.
 *
 * A Hugging Face folder is packed into one file, its predictors are fitted to text, and then it is opened as often as you like:
 *
 * ```ts
 * import { calibrate, open, pack } from "flashpipe";
 * import { mkdtempSync, readFileSync, rmSync } from "node:fs";
 * import { tmpdir } from "node:os";
 * import { join } from "node:path";
 *
 * const folder = mkdtempSync(join(tmpdir(), "flashpipe-"));
 * const path = join(folder, "tales.flash");
 * await pack({ source: "models/tales", target: path, quant: "q8" });
 * const text = readFileSync("models/tales/calibration.txt", "utf8");
 * await calibrate({ path, text, tokensMax: 500 });
 * {
 *   await using model = await open(path, { ffnCache: "20%" });
 *   let tale = "Once upon a time";
 *   for await (const token of model.generate(tale, { maxTokens: 16 })) tale += token.text;
 *   console.assert(tale.length > 30);
 *   console.assert(model.stats().decode.hitRate > 0);
 * }
 * rmSync(folder, { recursive: true });
 * ```
 *
 * @module
 */
export { open } from "./open.ts";
export type { OpenOptions } from "./open.ts";
export type { GenerateOptions, Model, Token } from "./model.ts";
export type { ChatMessage } from "./chat_template.ts";
export type { Cost, LayerCounts, Statistics } from "./statistics.ts";
export type { AuditReport, Interval, LayerAudit } from "./audit/estimate.ts";
export { pack } from "./format/pack.ts";
export { calibrate } from "./calibrate.ts";
export type { CalibrateOptions, CalibrateProgress } from "./calibrate.ts";
export { calibrateMagnitudes } from "./calibrate_magnitudes.ts";
export type { CalibrateMagnitudesOptions } from "./calibrate_magnitudes.ts";
export { evaluate } from "./eval.ts";
export type { EvaluateOptions, EvaluateProgress } from "./eval.ts";
export type { DenseComparison, Evaluation, LayerEvaluation } from "./evaluation.ts";
export { reorder } from "./reorder.ts";
export type { OrderCost, ReorderOptions, ReorderProgress, ReorderResult } from "./reorder.ts";
export { WorkerError } from "./pipeline/crew.ts";
export {
  FlashReadError,
  FlashWriteError,
  HubError,
  MemoryBudgetError,
  ModelFileError,
  UnsupportedModelError,
} from "./errors.ts";
