import { examineDisk } from "../../src/flash/bypass.ts";
import type { OpenOptions } from "../../src/open.ts";
import { settle } from "../../src/open_options.ts";
import { makePlan } from "../../src/plan.ts";
import type { Cost } from "../../src/statistics.ts";
import { median } from "../median.ts";
import { runFresh } from "../runs/fresh_process.ts";
import type { RunRequest, RunResult } from "../runs/one_run.ts";
import { promptIds } from "../runs/prompt_ids.ts";
import { headerOf } from "./rows.ts";
import type { LadderRow } from "./rows.ts";

/** How rows are run. */
export interface MeasureOptions {
  /** New tokens of each run, and of those that compute all neurons. */
  tokens: number;
  denseTokens: number;
  /** Tokens of the prompt. */
  prompt: number;
  text?: string;
  rounds: number;
  /** For all rows. */
  open?: OpenOptions;
}

/** A rung: medians of its rounds. Bytes, and ms a token. */
export interface LadderResult extends LadderRow {
  /** What stays in memory from token to token: weights, predictors, slots, KV cache. */
  keptBytes: number;
  peakBytes: number;
  /** Slots over neurons. */
  slotShare: number;
  bytesPerToken: number;
  /** While at least one read is in flight. */
  bytesPerSecond: number;
  readsPerToken: number;
  /** Time with a read in flight, whatever else goes on meanwhile. */
  ioMs: number;
  /** Looking slots up, choosing who leaves, planning reads, copying to slots: of predictor and readers. */
  managementMs: number;
  totalMs: number;
  tokensPerSecond: number;
  /** The wall clock of lane 0, in parts that add up to the total. */
  split: Omit<Cost["msPerToken"], "total">;
  hitRate: number;
  backend: RunResult["backend"];
  checksum: number;
}

/**
 * Runs all rows in turn, round after round. Throws if rows generate other ids than others of their group: they would not have done
 * the same work.
 *
 * @param onRun hears what is about to run
 * @param run where it runs; tests do without fresh processes
 */
export async function measureRows(
  rows: readonly LadderRow[],
  options: MeasureOptions,
  onRun?: (row: LadderRow, round: number) => void,
  run: (request: RunRequest) => Promise<RunResult> = runFresh,
): Promise<LadderResult[]> {
  const runs: RunResult[][] = rows.map(() => []);
  for (const row of rows) checkPlan(row, options);
  for (let round = 0; round < options.rounds; round++) {
    for (const [index, row] of rows.entries()) {
      onRun?.(row, round);
      runs[index].push(await run(requestOf(row, options)));
    }
  }
  const results = rows.map((row, index) => resultOf(row, runs[index]));
  const all = rows.flatMap((row, index) => runs[index].map((run) => ({ row, run })));
  for (const { row, run } of all) {
    const first = all.find((other) => other.row.group === row.group)!;
    if (run.checksum === first.run.checksum) continue;
    throw new Error(`"${row.name}" generated other tokens than "${first.row.name}"`);
  }
  return results;
}

/** A row that cannot be opened is refused before others have taken minutes. */
export function checkPlan(row: LadderRow, options: MeasureOptions): void {
  const { modelPath } = row, header = headerOf(modelPath);
  makePlan(header, examineDisk(modelPath), settle(header, modelPath, openOf(row, options)).wishes);
}

function openOf({ open }: LadderRow, options: MeasureOptions): OpenOptions {
  // Room for what is run and no more, so that baselines need not keep pages that stay empty. Drafts are another technique.
  const context = options.prompt + Math.max(options.tokens, options.denseTokens);
  return { context, drafts: 0, ...options.open, ...open };
}

function requestOf(row: LadderRow, options: MeasureOptions): RunRequest {
  const { modelPath, group } = row;
  const tokens = group === "dense" ? options.denseTokens : options.tokens;
  const prompt = promptIds(modelPath, options.prompt, options.text);
  return { modelPath, prompt, tokens, open: openOf(row, options) };
}

function resultOf(row: LadderRow, runs: RunResult[]): LadderResult {
  const middle = (pick: (run: RunResult) => number) => median(runs.map(pick));
  const cost = (pick: (cost: Cost) => number) => middle(({ decode }) => pick(decode));
  const part = (name: keyof LadderResult["split"]) => cost(({ msPerToken }) => msPerToken[name]);
  return {
    ...row,
    keptBytes: keptBytes(row, runs[0]),
    peakBytes: middle((run) => run.peakBytes),
    slotShare: runs[0].slotShare,
    bytesPerToken: cost((cost) => cost.bytesPerToken),
    bytesPerSecond: cost(({ bytesPerToken, flashMsPerToken }) =>
      flashMsPerToken > 0 ? 1000 * bytesPerToken / flashMsPerToken : 0
    ),
    readsPerToken: cost((cost) => cost.readsPerToken),
    ioMs: cost((cost) => cost.flashMsPerToken),
    managementMs: cost(({ workMsPerToken, copyMsPerToken }) =>
      workMsPerToken.management + copyMsPerToken
    ),
    totalMs: cost(({ msPerToken }) => msPerToken.total),
    tokensPerSecond: cost((cost) => cost.tokensPerSecond),
    split: {
      compute: part("compute"),
      flash: part("flash"),
      predictor: part("predictor"),
      other: part("other"),
    },
    hitRate: cost((cost) => cost.hitRate),
    backend: runs[0].backend,
    checksum: runs[0].checksum,
  };
}

/** What is naive keeps no weights, though they lie in memory for lanes to compute from. */
function keptBytes({ open }: LadderRow, { planned }: RunResult): number {
  const { weights, predictors, residentUp, keyValueCache, slots } = planned;
  return open.naive ? keyValueCache : weights + predictors + residentUp + keyValueCache + slots;
}
