import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TopLevelSpec } from "vega-lite";
import { renderPlot } from "../../src/cli/plot.ts";
import { DOCUMENT_END } from "../../src/documents.ts";
import { FlashFile } from "../../src/format/flash_file.ts";
import { matrixByteLength } from "../../src/format/layout.ts";
import { residentSections } from "../../src/plan.ts";
import type { Machine, ResidentBytes } from "../../src/simulate/cost_model.ts";
import type { NeuronTrace } from "../../src/simulate/neuron_trace.ts";
import { traceInMemory } from "../../src/simulate/record_trace.ts";
import type { Table } from "./table.ts";

/** What the questions are asked with. */
export interface WorkbenchOptions {
  modelPath: string;
  /** Documents that the predictors were not fitted to. */
  documents: readonly string[];
  /** Others, to fit predictors to. */
  calibrationDocuments: readonly string[];
  textName: string;
  /** Tokens of the trace. */
  tokens: number;
  /** Runs of each way, where something is measured. */
  repeat: number;
  machine: Machine;
  /** Where plots go; null for none. */
  plotFolder: string | null;
}

/** A question: answers with its tables, and draws its plots. */
export type Question = (workbench: Workbench) => Promise<Table[]>;

/** The material of all questions; the trace is recorded once, when first asked for. */
export class Workbench {
  readonly options: WorkbenchOptions;
  #trace: Promise<NeuronTrace> | undefined;

  constructor(options: WorkbenchOptions) {
    this.options = options;
  }

  get machine(): Machine {
    return this.options.machine;
  }

  /** Which neurons each layer of each token of the text uses. */
  trace(): Promise<NeuronTrace> {
    this.#trace ??= this.#record();
    return this.#trace;
  }

  residentBytes(): ResidentBytes {
    return residentBytesOf(this.options.modelPath);
  }

  async plot(name: string, spec: TopLevelSpec): Promise<void> {
    const { plotFolder } = this.options;
    if (plotFolder !== null) writeFileSync(join(plotFolder, `${name}.svg`), await renderPlot(spec));
  }

  async #record(): Promise<NeuronTrace> {
    const { modelPath: path, documents, textName, tokens: tokensMax } = this.options;
    return await traceInMemory({
      path,
      text: documents.join(DOCUMENT_END),
      textName,
      tokensMax,
    });
  }
}

/** Bytes that are in memory for good: embeddings, norms and what layers have beside the FFN. */
export function residentBytesOf(path: string): ResidentBytes {
  using file = FlashFile.open(path);
  const { header } = file, { vocabSize, hiddenSize } = header.config;
  const logitsBytes = matrixByteLength(header.quantization, vocabSize, hiddenSize);
  const layers = { from: 0, to: header.config.numLayers };
  const all = residentSections(header, layers).reduce((sum, { byteLength }) => sum + byteLength, 0);
  return { layerBytes: all - logitsBytes, logitsBytes };
}
