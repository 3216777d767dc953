import { formatBytes } from "../byte_size.ts";
import type { Evaluation, LayerEvaluation } from "../evaluation.ts";

/** An evaluation for people: a few lines, then a table of the layers. */
export function renderEvaluation(evaluation: Evaluation): string {
  const { ffn, isComplete, tokens, tokensScored, perplexity, dense, all } = evaluation;
  const { bytesPerToken, readsPerToken, ffnBytes, cachedShare, setup, sparsity } = evaluation;
  const lines: [string, string][] = [
    [
      "perplexity",
      `${perplexity.toFixed(3)} over ${tokensScored} scored of ${tokens} tokens` +
      (isComplete ? "" : "; interrupted"),
    ],
  ];
  if (dense) {
    const rise = 100 * (perplexity / dense.perplexity - 1);
    lines.push(
      ["dense", `${dense.perplexity.toFixed(3)}; ${ffn} differs by ${rise.toFixed(2)} %`],
      [
        "divergence",
        `${precise(dense.divergenceMean)} nats in the mean, ${precise(dense.divergenceP99)} at ` +
        "most for 99 % of the tokens (KL from dense)",
      ],
      ["agreement", `${percent(dense.top1Agreement)} of the likeliest tokens`],
    );
  }
  if (sparsity !== null && all) {
    lines.push([
      "approximate",
      `${percent(1 - all.activeShare)} of the neurons left out as small, ${
        percent(sparsity)
      } wanted`,
    ]);
  }
  const fewer = bytesPerToken > 0 ? `, ${(ffnBytes / bytesPerToken).toFixed(1)}` : "";
  lines.push([
    "flash",
    bytesPerToken === 0
      ? "nothing is read: all neurons are in memory"
      : `${formatBytes(Math.round(bytesPerToken))} in ${readsPerToken.toFixed(1)} reads per token` +
        `${fewer} times fewer bytes than the FFN has`,
  ]);
  if (all) {
    lines.push([
      "cache",
      `${percent(cachedShare)} of the neurons; hit rate ${percent(all.hitRate)}, early rate ` +
      percent(all.earlyRate),
    ]);
  }
  const { runtime, kernels, lanes, readers, backend } = setup;
  lines.push([
    "with",
    `${runtime}, ${kernels} kernels, ffn ${ffn}, lanes ${lanes}, readers ${readers} (${backend})`,
  ]);
  return lines.map(([name, value]) => `${name.padEnd(11)} ${value}\n`).join("") +
    renderLayers(evaluation);
}

/** Columns of the table; those that a mode does not have are left out. */
const COLUMNS: [title: string, name: keyof LayerEvaluation][] = [
  ["active", "activeShare"],
  ["predicted", "listedShare"],
  ["recall", "recall"],
  ["precision", "precision"],
  ["lost mass", "lostMass"],
  ["hit rate", "hitRate"],
];

function renderLayers({ ffn, layers, all }: Evaluation): string {
  if (!all) return "";
  const columns = COLUMNS.filter(([, name]) =>
    ffn === "predicted" || (name in all && name !== "listedShare")
  );
  const row = (name: string, values: LayerEvaluation) =>
    name.padStart(5) +
    columns.map(([, column]) => percent(values[column]!, 2).padStart(11)).join("");
  const rows = [
    "layer" + columns.map(([title]) => title.padStart(11)).join(""),
    ...layers.map((values, layer) => row(String(layer), values)),
    row("all", all),
  ];
  return `\n${rows.join("\n")}\n`;
}

function percent(share: number, digits = 1): string {
  return `${(100 * share).toFixed(digits)} %`;
}

/** Three digits that count. */
function precise(value: number): string {
  return value === 0 ? "0" : value.toPrecision(3);
}
