import type { FlashHeader } from "../format/header.ts";
import type { Kernels } from "../kernels.ts";
import type { LookScratch } from "./low_rank_look.ts";

/** A layer's router: an expert is chosen if its row is among those with the largest products. */
export interface Router {
  /** Address of the matrix, [count][d]. */
  weight: number;
  dtype: "f32" | "f16";
  /** Experts, and those of them that a position has. */
  count: number;
  perToken: number;
  /** Neurons of an expert. */
  each: number;
  isNormalized: boolean;
}

/** The router of a layer whose matrix is at `weight`; null without experts. */
export function routerAt({ config, quantization }: FlashHeader, weight: number): Router | null {
  if (!config.experts) return null;
  const dtype = quantization === "f32" ? "f32" : "f16";
  return { weight, dtype, ...config.experts, each: config.intermediateSize / config.experts.count };
}

/** Names the neurons of the experts that a router chooses. Returns how many. */
export function lookRouter(
  kernels: Kernels,
  { weight, dtype, count, perToken, each }: Router,
  { prepared, scores, lowRank: chosen }: LookScratch,
  { d, n, input, mask }: { d: number; n: number; input: number; mask: number },
): number {
  kernels.prepare[dtype](input, prepared, d);
  kernels.matvec[dtype](weight, prepared, 0, scores, 0, count, d);
  kernels.chooseExperts(scores, count, perToken, chosen);
  return kernels.markExperts(chosen, perToken, each, mask, 0, n);
}
