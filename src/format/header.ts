import { z } from "zod";
import { modelConfigSchema } from "../../models/config.ts";
import { isBlocked, matrixByteLength, QUANTIZATIONS } from "./layout.ts";
import type { BundleForm } from "./layout.ts";

/**
 * The header of a `.flash` file (docs/model_format.md): its schema and types. What a schema cannot say is checked in
 * check_header.ts.
 */

/** Sections begin at multiples of this, so that any disk can read them directly. */
export const SECTION_ALIGNMENT = 4096;
/** Tensors begin at multiples of this within a section: a cache line. */
export const TENSOR_ALIGNMENT = 64;
/** Bits of a weight in bit planes, at most. */
export const PLANE_BITS_MAX = 4;
/** Bytes before the first section. */
export const PRELUDE_BYTES = 4096;

const LENGTH_MAX = Number.MAX_SAFE_INTEGER;
const offset = z.int().min(PRELUDE_BYTES).max(LENGTH_MAX);
const checksum = z.int().min(0).max(0xffffffff);
const share = z.number().min(0).max(1);
const text = z.string().max(4096);

const size = z.int().min(1).max(2 ** 32);

const tensorRefShape = {
  dtype: z.enum(QUANTIZATIONS),
  layout: z.enum(["tiled", "rows"]),
  shape: z.array(size).min(1).max(2),
  byteOffset: offset,
  byteLength: z.int().min(1).max(LENGTH_MAX),
  checksum,
};

const tensorRefSchema = z.strictObject(tensorRefShape);

const planesRefSchema = z.strictObject({
  ...tensorRefShape,
  dtype: z.literal("u1"),
  layout: z.literal("planes"),
  shape: z.array(size).length(3),
});

const bundlesSchema = z.strictObject({
  byteOffset: offset,
  bundleByteLength: z.int().min(1).max(2 ** 32),
  count: z.int().min(1).max(2 ** 32),
  /** `null`: neuron i is bundle i. Else the neuron of each bundle, u32 little-endian: see neuron_order.ts. */
  order: z.instanceof(Uint8Array).nullable(),
  groupCount: z.int().min(1).max(2 ** 32),
  checksums: z.instanceof(Uint8Array),
});

/** What is added to a layer's biases for another recall; older files have none. */
const recallCurveSchema = z.strictObject({
  recalls: z.array(z.number().gt(0).lt(1)).min(2).max(256),
  shifts: z.array(z.number().min(-1e6).max(1e6)).min(2).max(256),
});

/** What a layer's predictor of any kind has: thresholds, and what they were measured to do. */
const thresholdsShape = {
  bias: tensorRefSchema,
  earlyBias: tensorRefSchema,
  recall: share,
  predictedShare: share,
  activeShare: share,
  recallCurve: recallCurveSchema.optional(),
};

const lowRankLayerSchema = z.strictObject({
  rank: z.int().min(32).max(2 ** 20),
  a: tensorRefSchema,
  b: tensorRefSchema,
  ...thresholdsShape,
});

const bitPlanesLayerSchema = z.strictObject({
  bits: z.int().min(1).max(PLANE_BITS_MAX),
  planes: planesRefSchema,
  rowScales: tensorRefSchema,
  mean: tensorRefSchema,
  earlyMean: tensorRefSchema,
  ...thresholdsShape,
});

const missCurveSchema = z.strictObject({
  slots: z.array(z.int().min(0).max(2 ** 32)).max(4096),
  missesPerToken: z.array(z.number().min(0).max(2 ** 32)).max(4096),
});

const predictorsShape = {
  createdBy: text,
  recallWanted: share,
  calibration: z.strictObject({ tokens: z.int().min(0), textName: text }),
  missCurves: z.array(missCurveSchema),
};

const predictorsSchema = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("low-rank"),
    layers: z.array(lowRankLayerSchema),
    ...predictorsShape,
  }),
  z.strictObject({
    kind: z.literal("bit-planes"),
    layers: z.array(bitPlanesLayerSchema),
    ...predictorsShape,
  }),
]);

/** How large activations are, where hardly any is zero. */
const magnitudesSchema = z.strictObject({
  createdBy: text,
  calibration: z.strictObject({ tokens: z.int().min(0), textName: text }),
  /** Shares of the activations ... */
  sparsities: z.array(z.number().gt(0).lt(1)).min(2).max(1024),
  /** ... and of each layer the magnitudes below which they lie. */
  layers: z.array(z.strictObject({
    cuts: z.array(z.number().min(0).max(1e30)).min(2).max(1024),
  })),
});

