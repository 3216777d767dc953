import { problemWithConfig } from "../../models/config.ts";
import { residentTensors } from "../../models/tensors.ts";
import { familyOf } from "../../models/registry.ts";
import { ModelFileError } from "../errors.ts";
import { problemWithMagnitudes } from "../magnitude_cuts.ts";
import {
  type Extent,
  extentsOf,
  type FlashHeader,
  headerSchema,
  type LayerBundles,
  type Magnitudes,
  type PredictorLayer,
  type Predictors,
  predictorTensors,
  PRELUDE_BYTES,
  type RecallCurve,
  SECTION_ALIGNMENT,
  type StoredTensor,
  TENSOR_ALIGNMENT,
  tensorByteLength,
  type TensorForm,
} from "./header.ts";
import { bundleByteLength, isPrunable, problemWithNeurons } from "./layout.ts";
import { NeuronOrder } from "./neuron_order.ts";

/** Where the header itself lies, for messages and for the check of overlaps. */
export interface HeaderPlace {
  readonly path: string;
  readonly fileByteLength: number;
  readonly header: { byteOffset: number; byteLength: number };
}

/**
 * Checks a decoded header against its schema, its architecture and the size of the file. Afterwards every offset is
 * aligned and inside the file, no two sections share a byte, and every tensor has the shape that the config demands.
 *
 * Throws `ModelFileError` naming the field, or `UnsupportedModelError` for an unknown architecture.
 */
export function validateHeader(value: unknown, place: HeaderPlace): FlashHeader {
  const parsed = headerSchema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw headerError(place, issue.path.join(".") || "header", issue.message);
  }
  const header = parsed.data;
  familyOf(header.architecture, place.path);
  const problem = problemWithConfig(header.config) ??
    problemWithNeurons(header.ffnQuantization, header.config);
  if (problem !== null) throw headerError(place, "config", problem);
  checkTensors(header, place);
  checkCapacities(header, place);
  checkLayers(header, place);
  if (header.predictors !== null) checkPredictors(header, header.predictors, place);
  if (header.magnitudes) checkMagnitudes(header, header.magnitudes, place);
  checkExtents(extentsOf(header), place);
  return header;
}

function checkTensors(
  { config, quantization, tensors }: FlashHeader,
  place: HeaderPlace,
) {
  const found = new Map(tensors.map((tensor, index) => [tensor.name, { tensor, index }]));
  // Before the list of expected tensors is made: its length follows from a number in the file.
  if (config.numLayers > tensors.length) {
    throw headerError(
      place,
      "config.numLayers",
      `${config.numLayers} layers in ${tensors.length} tensors`,
    );
  }
  const expected = residentTensors(config, quantization);
  for (const wanted of expected) {
    const entry = found.get(wanted.name);
    if (entry === undefined) {
      throw headerError(place, "tensors", `tensor ${wanted.name} is missing`);
    }
    checkTensor(entry.tensor, wanted, place, `tensors.${entry.index} (${wanted.name})`);
  }
  if (tensors.length !== expected.length) {
    const names = new Set(expected.map(({ name }) => name));
    const extra = tensors.find(({ name }) => !names.has(name))?.name ?? "a name stands twice";
    throw headerError(
      place,
      "tensors",
      `${tensors.length} tensors, expected ${expected.length}: ${extra}`,
    );
  }
}

/** A tensor must have exactly this type, layout and shape, and the length that follows from them. */
function checkTensor(
  tensor: StoredTensor,
  wanted: { dtype: string; layout: string; shape: readonly number[] },
  place: HeaderPlace,
  field: string,
): void {
  for (const key of ["dtype", "layout", "shape"] as const) {
    if (String(tensor[key]) === String(wanted[key])) continue;
    throw headerError(place, `${field}.${key}`, `expected ${wanted[key]}, found ${tensor[key]}`);
  }
  const byteLength = tensorByteLength(tensor);
  if (tensor.byteLength !== byteLength) {
    throw headerError(
      place,
      `${field}.byteLength`,
      `expected ${byteLength}, found ${tensor.byteLength}`,
    );
  }
  if (tensor.byteOffset % TENSOR_ALIGNMENT !== 0) {
    throw headerError(
      place,
      `${field}.byteOffset`,
      `${tensor.byteOffset} is no multiple of ${TENSOR_ALIGNMENT}`,
    );
  }
}

