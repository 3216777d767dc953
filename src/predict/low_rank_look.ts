import type { Kernels } from "../kernels.ts";

/** Addresses of a low-rank predictor: A, q8[rank][d], and B, q8[n][rank]. */
export interface LowRank {
  rank: number;
  a: number;
  b: number;
}

/** Addresses of what a look needs on its way. */
export interface LookScratch {
  /** f32[d], prepared. */
  prepared: number;
  /** f32[rank], and the same prepared. */
  lowRank: number;
  lowRankPrepared: number;
  /** f32[n] */
  scores: number;
}

/** scores = B (A x), in q8. */
export function lookLowRank(
  kernels: Kernels,
  { rank, a, b }: LowRank,
  scratch: LookScratch,
  { d, n, input }: { d: number; n: number; input: number },
): void {
  const { prepared, lowRank, lowRankPrepared, scores } = scratch;
  kernels.prepare.q8(input, prepared, d);
  kernels.matvec.q8(a, prepared, 0, lowRank, 0, rank, d);
  kernels.prepare.q8(lowRank, lowRankPrepared, rank);
  kernels.matvec.q8(b, lowRankPrepared, 0, scores, 0, n, rank);
}
