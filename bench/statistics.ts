/**
 * Does a synthetic model run as it was planted: are as many neurons active, predicted and found in the window as the paper
 * tells of OPT 6.7B? For other files too, with a text.
 *
 *   deno run -A bench/statistics.ts MODEL.flash [--tokens 256] [--stretch 64] [--text FILE] [--memory SIZE] [--json]
 */
import fs from "node:fs";
import process from "node:process";
import { chunksOf, documentsOf } from "../src/documents.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import type { FlashHeader } from "../src/format/header.ts";
import { bitsOf } from "../src/predict/mask.ts";
import { runtimeName } from "../src/runtime.ts";
import { coActivationStrength } from "../src/simulate/co_activation_strength.ts";
import { observeNeuronSets } from "../src/simulate/neuron_sets.ts";
import type { LayerSets } from "../src/simulate/neuron_sets.ts";
import { PAPER } from "../src/synth/planted.ts";
import { TokenChain } from "../src/synth/token_chain.ts";
import { TextCodec } from "../src/text_stream.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { median } from "./median.ts";

export interface StatisticsBench {
  modelPath: string;
  tokens: number;
  /** Tokens of each stretch; each begins with an empty KV cache. */
  stretch: number;
  /** Plain text; a synthetic model has its chain of tokens. */
  text?: string;
  memory?: string;
}

/** What one layer did; shares are of its neurons unless said otherwise. */
export interface LayerStatistics {
  activeShare: number;
  predictedShare: number;
  /** Active neurons that were predicted / active ones. */
  recall: number;
  /** The last five tokens' predicted neurons together, and those of a token that are not among them. */
  windowShare: number;
  readShare: number;
  /** Active, and late-predicted, neurons that the early look named / all such. */
  earlyRecall: number;
  earlyFound: number;
  /** Neurons that the early look named and that were not active, against those of the late look. */
  earlyFalse: number;
  /** By how much a neuron's closest friend is likelier with it: median, and the closest tenth. */
  friend: { median: number; tenth: number };
}

export type Statistics = Omit<LayerStatistics, "friend"> & {
  tokens: number;
  layers: LayerStatistics[];
  friend: LayerStatistics["friend"];
};

/** Of the embedded model, by this bench over as many tokens as it takes unless told: `--text models/tales/calibration.txt`. */
const TALES_FRIEND = { median: 0.285, tenth: 0.541 };

export async function benchStatistics(
  bench: StatisticsBench,
  onProgress?: (progress: { done: number; total: number }) => void,
): Promise<Statistics> {
  const { modelPath, memory, stretch } = bench;
  using file = FlashFile.open(modelPath);
  const documents = documentsFor(file.header, bench);
  const sets = await observeNeuronSets({
    path: modelPath,
    documents,
    open: { memory, context: Math.min(stretch, file.header.config.maxPositionEmbeddings) },
    onProgress,
  });
  const n = file.header.config.intermediateSize;
  const layers = sets.map((layer) => measureLayer(layer, documents, n));
  const mean = (pick: (layer: LayerStatistics) => number) =>
    layers.reduce((sum, layer) => sum + pick(layer), 0) / layers.length;
  const meanOf = (name: Exclude<keyof LayerStatistics, "friend">) => mean((layer) => layer[name]);
  return {
    tokens: documents.reduce((sum, ids) => sum + ids.length, 0),
    layers,
    activeShare: meanOf("activeShare"),
    predictedShare: meanOf("predictedShare"),
    recall: mean((layer) => layer.recall * layer.activeShare) / meanOf("activeShare"),
    windowShare: meanOf("windowShare"),
    readShare: meanOf("readShare"),
    earlyRecall: mean((layer) => layer.earlyRecall * layer.activeShare) / meanOf("activeShare"),
    earlyFound: mean((layer) => layer.earlyFound * layer.predictedShare) /
      meanOf("predictedShare"),
    earlyFalse: meanOf("earlyFalse"),
    friend: { median: mean((l) => l.friend.median), tenth: mean((l) => l.friend.tenth) },
  };
}

/** Stretches along the chain from places that lie apart, or pieces of the text. */
function documentsFor(
  header: FlashHeader,
  { tokens, stretch, text, modelPath }: StatisticsBench,
): number[][] {
  const count = Math.ceil(tokens / stretch);
  if (text === undefined) {
    const chain = TokenChain.of(header), { length } = chain.tokens;
    return Array.from(
      { length: count },
      (_, index) => chain.stretch({ start: Math.floor(length * index / count), count: stretch }),
    );
  }
  if (!header.tokenizer) throw new RangeError(`Cannot use text as ${modelPath} has no tokenizer`);
  const codec = new TextCodec(header.tokenizer, modelPath);
  return [...chunksOf(documentsOf(text), (document) => codec.encode(document), stretch)]
    .filter(({ length }) => length > PAPER.window).slice(0, count);
}

function measureLayer(
  { active, predicted, early }: LayerSets,
  documents: number[][],
  n: number,
): LayerStatistics {
  const tokenCount = documents.reduce((sum, ids) => sum + ids.length, 0), all = tokenCount * n;
  const named = countBits(predicted), isActive = countBits(active), earlyNamed = countBits(early);
  const found = countBits(active, predicted), earlyActive = countBits(active, early);
  const strengths = coActivationStrength({ masks: predicted, tokenCount, neuronCount: n })
    .sort((a, b) => a - b);
  return {
    activeShare: isActive / all,
    predictedShare: named / all,
    recall: found / isActive,
    ...measureWindow(predicted, documents, n),
    earlyRecall: earlyActive / isActive,
    earlyFound: countBits(predicted, early) / named,
    earlyFalse: (earlyNamed - earlyActive) / (named - found),
    friend: {
      median: strengths.length > 0 ? median(strengths) : NaN,
      tenth: strengths[Math.floor(0.9 * strengths.length)] ?? NaN,
    },
  };
}