function checkCapacities(
  { config, ffnQuantization, ffnCapacities }: FlashHeader,
  place: HeaderPlace,
): void {
  if (!ffnCapacities) return;
  const refuse = (problem: string) => {
    throw headerError(place, "ffnCapacities", problem);
  };
  if (!isPrunable(ffnQuantization)) refuse(`bundles of ${ffnQuantization} have none`);
  const vectors = config.ffn.isGated ? 3 : 2;
  if (ffnCapacities.length !== vectors) {
    refuse(`${ffnCapacities.length} capacities, expected ${vectors}`);
  }
  for (const capacity of ffnCapacities) {
    if (capacity % 2 === 0 && capacity <= config.hiddenSize) continue;
    refuse(`${capacity} is no even number up to ${config.hiddenSize}`);
  }
}

function checkLayers(header: FlashHeader, place: HeaderPlace): void {
  const { config, ffnQuantization, ffnCapacities, layers } = header;
  const { numLayers, intermediateSize } = config;
  if (layers.length !== numLayers) {
    throw headerError(place, "layers", `${layers.length} layers, expected ${numLayers}`);
  }
  layers.forEach(({ bundles }, index) => {
    const expect = (field: keyof LayerBundles, found: number, wanted: number) => {
      if (found === wanted) return;
      const name = `layers.${index}.bundles.${field}`;
      throw headerError(place, name, `expected ${wanted}, found ${found}`);
    };
    expect("count", bundles.count, intermediateSize);
    expect(
      "bundleByteLength",
      bundles.bundleByteLength,
      bundleByteLength(ffnQuantization, config.hiddenSize, config.ffn.isGated, ffnCapacities),
    );
    expect("byteOffset", bundles.byteOffset % SECTION_ALIGNMENT, 0);
    const groups = Math.ceil(bundles.count / bundles.groupCount);
    expect("checksums", bundles.checksums.byteLength, 4 * groups);
    if (bundles.order === null) return;
    expect("order", bundles.order.byteLength, 4 * bundles.count);
    try {
      NeuronOrder.of(bundles);
    } catch (error) {
      throw headerError(place, `layers.${index}.bundles.order`, (error as Error).message);
    }
  });
}

function checkPredictors(
  { config }: FlashHeader,
  { layers, missCurves }: Predictors,
  place: HeaderPlace,
): void {
  const { numLayers, hiddenSize: d, intermediateSize: n } = config;
  if (layers.length !== numLayers) {
    throw headerError(place, "predictors.layers", `${layers.length} layers, expected ${numLayers}`);
  }
  layers.forEach((layer, index) => {
    const field = `predictors.layers.${index}`;
    if ("rank" in layer && layer.rank % 32 !== 0) {
      throw headerError(place, `${field}.rank`, `${layer.rank} is no multiple of 32`);
    }
    const expected = expectedTensors(layer, { d, n });
    for (const [name, tensor] of predictorTensors(layer)) {
      checkTensor(tensor, expected[name], place, `${field}.${name}`);
    }
    if (layer.recallCurve) checkRecallCurve(layer.recallCurve, place, `${field}.recallCurve`);
  });
  if (missCurves.length !== 0 && missCurves.length !== numLayers) {
    throw headerError(
      place,
      "predictors.missCurves",
      `${missCurves.length} curves, expected ${numLayers}`,
    );
  }
  missCurves.forEach(({ slots, missesPerToken }, index) => {
    if (slots.length === missesPerToken.length) return;
    const problem = `${slots.length} slots, ${missesPerToken.length} misses`;
    throw headerError(place, `predictors.missCurves.${index}`, problem);
  });
}

