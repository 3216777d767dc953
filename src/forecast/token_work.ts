import { isSparse } from "../activation.ts";
import type { PolicyName } from "../cache/policies.ts";
import { ticketCapacity } from "../flash/ticket.ts";
import type { FlashHeader, PredictorLayer } from "../format/header.ts";
import { isReordered } from "../format/header.ts";
import type { Quantization } from "../format/layout.ts";
import { bundleByteLength, matrixByteLength } from "../format/layout.ts";
import { PAGE_POSITIONS } from "../kv_page.ts";
import { hasResidentRows } from "../pipeline/options.ts";
import { BOUNCE_BYTES } from "../plan.ts";
import type { Plan } from "../plan.ts";
import {
  EARLY_FOUND,
  EARLY_USED,
  EARLY_VAIN,
  PRUNED_COST,
  UNKNOWN_ACTIVE_SHARE,
} from "./engine_costs.ts";
import { expectedMisses } from "./expected_misses.ts";
import { expectedReads } from "./expected_reads.ts";
import type { ExpectedReads } from "./expected_reads.ts";
import type { KernelWork } from "./speeds.ts";

/** What a token asks of one layer: bytes by kernel and dtype, and reads. Counts are means. */
export interface LayerWork {
  attention: KernelWork[];
  /** The late look; the early look asks the same once more, of the predictor's thread. */
  look: KernelWork[];
  /** Up dots of all neurons on the list, and down columns of those that are active. */
  up: KernelWork[];
  down: KernelWork[];
  listed: number;
  /** Of the list, not in a slot when the late look comes, early reads aside. */
  misses: number;
  /** Of the misses, begun by the early look. */
  earlyStarted: number;
  early: ExpectedReads;
  late: ExpectedReads;
  /** All of its neurons are in memory from the start. */
  isResident?: boolean;
}

/** What a token asks of the machine. */
export interface TokenWork {
  layers: LayerWork[];
  logits: KernelWork[];
  hasEarlyLook: boolean;
  /** FFN neurons of all layers. */
  neuronCount: number;
  /** Late tickets that find a place in the rings. */
  ticketPlaces: number;
  /** In `dense`, the bundles of layers that are not resident are read as one stream of so many bytes a layer. */
  streamedBytes: number;
  /** Weights that a token goes through. */
  workingBytes: number;
}

export interface RunShape {
  plan: Plan;
  policy: PolicyName;
  gapBytes: number;
  hasEarlyLook: boolean;
  /** Tokens before this one, in the KV cache. */
  position: number;
}

/** The work of a token of this file under this plan: every number that a forecast's times come from. */
export function tokenWork(header: FlashHeader, run: RunShape): TokenWork {
  const { config, quantization } = header, { hiddenSize: d, vocabSize } = config;
  const { readerCount } = run.plan.shape;
  const layers = header.layers.map((_, layer) => layerWork(header, run, layer));
  const logits = [matvec(quantization, vocabSize, d)];
  const workingBytes = [
    ...logits,
    ...layers.flatMap(({ attention, look, up, down }) => [...attention, ...look, ...up, ...down]),
  ].reduce((sum, { byteLength }) => sum + byteLength, 0);
  const isStreamed = run.plan.mode === "dense" && !run.plan.isResident;
  const { bundleByteLength, count } = header.layers[0].bundles;
  return {
    layers,
    logits,
    hasEarlyLook: run.hasEarlyLook,
    neuronCount: config.numLayers * config.intermediateSize,
    ticketPlaces: readerCount * ticketCapacity(config.intermediateSize, readerCount).late,
    streamedBytes: isStreamed ? bundleByteLength * count : 0,
    workingBytes,
  };
}

