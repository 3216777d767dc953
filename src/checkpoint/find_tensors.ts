import type { ModelConfig } from "../../models/config.ts";
import type { FusedSource, RowRun, SourceNames, TensorNames } from "../../models/family.ts";
import { ModelFileError } from "../errors.ts";
import { type Checkpoint, floatByteLength } from "./checkpoint.ts";
import type { SourceTensor } from "./source_tensor.ts";

/** A tensor of ours in a checkpoint. */
export interface FoundTensor {
  readonly source: SourceTensor;
  /** Rows of `source` that are ours, in our order; of a vector, numbers. */
  readonly runs: readonly RowRun[];
  /** Added to each number. */
  readonly offset: number;
}

/** Finds our tensors in a checkpoint by what they are called there, and keeps account of what nobody asked for. */
export class TensorFinder {
  readonly #weights: Checkpoint;
  readonly #names: TensorNames;
  readonly #config: ModelConfig;
  readonly #sources: SourceNames;
  readonly #used = new Set<string>();

  constructor(weights: Checkpoint, names: TensorNames, config: ModelConfig) {
    const { sources } = names;
    this.#weights = weights;
    this.#names = names;
    this.#config = config;
    this.#sources = typeof sources === "function" ? sources(config) : sources;
  }

  /**
   * @param name ours: `layers.3.attention.query.weight`, `layers.3.ffn.experts.5.gate.weight`, `embedTokens`
   * @throws {ModelFileError} if it is missing, of another shape, or no floats
   */
  find(name: string, shape: readonly number[]): FoundTensor {
    const [, layer, part = name] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [];
    const kind = part.endsWith(".bias") ? "bias" : "weight";
    const [, expert] = /\.experts\.(\d+)\./.exec(part) ?? [];
    const key = (layer === undefined ? "" : "layers.N.") +
      part.replace(/\.(weight|bias)$/, "").replace(`.experts.${expert}.`, ".experts.E.");
    const source = this.#sources[key];
    if (source === undefined) throw new Error(`${name} has no name in this checkpoint`);
    const template = typeof source === "string" ? source : source.name;
    const theirs = `${template}.${kind}`.replace(".N.", `.${layer}.`).replace(".E.", `.${expert}.`);
    const { shape: wanted, runs } = typeof source === "string"
      ? { shape, runs: [{ from: 0, count: shape[0] }] }
      : placeOf(source, this.#config, { shape, expert: Number(expert ?? 0) });
    const offset = key.endsWith("Norm") && kind === "weight" ? this.#names.normOffset ?? 0 : 0;
    return { source: this.#findSource(theirs, wanted), runs, offset };
  }

  /** Tensors of the checkpoint that nothing is made from, and that are not expected there either. */
  unused(): string[] {
    const { ignored = [], prefixes } = this.#names, { tiedEmbedding } = this.#config;
    const head = this.#sources.lmHead;
    const heads = tiedEmbedding ? prefixes.map((prefix) => `${prefix}${head}.weight`) : [];
    return [...this.#weights.tensors.keys()].filter((name) =>
      !this.#used.has(name) && !heads.includes(name) &&
      !ignored.some((pattern) => pattern.test(name))
    );
  }

  #findSource(name: string, shape: readonly number[]): SourceTensor {
    const { tensors, sources: [first] } = this.#weights;
    const tensor = this.#names.prefixes.map((prefix) => tensors.get(prefix + name)).find(Boolean);
    if (tensor === undefined) {
      const field = this.#names.prefixes[0] + name;
      throw new ModelFileError(`tensor ${field} is missing`, {
        path: first.path,
        field,
        byteOffset: 8,
      });
    }
    floatByteLength(tensor);
    if (tensor.unreadable !== undefined) {
      const { source: { path }, byteOffset } = tensor;
      throw new ModelFileError(tensor.unreadable, { path, field: tensor.name, byteOffset });
    }
    if (String(tensor.shape) !== String(shape)) {
      const problem = `tensor ${tensor.name} has shape [${tensor.shape}], expected [${shape}]`;
      const { source: { path }, byteOffset } = tensor;
      throw new ModelFileError(problem, { path, field: `${tensor.name}.shape`, byteOffset });
    }
    this.#used.add(tensor.name);
    return tensor;
  }
}

/** What a fused tensor must look like, and which of its rows a tensor of ours with this shape has. */
function placeOf(
  source: FusedSource,
  config: ModelConfig,
  { shape: [, ...cols], expert }: { shape: readonly number[]; expert: number },
): { shape: number[]; runs: RowRun[] } {
  const rows = source.rows(config), stacked = source.stacked?.(config);
  const runs = source.runs(config, expert);
  return { shape: stacked ? [stacked, rows / stacked, ...cols] : [rows, ...cols], runs };
}