/** What a predictor's tensors must be, by their names. */
function expectedTensors(
  layer: PredictorLayer,
  { d, n }: { d: number; n: number },
): Record<string, TensorForm> {
  const vector = (length: number): TensorForm => ({
    dtype: "f32",
    layout: "rows",
    shape: [length],
  });
  const thresholds = { bias: vector(n), earlyBias: vector(n) };
  if ("rank" in layer) {
    const matrix = { dtype: "q8", layout: "tiled" } as const, { rank } = layer;
    return {
      a: { ...matrix, shape: [rank, d] },
      b: { ...matrix, shape: [n, rank] },
      ...thresholds,
    };
  }
  return {
    planes: { dtype: "u1", layout: "planes", shape: [n, layer.bits, d] },
    rowScales: vector(n),
    mean: vector(d),
    earlyMean: vector(d),
    ...thresholds,
  };
}

/** Recalls grow from point to point, and shifts do not fall. */
function checkRecallCurve({ recalls, shifts }: RecallCurve, place: HeaderPlace, field: string) {
  if (recalls.length !== shifts.length) {
    throw headerError(place, field, `${recalls.length} recalls, ${shifts.length} shifts`);
  }
  for (let point = 1; point < recalls.length; point++) {
    if (recalls[point] > recalls[point - 1] && shifts[point] >= shifts[point - 1]) continue;
    throw headerError(place, field, `point ${point} does not come after the one before`);
  }
}

/** Sparsities grow from point to point, and magnitudes do not fall. */
function checkMagnitudes(
  { config }: FlashHeader,
  { sparsities, layers }: Magnitudes,
  place: HeaderPlace,
): void {
  const problem = problemWithMagnitudes(config);
  if (problem !== null) throw headerError(place, "magnitudes", problem);
  if (layers.length !== config.numLayers) {
    const found = `${layers.length} layers, expected ${config.numLayers}`;
    throw headerError(place, "magnitudes.layers", found);
  }
  const checkOrder = (field: string, inOrder: (point: number) => boolean) => {
    const point = sparsities.findIndex((_, point) => point > 0 && !inOrder(point));
    if (point < 0) return;
    throw headerError(place, field, `point ${point} does not come after the one before`);
  };
  checkOrder("magnitudes.sparsities", (k) => sparsities[k] > sparsities[k - 1]);
  layers.forEach(({ cuts }, index) => {
    const field = `magnitudes.layers.${index}.cuts`;
    if (cuts.length !== sparsities.length) {
      throw headerError(place, field, `${cuts.length} cuts, ${sparsities.length} sparsities`);
    }
    checkOrder(field, (k) => cuts[k] >= cuts[k - 1]);
  });
}

/** Every section lies inside the file, and none shares a byte with another, with the header or with the prelude. */
function checkExtents(extents: Extent[], place: HeaderPlace): void {
  const sorted = [...extents, { field: "header", ...place.header }]
    .sort((a, b) => a.byteOffset - b.byteOffset);
  let end = PRELUDE_BYTES;
  let before = "prelude";
  for (const { field, byteOffset, byteLength } of sorted) {
    if (byteOffset < end) {
      throw headerError(place, field, `begins at byte ${byteOffset}, inside of ${before}`);
    }
    end = byteOffset + byteLength;
    before = field;
    if (!Number.isSafeInteger(end) || end > place.fileByteLength) {
      throw headerError(place, field, `ends at byte ${end} of ${place.fileByteLength}`);
    }
  }
}

function headerError({ path, header }: HeaderPlace, field: string, problem: string) {
  return new ModelFileError(problem, { path, field, byteOffset: header.byteOffset });
}
