/**
 * What does prediction cost in quality? Perplexity on a text, dense and predicted, and per layer: active share, recall, precision, lost mass.
 * The rule is that of models/tales/golden.json: documents split at <|endoftext|>, chunks of the context's length, each
 * with an empty cache, tokens 2..n of a chunk are scored.
 *
 *   deno run -A bench/quality.ts MODEL.flash TEXT [--tokens N] [--modes dense,predicted,exact] [--recall 99.5%]
 *     [--ffn-cache 20%] [--json]
 */
import fs from "node:fs";
import process from "node:process";
import { parseShare } from "../src/byte_size.ts";
import { chunksOf, documentsOf, negativeLogLikelihood } from "../src/documents.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { open } from "../src/open.ts";
import type { FfnMode } from "../src/pipeline/options.ts";
import { ffnByteLength } from "../src/plan.ts";
import { RecallMeter } from "../src/predict/recall_meter.ts";
import type { LayerRecall } from "../src/predict/recall_meter.ts";
import { parseBenchArgs } from "./bench_args.ts";

export interface QualityBench {
  modelPath: string;
  text: string;
  /** Stop after so many tokens. */
  tokensMax: number;
  mode: FfnMode;
  ffnCache: string;
  /** Of `predicted`; as calibrated unless told. */
  recall?: number;
}

export interface QualityResult {
  mode: FfnMode;
  tokensScored: number;
  nats: number;
  perplexity: number;
  bytesPerToken: number;
  readsPerToken: number;
  /** Bytes of the whole FFN over bytes read a token. */
  fewerBytes: number;
  hitRate: number;
  earlyRate: number;
  layers: LayerRecall[];
}

export async function benchQuality(options: QualityBench): Promise<QualityResult> {
  const { mode, ffnCache, modelPath } = options;
  const isMeasured = mode === "predicted";
  const recall = isMeasured ? options.recall : undefined;
  await using model = await open(modelPath, {
    ffn: mode,
    ffnCache,
    recall,
    observations: isMeasured,
  });
  using file = FlashFile.open(modelPath);
  const meter = isMeasured ? new RecallMeter(file, model.build, recall) : null;
  const encode = (text: string) => model.encode(text);
  let nats = 0, scored = 0, tokens = 0, bytes = 0, reads = 0, hits = 0, early = 0;
  for (const ids of chunksOf(documentsOf(options.text), encode, model.contextLength)) {
    if (tokens + ids.length > options.tokensMax) ids.length = options.tokensMax - tokens;
    if (ids.length === 0) break;
    await model.eachLogits(ids, (logits, position, layers) => {
      layers.forEach(({ ffnInput }, layer) => meter?.add(layer, ffnInput));
      if (position + 1 === ids.length) return;
      nats += negativeLogLikelihood(logits, ids[position + 1]);
      scored++;
    });
    const { prompt } = model.stats();
    tokens += ids.length;
    bytes += prompt.bytesPerToken * ids.length;
    reads += prompt.readsPerToken * ids.length;
    hits += prompt.hitRate * ids.length;
    early += prompt.earlyRate * ids.length;
  }
  return {
    mode,
    tokensScored: scored,
    nats: nats / scored,
    perplexity: Math.exp(nats / scored),
    bytesPerToken: bytes / tokens,
    readsPerToken: reads / tokens,
    fewerBytes: ffnByteLength(file.header) / (bytes / tokens),
    hitRate: hits / tokens,
    earlyRate: early / tokens,
    layers: meter?.layers ?? [],
  };
}

const HELP = `What does prediction cost in quality? Perplexity on a text, and recall by layer.

  quality MODEL.flash TEXT
  --modes LIST       dense, predicted, exact (default dense,predicted); the second is compared with the first
  --tokens N         stop after so many (default: all)
  --ffn-cache SHARE  of the neurons that may lie in memory (default 20%; dense: all)
  --json             print the results as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 2,
    options: {
      json: { type: "boolean" },
      tokens: { type: "string", default: "1e9" },
      modes: { type: "string", default: "dense,predicted" },
      "ffn-cache": { type: "string", default: "20%" },
      recall: { type: "string" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [modelPath, textPath] } = parsed;
  if (!modelPath || !textPath) throw new RangeError("usage: quality MODEL.flash TEXT");
  const text = fs.readFileSync(textPath, "utf8");
  const results: QualityResult[] = [];
  for (const mode of values.modes.split(",") as FfnMode[]) {
    // Dense is the reference: resident, as streaming would only be slower.
    const ffnCache = mode === "dense" ? "100%" : values["ffn-cache"];
    const tokensMax = Number(values.tokens);
    const recall = values.recall === undefined ? undefined : parseShare(values.recall);
    results.push(await benchQuality({ modelPath, text, tokensMax, mode, ffnCache, recall }));
  }
  if (values.json) return console.log(JSON.stringify(results));
  for (const result of results) print(result);
  const [first, second] = results;
  if (second) {
    const percent = 100 * (second.perplexity / first.perplexity - 1);
    console.log(`perplexity ${second.mode} against ${first.mode}: ${percent.toFixed(2)} %`);
  }
}

function print(result: QualityResult): void {
  const { mode, tokensScored, perplexity, bytesPerToken, readsPerToken, fewerBytes } = result;
  console.log(
    `${mode}: perplexity ${perplexity.toFixed(3)} over ${tokensScored} tokens; ` +
      `${(bytesPerToken / 1024).toFixed(1)} KiB and ${readsPerToken.toFixed(1)} reads a token, ` +
      `${fewerBytes.toFixed(1)}x fewer bytes than the FFN; hits ${
        (100 * result.hitRate).toFixed(1)
      } %, ` +
      `early ${(100 * result.earlyRate).toFixed(1)} %`,
  );
  let active = 0, found = 0, predicted = 0, mass = 0, lost = 0;
  result.layers.forEach((layer, index) => {
    active += layer.active;
    found += layer.found;
    predicted += layer.predicted;
    mass += layer.mass;
    lost += layer.lostMass;
    const recall = layer.found / layer.active, precision = layer.found / layer.predicted;
    console.log(
      `  layer ${index}: active ${(layer.active / layer.positions).toFixed(1)}, ` +
        `predicted ${(layer.predicted / layer.positions).toFixed(1)}, recall ${
          percentOf(recall)
        }, ` +
        `precision ${percentOf(precision)}, lost mass ${percentOf(layer.lostMass / layer.mass)}`,
    );
  });
  if (result.layers.length === 0) return;
  const means = result.layers.map(({ found, active }) => found / active);
  const mean = means.reduce((sum, recall) => sum + recall, 0) / means.length;
  console.log(
    `  all: recall ${percentOf(found / active)} (mean of layers ${percentOf(mean)}), ` +
      `precision ${percentOf(found / predicted)}, lost mass ${percentOf(lost / mass)}`,
  );
}

function percentOf(share: number): string {
  return `${(100 * share).toFixed(2)} %`;
}

if (import.meta.main) await main(process.argv.slice(2));
