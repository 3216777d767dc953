import { z } from "zod";
import { QUANTIZATIONS, vectorByteLength } from "../format/layout.ts";
import { FFN_MODES } from "../pipeline/options.ts";

/**
 * The bytes of a neuron trace (docs/trace_format.md): which neurons each layer of each token used, as a stream that can be
 * written while the model runs and is whole only when its end is there.
 *
 *   | magic | version | header length | header checksum | header, JSON | records | end |
 */
export const TRACE_MAGIC = "FLASHTRC";
export const TRACE_VERSION = 1;
/** Magic, then three u32. */
export const TRACE_PREFIX_BYTES = 20;
export const TRACE_HEADER_BYTES_MAX = 16 * 2 ** 20;

/** Tag bytes of records. */
export const TRACE_TAGS = {
  /** Token count, u32, and CRC-32 of all records before it, u32: nothing follows. */
  end: 0,
  /** The sets of one token. */
  token: 1,
  /** The next token begins a document, with an empty KV cache. */
  document: 2,
  /** The next token goes on with a document that was longer than the context, with an empty KV cache. */
  chunk: 3,
} as const;

/** What is known of each token and layer; `active` always, the others if the file has predictors. */
export const SET_NAMES = ["active", "predicted", "early"] as const;
export type SetName = (typeof SET_NAMES)[number];

const count = z.int().min(1).max(2 ** 24);
const bytes = z.int().min(0).max(Number.MAX_SAFE_INTEGER);
const share = z.number().min(0).max(1);

export const traceHeaderSchema = z.strictObject({
  createdBy: z.string().max(300),
  /** Names, not paths. */
  modelName: z.string().max(300),
  textName: z.string().max(300),
  /** How the FFN was computed while it was recorded. */
  mode: z.enum(FFN_MODES),
  sets: z.array(z.enum(SET_NAMES)).min(1).max(SET_NAMES.length),
  numLayers: z.int().min(1).max(4096),
  intermediateSize: count,
  hiddenSize: count,
  /** Of the bundles. */
  quantization: z.enum(QUANTIZATIONS),
  /** Of bundles that are stored without their zeros: see `ffnCapacities` of the model file. */
  capacities: z.array(z.int().min(0).max(2 ** 32)).min(2).max(3).optional(),
  /** From bundle to bundle, and where the first one of each layer lies in the model file. */
  strideBytes: z.int().min(1).max(2 ** 30),
  layerByteOffsets: z.array(bytes),
  /** The neuron of each bundle of each layer; empty where all lie in the order of their numbers. */
  orders: z.array(z.array(z.int().min(0).max(2 ** 24))),
  /** Of the disk on which the model lay. */
  blockByteLength: z.int().min(1).max(2 ** 20),
  /** What slots are divided by; empty without predictors. */
  missCurves: z.array(
    z.strictObject({ slots: z.array(bytes), missesPerToken: z.array(z.number().min(0)) }),
  ),
  predictedShares: z.array(share),
});
export type TraceHeader = z.infer<typeof traceHeaderSchema>;

/** Vectors of a bundle: 2, or 3 with a gate. Bundles with their zeros have nothing else, so their stride tells. */
export function vectorsOf(
  { quantization, hiddenSize, strideBytes, capacities }: TraceHeader,
): number {
  return capacities?.length ?? strideBytes / vectorByteLength(quantization, hiddenSize);
}