function layerWork(header: FlashHeader, run: RunShape, layer: number): LayerWork {
  const { config, quantization } = header, { plan } = run;
  const { hiddenSize: d, intermediateSize: n } = config, { mode } = plan;
  const predictor = header.predictors?.layers[layer];
  const { pages } = plan.shape, keyValueBytes = pages.byteLength / PAGE_POSITIONS * run.position;
  const active = routedOf(config) * activeShareOf(header, plan, predictor);
  const listed = {
    predicted: n * (predictor?.predictedShare ?? 0),
    exact: active,
    magnitude: active,
    dense: n,
    routed: routedOf(config),
  }[mode];
  const hasRows = hasResidentRows(mode), { isGated } = config.ffn;
  // With its zeros: so they are computed with.
  const part = bundleByteLength(header.ffnQuantization, d, isGated) /
    (hasRows && isGated ? 3 : 2) * (header.ffnCapacities ? PRUNED_COST : 1);
  const bundles = (kernel: "up" | "down", count: number): KernelWork => ({
    kernel,
    dtype: header.ffnQuantization,
    cols: d,
    byteLength: count * part,
  });
  return {
    attention: [
      ...[0, 1, 2, 3].map(() => matvec(quantization, d, d)),
      { kernel: "attention", dtype: pages.kv, cols: d, byteLength: keyValueBytes },
    ],
    look: lookOf(header, run, predictor),
    up: hasRows && !isGated ? [] : [bundles("up", listed)],
    down: [bundles("down", Math.min(active, listed))],
    listed,
    isResident: plan.residentLayers[layer],
    ...readsOf(header, run, layer, listed),
  };
}

/** Share of the neurons whose activation is not zero, or not taken as zero. */
function activeShareOf(
  { config }: FlashHeader,
  { mode, sparsity }: Plan,
  predictor: PredictorLayer | undefined,
): number {
  if (mode === "magnitude") return 1 - sparsity!;
  return predictor?.activeShare ?? (isSparse(config) ? UNKNOWN_ACTIVE_SHARE : 1);
}

function lookOf(
  { config, ffnQuantization }: FlashHeader,
  { plan }: RunShape,
  predictor: PredictorLayer | undefined,
): KernelWork[] {
  const { hiddenSize: d, intermediateSize: n } = config;
  if (plan.mode === "dense") return [];
  const router = config.experts ? [matvec("f16", config.experts.count, d)] : [];
  if (plan.mode === "routed") return router;
  if (hasResidentRows(plan.mode) || !predictor) {
    return [...router, matvec(ffnQuantization, routedOf(config), d)];
  }
  if ("rank" in predictor) {
    return [matvec("q8", predictor.rank, d), matvec("q8", n, predictor.rank)];
  }
  const { byteLength } = predictor.planes;
  return [{ kernel: "planes", dtype: "u1", cols: d, byteLength }];
}

/** Misses, those that the early look begins, and the reads of both. */
function readsOf(header: FlashHeader, run: RunShape, layer: number, listed: number) {
  const { plan, policy, gapBytes, hasEarlyLook } = run, { predictors, config } = header;
  const neuronCount = config.intermediateSize, slots = plan.slotCounts[layer];
  const none: ExpectedReads = { reads: 0, bytes: 0, scattered: 0 };
  if (plan.mode === "dense") return { misses: 0, earlyStarted: 0, early: none, late: none };
  const curve = predictors?.missCurves[layer] ?? null;
  const curveListed = neuronCount * (predictors?.layers[layer].predictedShare ?? 0);
  const isEven = !isSparse(config) && plan.mode !== "routed";
  const layerList = { listed, slots, neuronCount, curve, curveListed, policy, isEven };
  const misses = expectedMisses(layerList);
  const { readerCount } = plan.shape, tickets = ticketCapacity(neuronCount, readerCount);
  const room = Math.min(tickets.early * readerCount, slots / 2);
  const earlyStarted = hasEarlyLook ? Math.min(EARLY_FOUND * misses, EARLY_USED * room) : 0;
  const shape = {
    neuronCount,
    strideBytes: header.layers[layer].bundles.bundleByteLength,
    recordBytes: plan.record.byteLength,
    blockByteLength: plan.blockByteLength,
    gapBytesMax: gapBytes,
    mergedBytesMax: BOUNCE_BYTES,
    isOrdered: isReordered(header),
  };
  return {
    misses,
    earlyStarted,
    early: expectedReads((1 + EARLY_VAIN) * earlyStarted, shape),
    late: expectedReads(misses - earlyStarted, shape, listed > slots),
  };
}

function matvec(dtype: Quantization, rows: number, cols: number) {
  return {
    kernel: "matvec" as const,
    dtype,
    cols,
    byteLength: matrixByteLength(dtype, rows, cols),
  };
}

/** Neurons of the experts that a position has; without experts all. */
function routedOf({ experts, intermediateSize }: FlashHeader["config"]): number {
  return experts ? intermediateSize / experts.count * experts.perToken : intermediateSize;
}
