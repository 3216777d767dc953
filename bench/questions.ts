/**
 * The ten questions of docs/questions.md: each prints its tables, on the embedded model unless told otherwise, and by the
 * cost model on larger shapes.
 *
 *   deno run -A bench/questions.ts [1 .. 10] [--model FILE] [--text FILE] [--plots FOLDER] [--probe] [--json]
 */
import { existsSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import {
  DEMO_CALIBRATION,
  DEMO_ORDER_TOKENS,
  prepareEmbeddedModel,
} from "../src/cli/embedded_model.ts";
import { documentsOf } from "../src/documents.ts";
import { sampleText } from "../src/fit/sample_text.ts";
import { FlashFile } from "../src/format/flash_file.ts";
import { runtimeName } from "../src/runtime.ts";
import type { Machine } from "../src/simulate/cost_model.ts";
import { MACHINES } from "../src/simulate/machines.ts";
import { TextCodec } from "../src/text_stream.ts";
import { parseBenchArgs, wholeNumber } from "./bench_args.ts";
import { probeMachine } from "./questions/probe.ts";
import { renderTable } from "./questions/table.ts";
import { Workbench } from "./questions/workbench.ts";
import type { Question } from "./questions/workbench.ts";

/** In the order of docs/questions.md; each is a file in bench/questions/. */
const QUESTIONS = [
  ["window", "How does a window of k tokens trade memory for loading?"],
  ["bundling", "What do other bundles bring: neurons that are active together?"],
  ["rank", "What do a predictor's bytes bring, and is there a best rank?"],
  ["scale", "What changes at 175 B parameters?"],
  ["sequences", "How does the union of neurons grow with the number of sequences?"],
  ["os_cache", "What changes with the operating system's cache on?"],
  ["sensitivity", "How sensitive is a token's time to the parameters of the cost model?"],
  ["attention", "How sensitive is it to the ratio of attention and FFN?"],
  ["roofline", "What is the largest speed-up that is possible, and where do we stand?"],
  ["hardware", "What hardware would help?"],
] as const;

const CALIBRATION_TEXT = fileURLToPath(
  new URL("../models/tales/calibration.txt", import.meta.url),
);

const HELP = `What do the ten questions of docs/questions.md come to on this machine?

  questions [NUMBER...]   all ten unless told
${QUESTIONS.map(([, text], index) => `    ${`${index + 1}`.padStart(2)}  ${text}`).join("\n")}

  --model FILE       calibrated (default: the embedded model)
  --text FILE        (default: what the embedded model was not calibrated with of its calibration text)
  --tokens N         of the trace (default 6000)
  --repeat N         runs of each way, where something is measured (default 5)
  --machine NAME     whose figures the cost model takes: ${
  Object.keys(MACHINES).join(", ")
} (default cloud)
  --probe            measure this machine's figures instead
  --plots FOLDER     draw plots there, as SVG
  --json             print the tables as JSON`;

export async function main(args: string[]): Promise<void> {
  const parsed = parseBenchArgs(args, HELP, {
    positionals: QUESTIONS.length,
    options: {
      model: { type: "string" },
      text: { type: "string" },
      tokens: { type: "string", default: "6000" },
      repeat: { type: "string", default: "5" },
      machine: { type: "string", default: "cloud" },
      probe: { type: "boolean" },
      plots: { type: "string" },
      json: { type: "boolean" },
    },
  });
  if (!parsed) return;
  const { values, positionals } = parsed;
  const numbers = positionals.length > 0
    ? positionals.map(questionNumber)
    : QUESTIONS.map((_, index) => index + 1);
  if (values.plots !== undefined && !existsSync(values.plots)) {
    throw new RangeError(`Cannot draw plots as there is no folder ${values.plots}`);
  }
  // All that may be refused is, before work begins.
  const machineNamed = machineOf(values.machine);
  const tokens = wholeNumber("tokens", values.tokens);
  const repeat = wholeNumber("repeat", values.repeat);
  const modelPath = values.model ?? await embeddedModel();
  const workbench = new Workbench({
    modelPath,
    ...(values.text === undefined ? demoDocuments(modelPath) : {
      documents: documentsOf(readFileSync(values.text, "utf8")),
      calibrationDocuments: documentsOf(readFileSync(CALIBRATION_TEXT, "utf8")),
    }),
    textName: basename(values.text ?? CALIBRATION_TEXT),
    tokens,
    repeat,
    machine: values.probe ? await probeMachine() : machineNamed,
    plotFolder: values.plots ?? null,
  });
  if (!values.json) console.log(`${runtimeName()}; ${describe(workbench.machine)}\n`);
  for (const number of numbers) {
    const [name, text] = QUESTIONS[number - 1];
    const { ask } = await import(`./questions/${name}.ts`) as { ask: Question };
    const tables = await ask(workbench);
    if (values.json) console.log(JSON.stringify({ number, question: text, tables }));
    else console.log([`# ${number}. ${text}`, ...tables.map(renderTable), ""].join("\n\n"));
  }
}

function questionNumber(text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number >= 1 && number <= QUESTIONS.length) return number;
  throw new RangeError(`Cannot ask question "${text}": there are 1 to ${QUESTIONS.length}`);
}

