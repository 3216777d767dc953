import type { ModelConfig } from "./config.ts";

/** Rows of a matrix that follow each other. */
export interface RowRun {
  readonly from: number;
  readonly count: number;
}

/** Some rows of a tensor of a checkpoint, which become a tensor of ours: queries out of a fused matrix, or an expert out of a stack. */
export interface FusedSource {
  readonly name: string;
  /** Rows of the whole tensor. */
  rows(config: ModelConfig): number;
  /** Matrices that are stacked to one tensor with three dimensions, each with as many of the rows; default: it has two. */
  stacked?(config: ModelConfig): number;
  /** Those rows that are ours, in our order; of a stack matrix `expert`. */
  runs(config: ModelConfig, expert: number): RowRun[];
}

/**
 * Where our tensors come from, by our names with `N` for the number of a layer and `E` for that of an expert, without `.weight` and
 * `.bias`:
 *
 *     "layers.N.attention.query": "layers.N.self_attn.q_proj"
 */
export type SourceNames = Readonly<Record<string, string | FusedSource>>;

/** What the tensors of a checkpoint are called. */
export interface TensorNames {
  /** Prefixes before the source names that checkpoints are seen with. */
  readonly prefixes: readonly string[];
  readonly sources: SourceNames | ((config: ModelConfig) => SourceNames);
  /** Added to the weights of norms, which some checkpoints keep as differences to 1. */
  readonly normOffset?: number;
  /** Tensors that may be there and are not needed. */
  readonly ignored?: readonly RegExp[];
}

/** A model family: how its `config.json` is read, and what its tensors are called. */
export interface ModelFamily extends TensorNames {
  /** `model_type` in config.json. */
  readonly modelType: string;
  /** What people call it, for lists. */
  readonly title: string;
  /**
   * Tiny models of this family in tests/fixtures, whose logits and greedy ids an independent implementation computed: what
   * tests/families_test.ts proves it with.
   */
  readonly fixtures: readonly string[];
  /** Reads a parsed config.json; throws `ModelFileError` (damaged) or `UnsupportedModelError` (not run by us). */
  readConfig(json: unknown, path: string): ModelConfig;
}
