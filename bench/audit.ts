/**
 * Is the live audit to be trusted, and what does it cost? For as many pieces of a text, each through a pipeline of its own: does the
 * audit's 95 % interval hold the recall that is measured in full over the very same tokens? Then tokens are generated with and
 * without the audit, in turns.
 *
 *   deno run -A bench/audit.ts MODEL.flash TEXT [--runs 20] [--tokens 256] [--ffn-cache 20%] [--repeat 9] [--json]
 */
import fs from "node:fs";
import process from "node:process";
import type { Interval } from "../src/audit/estimate.ts";
import { chunksOf, documentsOf } from "../src/documents.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { open } from "../src/open.ts";
import { RecallMeter } from "../src/predict/recall_meter.ts";
import { runtimeName } from "../src/runtime.ts";
import { parseBenchArgs } from "./bench_args.ts";
import { median } from "./median.ts";
import { benchTokens } from "./tokens.ts";

export interface AuditBench {
  modelPath: string;
  text: string;
  runs: number;
  /** Positions of each run. */
  tokens: number;
  ffnCache: string;
}

export interface AuditRun {
  recall: Interval;
  /** Measured in full. */
  trueRecall: number;
  lostMass: Interval;
  trueLostMass: number;
}

/** Runs pieces of the text, spread over it, with the audit and with every neuron of every position measured. */
export async function benchAudit(bench: AuditBench): Promise<AuditRun[]> {
  const { modelPath, ffnCache, runs, tokens } = bench;
  await using model = await open(modelPath, { ffnCache, audit: true, observations: true });
  using file = FlashFile.open(modelPath);
  const encode = (text: string) => model.encode(text);
  const chunks = [...chunksOf(documentsOf(bench.text), encode, tokens)]
    .filter(({ length }) => length === tokens);
  if (chunks.length < runs) {
    throw new RangeError(
      `Cannot run ${runs} pieces of ${tokens} tokens: the text has ${chunks.length}`,
    );
  }
  const results: AuditRun[] = [];
  for (let run = 0; run < runs; run++) {
    const meter = new RecallMeter(file, { build: model.build });
    const ids = chunks[Math.floor(chunks.length * run / runs)];
    await model.eachObservation(ids, (layers) => meter.add(layers.map(({ ffnInput }) => ffnInput)));
    await meter.measure();
    const { recall, lostMass } = model.stats().audit!;
    const sum = (pick: (layer: RecallMeter["layers"][number]) => number) =>
      meter.layers.reduce((total, layer) => total + pick(layer), 0);
    results.push({
      recall,
      trueRecall: sum(({ found }) => found) / sum(({ active }) => active),
      lostMass,
      trueLostMass: sum(({ lostMass }) => lostMass) / sum(({ mass }) => mass),
    });
  }
  return results;
}

/** How many of the intervals hold what they estimate. */
export function coverage(runs: AuditRun[]): { recall: number; lostMass: number } {
  const holds = ({ low, high }: Interval, value: number) => low <= value && value <= high;
  return {
    recall: runs.filter(({ recall, trueRecall }) => holds(recall, trueRecall)).length,
    lostMass: runs.filter(({ lostMass, trueLostMass }) => holds(lostMass, trueLostMass)).length,
  };
}

const HELP = `Does the live audit hold what it promises, and what does it cost?

  audit MODEL.flash TEXT
  --runs N           pieces of the text, measured in full beside the audit (default 20)
  --tokens N         of each piece (default 256)
  --ffn-cache SHARE  default 20%
  --repeat N         pairs of runs with and without the audit (default 9)
  --json             print the results as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: 2,
    options: {
      runs: { type: "string", default: "20" },
      tokens: { type: "string", default: "256" },
      "ffn-cache": { type: "string", default: "20%" },
      repeat: { type: "string", default: "9" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals: [modelPath, textPath] } = parsed;
  if (!modelPath || !textPath) throw new RangeError("usage: audit MODEL.flash TEXT");
  const ffnCache = values["ffn-cache"];
  const runs = await benchAudit({
    modelPath,
    text: fs.readFileSync(textPath, "utf8"),
    runs: Number(values.runs),
    tokens: Number(values.tokens),
    ffnCache,
  });
  const [without, audited] = await benchTokens({
    ways: [
      { modelPath, options: { ffnCache } },
      { modelPath, options: { ffnCache, audit: true } },
    ],
    tokens: 256,
    repeat: Number(values.repeat),
    prompt: "Once upon a time",
    temperature: 0.7,
    topP: 0.9,
  });
  const cost = median(
    audited.runs.map((run, i) => run.msPerToken.total / without.runs[i].msPerToken.total),
  );
  if (values.json) {
    return console.log(JSON.stringify({ runs, coverage: coverage(runs), cost }));
  }
  console.log(`${runtimeName()}, ${runs.length} pieces of ${values.tokens} tokens`);
  const percent = (share: number) => (100 * share).toFixed(2).padStart(6);
  const interval = ({ value, low, high }: Interval) =>
    `${percent(value)} (${percent(low)} to ${percent(high)})`;
  console.log(" recall % audited             true   lost mass % audited          true");
  for (const { recall, trueRecall, lostMass, trueLostMass } of runs) {
    console.log(
      `${interval(recall)} ${percent(trueRecall)}   ${interval(lostMass)} ${percent(trueLostMass)}`,
    );
  }
  const held = coverage(runs);
  console.log(
    `intervals that hold the true value: recall ${held.recall}, lost mass ${held.lostMass} of ${runs.length}`,
  );
  console.log(
    `ms/token audited / not: ${cost.toFixed(3)} (median of ${values.repeat} pairs); same ids: ${
      audited.checksum === without.checksum
    }`,
  );
}

if (import.meta.main) await main(process.argv.slice(2));