/** Over all tokens before which a whole window lies. */
function measureWindow(predicted: Uint32Array, documents: number[][], n: number) {
  const wordCount = Math.ceil(n / 32), neurons = new Int32Array(wordCount * 32), { window } = PAPER;
  let held = 0, read = 0, counted = 0, token = 0;
  for (const { length } of documents) {
    const lastUse = new Int32Array(n).fill(-window - 1);
    for (let t = 0; t < length; t++, token++) {
      const mask = predicted.subarray(token * wordCount, (token + 1) * wordCount);
      const count = bitsOf(mask, neurons), isCounted = t >= window;
      for (let k = 0; k < count; k++) {
        if (isCounted && lastUse[neurons[k]] < t - window) read++;
        lastUse[neurons[k]] = t;
      }
      if (!isCounted) continue;
      counted++;
      for (const use of lastUse) if (use > t - window) held++;
    }
  }
  return { windowShare: held / (counted * n), readShare: read / (counted * n) };
}

/** Bits of a, or of both. */
function countBits(a: Uint32Array, b: Uint32Array = a): number {
  let count = 0;
  for (let index = 0; index < a.length; index++) {
    let word = a[index] & b[index];
    word -= word >>> 1 & 0x55555555;
    word = (word & 0x33333333) + (word >>> 2 & 0x33333333);
    count += Math.imul(word + (word >>> 4) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }
  return count;
}

const HELP = `Does a synthetic model run as it was planted, beside the paper's figures for OPT 6.7B?

  statistics MODEL.flash
  --tokens N       in all (default 256)
  --stretch N      of each stretch of the chain, or piece of the text (default 64)
  --text FILE      for files that synth did not make
  --memory SIZE    ceiling of the engine (default: a part of what is free); measuring takes more
  --layers         a line for each layer, too
  --json           print the results as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 1,
    options: {
      tokens: { type: "string", default: "256" },
      stretch: { type: "string", default: "64" },
      text: { type: "string" },
      memory: { type: "string" },
      layers: { type: "boolean" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [modelPath] } = parsed;
  if (!modelPath) throw new RangeError("usage: statistics MODEL.flash");
  const statistics = await benchStatistics({
    modelPath,
    tokens: wholeNumber("tokens", values.tokens),
    stretch: wholeNumber("stretch", values.stretch),
    text: values.text === undefined ? undefined : fs.readFileSync(values.text, "utf8"),
    memory: values.memory,
  });
  if (values.json) return console.log(JSON.stringify(statistics));
  console.log(`${runtimeName()}, ${statistics.tokens} tokens\n`);
  console.log(render(statistics));
  if (values.layers) console.log(`\n${renderLayers(statistics.layers)}`);
}

function wholeNumber(name: string, text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number > PAPER.window) return number;
  throw new RangeError(`Cannot run with --${name} ${text}: a whole number above ${PAPER.window}`);
}

function render(found: Statistics): string {
  const { layers } = found, last = layers[layers.length - 1];
  const rows: [string, string, string][] = [
    ["", "found", "paper"],
    ["active, first layer", percent(layers[0].activeShare), percent(PAPER.activeFirst)],
    ["active, last layer", percent(last.activeShare), percent(PAPER.activeLast)],
    ["active, mean", percent(found.activeShare), percent(PAPER.activeMean)],
    ["predicted", percent(found.predictedShare), ""],
    [
      "predicted / active",
      (found.predictedShare / found.activeShare).toFixed(2),
      PAPER.overPrediction.toFixed(2),
    ],
    ["recall", percent(found.recall), percent(PAPER.recall)],
    [`in the window of ${PAPER.window}`, percent(found.windowShare), percent(PAPER.windowShare)],
    ["read per token", percent(found.readShare), percent(PAPER.readShare)],
    ["", "", "tales"],
    ["early look: found of active", percent(found.earlyRecall), "80.00 %"],
    ["early look: found of predicted", percent(found.earlyFound), ""],
    ["early look: false / late's false", found.earlyFalse.toFixed(2), "1.00"],
    ["closest friend, median", found.friend.median.toFixed(3), TALES_FRIEND.median.toFixed(3)],
    ["closest friend, upper tenth", found.friend.tenth.toFixed(3), TALES_FRIEND.tenth.toFixed(3)],
  ];
  return rows.map(([name, ...cells]) =>
    name.padEnd(34) + cells.map((cell) => cell.padStart(10)).join("")
  ).join("\n");
}

function renderLayers(layers: LayerStatistics[]): string {
  const head = "layer   active predicted   recall   window     read  early  friend";
  const cells = (layer: LayerStatistics) =>
    [
      percent(layer.activeShare).padStart(8),
      percent(layer.predictedShare).padStart(9),
      percent(layer.recall).padStart(8),
      percent(layer.windowShare).padStart(8),
      percent(layer.readShare).padStart(8),
      layer.earlyRecall.toFixed(3).padStart(6),
      layer.friend.median.toFixed(3).padStart(7),
    ].join(" ");
  return [head, ...layers.map((layer, index) => `${String(index).padStart(5)} ${cells(layer)}`)]
    .join("\n");
}

function percent(share: number): string {
  return `${(100 * share).toFixed(2)} %`;
}

if (import.meta.main) await main(process.argv.slice(2));
