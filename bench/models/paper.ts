import type { ModelConfig } from "../../models/config.ts";

/** ms a token. "LLM in a flash" (Alizadeh et al., arXiv 2312.11514 v3), Table 3: processor of an M1 Max, half of the memory. */
export interface PaperModel {
  readonly name: string;
  readonly naive: number;
  readonly io: number;
  readonly memory: number;
  readonly compute: number;
}

interface Known extends PaperModel {
  /** What a file of it says. */
  readonly architectures: readonly string[];
  readonly hiddenSize: number;
  readonly numLayers: number;
}

const KNOWN: readonly Known[] = [
  {
    name: "OPT 6.7B",
    ...of(["opt"], 4096, 32),
    ...{ naive: 3182, io: 105, memory: 58, compute: 506 },
  },
  {
    name: "Falcon 7B",
    ...of(["falcon"], 4544, 32),
    ...{ naive: 3095, io: 161, memory: 92, compute: 453 },
  },
  {
    name: "Persimmon 8B",
    ...of(["persimmon"], 4096, 36),
    ...{ naive: 3806, io: 283, memory: 98, compute: 660 },
  },
  {
    // At 65 % of the memory.
    name: "Phi-2",
    ...of(["phi"], 2560, 32),
    ...{ naive: 1287, io: 211, memory: 76, compute: 259 },
  },
  {
    name: "Llama 2 7B",
    ...of(["llama", "sparsellama"], 4096, 32),
    ...{ naive: 3095, io: 279, memory: 152, compute: 563 },
  },
];

/** What the paper tells of a model like this; null of others. */
export function paperModel(
  { architecture, config }: {
    architecture: string;
    config: Pick<ModelConfig, "hiddenSize" | "numLayers">;
  },
): PaperModel | null {
  return KNOWN.find(({ architectures, hiddenSize, numLayers }) =>
    architectures.includes(architecture) && hiddenSize === config.hiddenSize &&
    numLayers === config.numLayers
  ) ?? null;
}

function of(architectures: string[], hiddenSize: number, numLayers: number) {
  return { architectures, hiddenSize, numLayers };
}
