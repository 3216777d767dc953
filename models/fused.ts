import type { ModelConfig } from "./config.ts";
import type { FusedSource, RowRun } from "./family.ts";

/** Rows of a matrix in which each group has some queries, and then its key and its value. */
type Part = "query" | "key" | "value";

/**
 * Queries, keys and values of one matrix, group after group: each has the queries that share a key and a value, then
 * that key, then that value. (Falcon; with one query a group Persimmon.)
 */
export function fusedByGroup(name: string): Record<`layers.N.attention.${Part}`, FusedSource> {
  const part = (part: Part): FusedSource => ({
    name,
    rows: ({ numAttentionHeads, numKeyValueHeads, headDim }) =>
      (numAttentionHeads + 2 * numKeyValueHeads) * headDim,
    runs: (config) => runsOf(config, part),
  });
  return {
    "layers.N.attention.query": part("query"),
    "layers.N.attention.key": part("key"),
    "layers.N.attention.value": part("value"),
  };
}

function runsOf(
  { numAttentionHeads, numKeyValueHeads, headDim }: ModelConfig,
  part: Part,
): RowRun[] {
  const queries = numAttentionHeads / numKeyValueHeads;
  const first = part === "query" ? 0 : part === "key" ? queries : queries + 1;
  const count = (part === "query" ? queries : 1) * headDim;
  return Array.from({ length: numKeyValueHeads }, (_, group) => ({
    from: (group * (queries + 2) + first) * headDim,
    count,
  }));
}
