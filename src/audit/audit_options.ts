import type { AuditBoardShare } from "./board.ts";
import type { AuditSample } from "./sample.ts";

/** What the audit is started with. */
export interface AuditOptions {
  sample: AuditSample;
  seed: number;
  board: AuditBoardShare;
  /** Landing flag of the window's read, counted from the first flag. */
  flag: number;
}
