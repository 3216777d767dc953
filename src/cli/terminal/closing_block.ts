import type { AuditReport, Interval } from "../../audit/estimate.ts";
import { formatBytes } from "../../byte_size.ts";
import type { DiskFacts } from "../../flash/bypass.ts";
import type { Plan } from "../../plan.ts";
import type { Cost, Statistics } from "../../statistics.ts";

/** What a generation was, beside its statistics. */
export interface Closing {
  statistics: Statistics;
  disk: DiskFacts;
  /** All neurons lie in memory: nothing is read. */
  isResident: boolean;
  tokenCount: number;
  /** Why it ended; undefined if it has not begun. */
  endReason: string | undefined;
  temperature: number;
  seed: number;
}

/** The block that closes a run: where the time of a token went, and what was read for it. */
export function renderClosing(closing: Closing): string {
  const { statistics, tokenCount, endReason } = closing;
  const { prompt, decode, peakBytes, diskBytes } = statistics;
  const lines: [string, string][] = [
    [
      "speed",
      `${number(decode.tokensPerSecond)} tokens/s; ${tokenCount} tokens ` +
      `after a prompt of ${promptOf(prompt)} (${number(prompt.ms)} ms)` +
      (endReason ? `; ${ENDINGS[endReason] ?? endReason}` : ""),
    ],
    ["ms/token", renderSplit(decode.msPerToken)],
    ["flash", renderFlash(closing)],
  ];
  if (!closing.isResident) {
    lines.push([
      "cache",
      `hit rate ${percent(decode.hitRate)}, early rate ${percent(decode.earlyRate)}, ` +
      `hidden ${percent(decode.hidden)} of flash time`,
    ]);
  }
  if (decode.drafted > 0) {
    lines.push(["drafts", `${decode.accepted} of ${decode.drafted} guessed tokens were right`]);
  }
  if (statistics.sparsity !== null) lines.push(["ffn", approximation(statistics.sparsity)]);
  if (statistics.audit) lines.push(["audit", renderAudit(statistics.audit)]);
  lines.push(
    ["memory", `peak ${formatBytes(peakBytes)}; ${formatBytes(diskBytes)} read from disks in all`],
    ["with", renderSetup(closing)],
  );
  return lines.map(([name, value]) => `${name.padEnd(9)} ${value}\n`).join("");
}

/** What of a prompt had to be computed. */
function promptOf({ tokens, knownTokens }: Cost): string {
  return knownTokens > 0 ? `${tokens + knownTokens}, ${knownTokens} of them known` : `${tokens}`;
}

/** One line about an answer in a chat. */
export function renderShort({ statistics, tokenCount }: Closing): string {
  const { tokensPerSecond, bytesPerToken, hitRate } = statistics.decode;
  return `[${tokenCount} tokens, ${number(tokensPerSecond)} tokens/s, ` +
    `${formatBytes(Math.round(bytesPerToken))} read per token, hit rate ${percent(hitRate)}]\n`;
}

/** What lies in memory, said before the first token. */
export function renderPlan(plan: Plan): string {
  const { bytes, slotCounts, shape, isResident, mode, sparsity } = plan;
  const slotCount = slotCounts.reduce((sum, count) => sum + count, 0);
  const share = percent(slotCount / (slotCounts.length * shape.intermediateSize));
  const parts: [string, number][] = [
    ["weights", bytes.weights],
    ["predictors", bytes.predictors],
    ["up projections", bytes.residentUp],
    ["KV cache", bytes.keyValueCache],
    [`FFN cache (${share} of it)`, bytes.slots],
    ["scratch", bytes.scratch],
    ["runtime", bytes.runtime],
  ];
  const list = parts.filter(([, byteLength]) => byteLength > 0)
    .map(([name, byteLength]) => `${name} ${number(byteLength / 2 ** 20)}`);
  const how = isResident ? ", all in memory: nothing is read" : "";
  return `memory    ${formatBytes(bytes.total)} planned\n          MiB: ${list.join(", ")}\n` +
    `ffn       ${mode}${how}\n${sparsity === null ? "" : `          ${approximation(sparsity)}\n`}`;
}

/** What `magnitude` is not to be taken for. */
function approximation(sparsity: number): string {
  return `approximate: about ${percent(sparsity)} of the neurons are left out as small; ` +
    "`eval` measures what that costs";
}

const ENDINGS: Record<string, string> = {
  "max-tokens": "ended at --max-tokens",
  "end-of-text": "the text had ended",
  "stop-string": "ended at --stop",
  "context-full": "ended as the context is full",
  "cancelled": "interrupted",
  "nothing-allowed": "ended as no token was allowed",
};

function renderSplit(
  { total, compute, flash, predictor, other }: Statistics["decode"]["msPerToken"],
): string {
  return `${total.toFixed(2)} = compute ${compute.toFixed(2)} + waiting for flash ${
    flash.toFixed(2)
  } + waiting for the predictor ${predictor.toFixed(2)} + other ${other.toFixed(2)}`;
}

function renderFlash({ statistics: { decode }, disk, isResident }: Closing): string {
  if (isResident) return "nothing is read: all neurons are in memory";
  const bypass = {
    yes: "OS cache bypassed",
    no: `OS cache NOT bypassed: ${disk.reason}`,
    asked: `OS cache: ${disk.reason}`,
    unknown: `whether the OS cache was bypassed is unknown: ${disk.reason}`,
  }[disk.bypassed];
  return `${formatBytes(Math.round(decode.bytesPerToken))} in ${
    number(decode.readsPerToken)
  } reads per token; ${bypass}`;
}

function renderAudit({ tokens, recall, precision, lostMass }: AuditReport): string {
  const interval = ({ value, low, high }: Interval) =>
    `${precise(value)} (95 %: ${precise(low)} to ${precise(high)})`;
  return `recall ${interval(recall)}, lost activation ${interval(lostMass)}, precision ` +
    `${percent(precision)}, over ${tokens} tokens`;
}

function renderSetup({ statistics, seed, temperature }: Closing): string {
  const { runtime, kernels, ffn, lanes, readers, backend } = statistics;
  const sampling = temperature > 0 ? `seed ${seed} (--seed ${seed} repeats it)` : "greedy";
  return `${runtime}, ${kernels} kernels, ffn ${ffn}, lanes ${lanes}, readers ${readers} (${backend}), ${sampling}`;
}

/** Three digits or so. */
function number(value: number): string {
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

function precise(share: number): string {
  return `${(100 * share).toFixed(2)} %`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