function machineOf(name: string): Machine {
  const found = Object.entries<Machine>(MACHINES).find(([key]) => key === name);
  if (found) return found[1];
  throw new RangeError(
    `Cannot take the figures of "${name}": there are ${Object.keys(MACHINES).join(", ")}`,
  );
}

function describe({ name, disk, memory, secondsPerLayer }: Machine): string {
  return `${name}: a read ${(1e6 * disk.secondsPerRead).toFixed(1)} us and ` +
    `${(disk.bytesPerSecond / 1e9).toFixed(2)} GB/s, the first of a burst ` +
    `${(1e6 * disk.firstReadSeconds).toFixed(0)} us more; memory ` +
    `${(memory.bytesPerSecond / 1e9).toFixed(1)} GB/s, sparse ` +
    `${(memory.sparseBytesPerSecond / 1e9).toFixed(1)}; ${
      (1e6 * secondsPerLayer).toFixed(0)
    } us a layer`;
}

function embeddedModel(): Promise<string> {
  return prepareEmbeddedModel({
    note: (line) => void process.stderr.write(line),
    isSilent: true,
    signal: new AbortController().signal,
  });
}

/** Of the calibration text, what the embedded model's predictors and order were made from, and the rest. */
function demoDocuments(modelPath: string) {
  using file = FlashFile.open(modelPath);
  const { tokenizer } = file.header;
  if (!tokenizer) throw new RangeError(`Cannot ask about ${modelPath} as it has no tokenizer`);
  const codec = new TextCodec(tokenizer, modelPath);
  const encode = (text: string) => codec.encode(text);
  const text = readFileSync(CALIBRATION_TEXT, "utf8");
  const fitted = sampleText(text, {
    encode,
    chunkLength: file.header.config.maxPositionEmbeddings,
    tokensMax: DEMO_CALIBRATION.tokensMax,
    seed: 1,
  });
  const begins = new Set(fitted.map((ids) => ids.slice(0, 16).join()));
  let orderTokens = 0;
  const wasUsed = (document: string) => {
    const ids = encode(document), wasOrdered = orderTokens < DEMO_ORDER_TOKENS;
    orderTokens += ids.length;
    return wasOrdered || begins.has(ids.slice(0, 16).join());
  };
  const { true: calibrationDocuments = [], false: documents = [] } = Object.groupBy(
    documentsOf(text),
    (document) => wasUsed(document) ? "true" : "false",
  );
  return { documents, calibrationDocuments };
}

if (import.meta.main) await main(process.argv.slice(2));
