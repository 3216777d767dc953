import type { ModelConfig } from "../../models/config.ts";
import type { ArenaPlan, PageShape, RecordShape } from "../arena.ts";
import type { AuditOptions } from "../audit/audit_options.ts";
import type { PolicyChoice } from "../cache/policies.ts";
import type { ReadPlanOptions } from "../cache/read_plan.ts";
import type { ReaderOptions } from "../flash/reader_options.ts";
import type { Quantization } from "../format/layout.ts";
import type { KernelModule } from "../kernels.ts";
import type { LayerPredictor } from "../predict/layer_predictor.ts";
import type { ControlShare } from "./control.ts";

/**
 * How the FFN may be computed: what the predictor names, the true active set, those whose activation is not small (which approximates
 * models that leave hardly anything at zero), or all neurons.
 */
export type FfnChoice = "predicted" | "exact" | "magnitude" | "dense";

/** How it is computed; `routed`: the experts that a router chooses, which nobody else can. */
export type FfnMode = FfnChoice | "routed";

export const FFN_CHOICES: readonly FfnChoice[] = ["predicted", "exact", "magnitude", "dense"];
export const FFN_MODES: readonly FfnMode[] = [...FFN_CHOICES, "routed"];

/** Whether the rows that decide stay in memory, gates or up rows, so that activations (or gates) are known before anything is read. */
export function hasResidentRows(mode: FfnMode): boolean {
  return mode === "exact" || mode === "magnitude";
}

/** Addresses of a matrix or vector and of its bias in the arena; 0 where the model has no bias. */
export interface WeightPair {
  weight: number;
  bias: number;
}

/** Addresses of one layer's resident weights. */
export interface LayerWeights {
  attentionNorm: WeightPair;
  query: WeightPair;
  key: WeightPair;
  value: WeightPair;
  /** Norms of each head's queries and keys. */
  queryNorm: WeightPair | null;
  keyNorm: WeightPair | null;
  output: WeightPair;
  /** Norms of what a half adds, where the model has them. */
  attentionOutputNorm: WeightPair | null;
  ffnOutputNorm: WeightPair | null;
  /** That of attention, where both halves have one input. */
  ffnNorm: WeightPair;
  gateBias: number;
  upBias: number;
  downBias: number;
  predictor: LayerPredictor | null;
}

/** A memory, and what lies where in it. */
export interface ArenaShare {
  memory: WebAssembly.Memory;
  plan: ArenaPlan;
}

/** The index of the arena that has layer `layer`. */
export function arenaIndexOf(arenas: readonly ArenaShare[], layer: number): number {
  return arenas.findIndex(({ plan }) => layer < plan.range.to);
}

/** Addresses of the resident weights: those of a layer in its arena, the others in the first. */
export interface ModelWeights {
  embedTokens: number;
  /** A table of learned positions, if the model has one. */
  embedPositions: { address: number; dtype: "f32" | "f16"; rows: number } | null;
  /** From embeddings to the residual stream and back, where their lengths differ. */
  projectIn: number;
  projectOut: number;
  finalNorm: WeightPair | null;
  /** The output matrix; the embedding if the model ties them. */
  output: WeightPair;
  layers: LayerWeights[];
}

/** Where a layer's bundles lie in the file and its neurons in memory. */
export interface LayerFlash {
  /** Index of the arena that the layer lies in. */
  arena: number;
  /** Address of slot 0 there. */
  slots: number;
  /** Byte offset of bundle 0 in the file. */
  byteOffset: number;
  slotCount: number;
  /** All of its neurons lie in their slots from the start. */
  isResident: boolean;
  /** Landing flag of slot 0, counted from the first flag. */
  flag: number;
  /** Where each neuron's bundle lies among those of the layer (shared); undefined: in the order of the neurons. */
  positionOf?: Int32Array;
}

/** A piece of what is resident, to be read before layer `layer` is computed. */
export interface RereadPiece {
  layer: number;
  byteOffset: number;
  byteLength: number;
}

/** All that lanes and the predictor are started with; the same for each, but for `thread`. */
export interface PipelineOptions {
  control: ControlShare;
  /** Usually one; each layer lies in one of them. */
  arenas: ArenaShare[];
  kernels: KernelModule;
  mode: FfnMode;
  /** Of each layer: the magnitude below which an activation is taken as zero; null in all modes but `magnitude`. */
  cuts: readonly number[] | null;
  /** What the model is. */
  sizes: ModelConfig;
  /** Of resident matrices. */
  quantization: Quantization;
  /** Of the FFN: bundles, and the resident rows of `exact` and `magnitude`. */
  ffnQuantization: Quantization;
  /** Bundles are stored without their zeros: see `Expander`. */
  isPruned: boolean;
  contextLength: number;
  pages: PageShape;
  /** Pages of the KV cache take slots as the context grows: see `PoolKeeper`. */
  isPoolShared: boolean;
  /** Positions of a step, at most. */
  positionsMax: number;
  /** Positions of a prompt's chunk, and tokens of a draft, at most. */
  promptChunk: number;
  draftsMax: number;
  /** Share of the time that drafts may lose: see `DraftBalance`. */
  draftLoss: number;
  weights: ModelWeights;
  flash: {
    layers: LayerFlash[];
    strideBytes: number;
    /** The part of a bundle that is read: all of it, or what comes behind the resident row (`exact`, `magnitude`). */
    record: RecordShape;
    slotByteLength: number;
    readPlan: ReadPlanOptions;
    /** All layers are resident. */
    isResident: boolean;
    /** Reads of a record: 1, or as many as it has vectors; see `OpenOptions.unbundled`. */
    readsPerRecord: number;
    /** What `dense` reads anew for each token, to no purpose; see `OpenOptions.naive`. */
    rereads: RereadPiece[];
    staging: {
      chunkCount: number;
      chunkByteLength: number;
      /** Bytes of a neuron's place in a chunk whose neurons are read one by one. */
      placeByteLength: number;
      neuronsPerChunk: number;
      /** The first landing flag of the first arena's buffers. */
      flag: number;
      /** Landing flags of a chunk: one, or one a neuron where neurons are read one by one. */
      flagsPerChunk: number;
      /** Landing flags of an arena's buffers. */
      flagsPerArena: number;
    };
  };
  /** Which neurons make room for others. */
  policy: PolicyChoice;
  earlyLook: boolean;
  passNeuronsMax: number;
  /** The same for steps of several positions. */
  batchPassNeuronsMax: number;
  logitsRows: number;
  observationRows: number;
  /** For the predictor: look at neurons outside the predicted set. */
  audit?: AuditOptions;
  /** The predictor reads by itself, with io_uring; there is no reader worker. */
  inlineReader?: ReaderOptions;
  trace?: SharedArrayBuffer;
  timeOrigin: number;
}
