import type { Kernels } from "../kernels.ts";
import type { LookScratch } from "./low_rank_look.ts";

/** Addresses of a training-free predictor: the up rows in a few bits a weight. */
export interface BitPlanes {
  bits: number;
  /** u1[n][bits][d] */
  planes: number;
  /** f32[n] */
  rowScales: number;
  /** f32[d] each: what each look subtracts from its input. */
  mean: number;
  earlyMean: number;
}

/** scores = rowScale * (planes (x - mean)), in integers. */
export function lookBitPlanes(
  kernels: Kernels,
  { bits, planes, rowScales, mean, earlyMean }: BitPlanes,
  { prepared, scores }: Pick<LookScratch, "prepared" | "scores">,
  { d, n, input, isEarly }: { d: number; n: number; input: number; isEarly: boolean },
): void {
  kernels.preparePlanes(input, isEarly ? earlyMean : mean, prepared, d);
  kernels.planeScores(planes, prepared, rowScales, scores, 0, n, bits, d);
}
