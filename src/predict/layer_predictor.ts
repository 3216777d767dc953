import type { PredictorLayer, StoredTensor } from "../format/header.ts";
import type { Kernels } from "../kernels.ts";
import { type BitPlanes, lookBitPlanes } from "./bit_planes_look.ts";
import { lookLowRank } from "./low_rank_look.ts";
import type { LookScratch, LowRank } from "./low_rank_look.ts";
import { lookRouter } from "./router_look.ts";
import type { Router } from "./router_look.ts";

/** Addresses of what each look adds to its scores, f32[n]. */
interface Biases {
  bias: number;
  earlyBias: number;
}

/** Names by scores: a neuron whose score plus bias is above 0. */
export type ScoringPredictor =
  & Biases
  & (({ kind: "low-rank" } & LowRank) | ({ kind: "bit-planes" } & BitPlanes));

/** Addresses of what names a layer's neurons: a predictor, or the router of its experts. */
export type LayerPredictor = ScoringPredictor | ({ kind: "router" } & Router);

/** The predictor whose tensors lie where `at` says. */
export function locatePredictor(
  layer: PredictorLayer,
  at: (tensor: StoredTensor) => number,
): ScoringPredictor {
  const biases = { bias: at(layer.bias), earlyBias: at(layer.earlyBias) };
  if ("rank" in layer) {
    return { kind: "low-rank", rank: layer.rank, a: at(layer.a), b: at(layer.b), ...biases };
  }
  return {
    kind: "bit-planes",
    bits: layer.bits,
    planes: at(layer.planes),
    rowScales: at(layer.rowScales),
    mean: at(layer.mean),
    earlyMean: at(layer.earlyMean),
    ...biases,
  };
}

/**
 * A whole look by one thread. Returns how many neurons it names. Lanes share the same products among them
 * (src/lane/late_look.ts), with the same bits.
 *
 * @param input f32[d], after the FFN's norm @param mask u32[n / 32]
 */
export function look(
  kernels: Kernels,
  predictor: LayerPredictor,
  scratch: LookScratch,
  { d, n, input, isEarly, mask }: {
    d: number;
    n: number;
    input: number;
    isEarly: boolean;
    mask: number;
  },
): number {
  const sizes = { d, n, input };
  if (predictor.kind === "router") {
    return lookRouter(kernels, predictor, scratch, { ...sizes, mask });
  }
  if (predictor.kind === "low-rank") lookLowRank(kernels, predictor, scratch, sizes);
  else lookBitPlanes(kernels, predictor, scratch, { ...sizes, isEarly });
  const bias = isEarly ? predictor.earlyBias : predictor.bias;
  return kernels.thresholdMask(scratch.scores, bias, mask, 0, n);
}
