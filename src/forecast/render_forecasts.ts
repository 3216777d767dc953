import { formatBytes } from "../byte_size.ts";
import type { Forecast } from "./forecast.ts";

/** A budget's forecast, and that of a GiB more; null where the budget is a share. */
export interface ForecastRow {
  now: Forecast;
  next: Forecast | null;
}

/** Budgets side by side: where memory goes, what a token costs, and what the next GiB would buy. */
export function renderForecasts(
  about: string,
  rows: readonly ForecastRow[],
  smallestMemoryBytes: number,
): string {
  const all: [string, (row: ForecastRow) => string][] = [
    ["memory", ({ now }) => formatBytes(now.memoryBytes ?? now.bytes.total)],
    ["  planned (MiB)", ({ now }) => mebibytes(now.bytes.total)],
    ["  weights", ({ now }) => mebibytes(now.bytes.weights)],
    ["  predictors", ({ now }) => mebibytes(now.bytes.predictors)],
    ["  up projections", ({ now }) => mebibytes(now.bytes.residentUp)],
    ["  KV cache", ({ now }) => mebibytes(now.bytes.keyValueCache)],
    ["  FFN cache", ({ now }) => mebibytes(now.bytes.slots)],
    ["  scratch", ({ now }) => mebibytes(now.bytes.scratch)],
    ["  runtime", ({ now }) => mebibytes(now.bytes.runtime)],
    ["slots a layer", ({ now }) => slots(now)],
    ["  of the FFN", ({ now }) => percent(now.cachedShare)],
    ["a token: hit rate", ({ now }) => now.isResident ? "resident" : percent(now.hitRate)],
    ["  neurons", ({ now }) => number(now.neuronsPerToken)],
    ["  MiB read", ({ now }) => number(now.bytesPerToken / 2 ** 20)],
    ["  reads", ({ now }) => number(now.readsPerToken)],
    ["  ms", ({ now }) => number(now.msPerToken.total)],
    ["    attention", ({ now }) => number(now.msPerToken.attention)],
    ["    late look", ({ now }) => number(now.msPerToken.look)],
    ["    sparse FFN", ({ now }) => number(now.msPerToken.ffn)],
    ["    logits", ({ now }) => number(now.msPerToken.logits)],
    ["    waiting: flash", ({ now }) => number(now.msPerToken.waitingFlash)],
    ["    waiting: look", ({ now }) => number(now.msPerToken.waitingPredictor)],
    ["    memory managed", ({ now }) => number(now.msPerToken.memoryManagement)],
    ["    busy cores", ({ now }) => number(now.msPerToken.contention)],
    ["    other", ({ now }) => number(now.msPerToken.other)],
    ["  flash, hidden", ({ now: { msPerToken: ms } }) => `${number(ms.flash)}, ${hidden(ms)}`],
    ["  tokens/s", ({ now }) => number(now.tokensPerSecond)],
    ["1 GiB more: tokens/s", ({ next }) => next ? number(next.tokensPerSecond) : "-"],
    ["  gained", ({ now, next }) => next ? gain(now, next) : "-"],
    [
      "  hit rate",
      ({ next }) => !next ? "-" : next.isResident ? "resident" : percent(next.hitRate),
    ],
    ["  MiB read", ({ next }) => next ? number(next.bytesPerToken / 2 ** 20) : "-"],
    ["  reads", ({ next }) => next ? number(next.readsPerToken) : "-"],
  ];
  const isNothing = (cells: string[]) => cells.every((cell) => cell === "0" || cell === "-");
  const lines = all.map(([name, of]) => [name, rows.map(of)] as const)
    .filter(([name, cells]) => !isNothing(cells) || ["  reads", "  MiB read"].includes(name))
    .map(([name, cells]) =>
      `${name.padEnd(21)}${cells.map((cell) => cell.padStart(15)).join("")}`.trimEnd()
    );
  return `${about}\n\n${lines.join("\n")}\n\n` +
    `Smallest memory that works: ${Math.ceil(smallestMemoryBytes / 2 ** 20)}MiB\n`;
}

/** One line about what a run will cost, for where it begins. */
export function renderForecast(forecast: Forecast): string {
  const { tokensPerSecond, bytesPerToken, readsPerToken, hitRate, isResident } = forecast;
  const reading = isResident
    ? "nothing read"
    : `${formatBytes(Math.round(bytesPerToken))} in ${
      number(readsPerToken)
    } reads a token, hit rate ${percent(hitRate)}`;
  return `expected  ${
    number(tokensPerSecond)
  } tokens/s, ${reading} (\`flashpipe plan\` tells more)\n`;
}

function slots({ slotCounts }: Forecast): string {
  const least = Math.min(...slotCounts), most = Math.max(...slotCounts);
  return least === most ? `${least}` : `${least}-${most}`;
}

function hidden({ flash, hidden }: Forecast["msPerToken"]): string {
  return flash > 0 ? `${(100 * hidden / flash).toFixed(0)} %` : "-";
}

function gain(now: Forecast, next: Forecast): string {
  return `${(100 * (next.tokensPerSecond / now.tokensPerSecond - 1)).toFixed(0)} %`;
}

function mebibytes(bytes: number): string {
  return number(bytes / 2 ** 20);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

/** Three digits or so. */
function number(value: number): string {
  if (value === 0) return "0";
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}
