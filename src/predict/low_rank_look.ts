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

/**
 * A whole look by one thread: mask = B (A x) + bias > 0, in q8. Returns how many neurons it names. Lanes share the same
 * products among them (src/lane/late_look.ts), with the same bits.
 *
 * @param input f32[d] @param bias f32[n] @param mask u32[n / 32]
 */
export function lookLowRank(
  kernels: Kernels,
  { rank, a, b }: LowRank,
  scratch: LookScratch,
  { d, n, input, bias, mask }: { d: number; n: number; input: number; bias: number; mask: number },
): number {
  const { prepared, lowRank, lowRankPrepared, scores } = scratch;
  kernels.prepare.q8(input, prepared, d);
  kernels.matvec.q8(a, prepared, 0, lowRank, 0, rank, d);
  kernels.prepare.q8(lowRank, lowRankPrepared, rank);
  kernels.matvec.q8(b, lowRankPrepared, 0, scores, 0, n, rank);
  return kernels.thresholdMask(scores, bias, mask, 0, n);
}