export const headerSchema = z.strictObject({
  architecture: text,
  /** Of resident matrices: embeddings, attention, output. */
  quantization: z.enum(QUANTIZATIONS),
  /** Of bundles; older files have none, as theirs are stored like the rest. */
  ffnQuantization: z.enum(QUANTIZATIONS).optional(),
  /** Numbers of each vector of a bundle that are stored; without it all are, zeros too. */
  ffnCapacities: z.array(z.int().min(0).max(2 ** 32)).min(2).max(3).optional(),
  config: modelConfigSchema,
  tokenizer: z.strictObject({ json: z.string(), config: z.string().nullable() }).nullable(),
  tensors: z.array(z.strictObject({ name: text, ...tensorRefShape })),
  layers: z.array(z.strictObject({ bundles: bundlesSchema })),
  predictors: predictorsSchema.nullable(),
  /** Older files, and those of other models, have none. */
  magnitudes: magnitudesSchema.optional(),
  provenance: z.strictObject({
    source: text,
    sourceFiles: z.array(z.strictObject({ name: text, byteLength: z.int().min(0) })).max(4096),
    flashpipeVersion: text,
    createdAt: text,
    synthetic: z.boolean(),
  }),
}).transform((header) => ({
  ...header,
  ffnQuantization: header.ffnQuantization ?? header.quantization,
}));

export type FlashHeader = z.infer<typeof headerSchema>;
/** A tensor's type, shape, place in the file and CRC-32. */
export type TensorRef = z.infer<typeof tensorRefSchema>;
/** A tensor of the model, or bit planes of a predictor. */
export type StoredTensor = TensorRef | z.infer<typeof planesRefSchema>;
/** What a tensor is, wherever it lies. */
export type TensorForm =
  | Pick<TensorRef, "dtype" | "layout" | "shape">
  | Pick<z.infer<typeof planesRefSchema>, "dtype" | "layout" | "shape">;
export type NamedTensor = FlashHeader["tensors"][number];
/** Where the bundles of a layer lie. */
export type LayerBundles = z.infer<typeof bundlesSchema>;
export type Predictors = z.infer<typeof predictorsSchema>;
export type LowRankPredictorLayer = z.infer<typeof lowRankLayerSchema>;
export type BitPlanesPredictorLayer = z.infer<typeof bitPlanesLayerSchema>;
/** A layer's predictor, of the kind that all layers of a file have. */
export type PredictorLayer = LowRankPredictorLayer | BitPlanesPredictorLayer;
export type Magnitudes = z.infer<typeof magnitudesSchema>;
export type RecallCurve = z.infer<typeof recallCurveSchema>;
export type Provenance = FlashHeader["provenance"];
export type Tokenizer = FlashHeader["tokenizer"];

/** A range of the file that something owns. */
export interface Extent {
  readonly field: string;
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** Bytes that a tensor of this type, layout and shape takes. */
export function tensorByteLength({ dtype, layout, shape }: TensorForm): number {
  const length = shape.reduce((product, size) => product * size, 1);
  if (dtype === "u1") return length / 8;
  if (layout === "tiled") return matrixByteLength(dtype, shape[0], shape[1]);
  return length * (dtype === "f32" ? 4 : 2);
}

/** Every section that the header names, in its own order. */
export function extentsOf(header: FlashHeader): Extent[] {
  const extents: Extent[] = header.tensors.map(
    ({ name, byteOffset, byteLength }) => ({ field: name, byteOffset, byteLength }),
  );
  header.layers.forEach(({ bundles }, index) => {
    const { byteOffset, bundleByteLength, count } = bundles;
    const byteLength = count * bundleByteLength;
    extents.push({ field: `layers.${index}.bundles`, byteOffset, byteLength });
  });
  header.predictors?.layers.forEach((layer, index) => {
    for (const [name, { byteOffset, byteLength }] of predictorTensors(layer)) {
      extents.push({ field: `predictors.layers.${index}.${name}`, byteOffset, byteLength });
    }
  });
  return extents;
}

/** What the bundles are. */
export function bundleFormOf(
  { ffnQuantization: quantization, ffnCapacities, config }: Pick<
    FlashHeader,
    "ffnQuantization" | "ffnCapacities" | "config"
  >,
): BundleForm {
  const { hiddenSize, ffn: { isGated } } = config;
  return { quantization, hiddenSize, isGated, capacities: ffnCapacities ?? null };
}

/** Whether bundles lie in another order than that of the neurons. */
export function isReordered({ layers }: FlashHeader): boolean {
  return layers.some(({ bundles }) => bundles.order !== null);
}

/** Whether a stream of neighbouring neurons finds them apart on flash, as their columns must be added in the order of neurons. */
export function isScattered(header: FlashHeader): boolean {
  return isReordered(header) && !isBlocked(header.ffnQuantization);
}

/** The largest rank of low-rank predictors; 0 if there are none. */
export function rankMaxOf(predictors: Predictors | null): number {
  if (predictors?.kind !== "low-rank") return 0;
  return Math.max(0, ...predictors.layers.map(({ rank }) => rank));
}

/** The tensors of a layer's predictor, with their field names. */
export function predictorTensors(layer: PredictorLayer): [string, StoredTensor][] {
  const { bias, earlyBias } = layer;
  const thresholds: [string, StoredTensor][] = [["bias", bias], ["earlyBias", earlyBias]];
  if ("rank" in layer) return [["a", layer.a], ["b", layer.b], ...thresholds];
  const { planes, rowScales, mean, earlyMean } = layer;
  return [
    ["planes", planes],
    ["rowScales", rowScales],
    ["mean", mean],
    ["earlyMean", earlyMean],
    ...thresholds,
  ];
}
