import type { AppendTensor } from "../format/flash_update.ts";
import type {
  BitPlanesPredictorLayer,
  LowRankPredictorLayer,
  Predictors,
  TensorRef,
} from "../format/header.ts";
import { matrixByteLength, vectorByteLength } from "../format/layout.ts";
import { storeRows, tileRows } from "../format/quantize.ts";
import type { BitPlanesLayer } from "./bit_planes_fit.ts";
import type { LowRankLayer } from "./closed_form.ts";
import type { FittedLayer } from "./fit_tasks.ts";

/** Appends the tensors of fitted layers, all of one kind; returns their part of the header. */
export function storePredictors(
  layers: FittedLayer[],
  append: AppendTensor,
  about: Pick<Predictors, "createdBy" | "recallWanted" | "calibration">,
): Predictors {
  const store = new TensorStore(append);
  const missCurves = layers.map(({ missCurve }) => missCurve);
  return "rank" in layers[0]
    ? {
      kind: "low-rank",
      ...about,
      layers: (layers as LowRankLayer[]).map((layer) => store.lowRank(layer)),
      missCurves,
    }
    : {
      kind: "bit-planes",
      ...about,
      layers: (layers as BitPlanesLayer[]).map((layer) => store.bitPlanes(layer)),
      missCurves,
    };
}

/** Appends tensors layer by layer, in the order of the header. */
class TensorStore {
  readonly #append: AppendTensor;

  constructor(append: AppendTensor) {
    this.#append = append;
  }

  lowRank(layer: LowRankLayer): LowRankPredictorLayer {
    const { rank, a, b } = layer;
    return {
      rank,
      a: this.#matrix(a, rank, a.length / rank),
      b: this.#matrix(b, b.length / rank, rank),
      ...this.#thresholds(layer),
    };
  }

  bitPlanes(layer: BitPlanesLayer): BitPlanesPredictorLayer {
    const { bits, planes, rowScales, mean, earlyMean } = layer;
    const shape = [rowScales.length, bits, mean.length];
    return {
      bits,
      planes: this.#append({ dtype: "u1", layout: "planes", shape }, planes),
      rowScales: this.#vector(rowScales),
      mean: this.#vector(mean),
      earlyMean: this.#vector(earlyMean),
      ...this.#thresholds(layer),
    };
  }

  #thresholds({ bias, earlyBias, measured, recallCurve }: FittedLayer) {
    const { recall, predictedShare, activeShare } = measured;
    return {
      bias: this.#vector(bias),
      earlyBias: this.#vector(earlyBias),
      recall,
      predictedShare,
      activeShare,
      recallCurve,
    };
  }

  #matrix(values: Float32Array, rows: number, cols: number): TensorRef {
    const rowBytes = new Uint8Array(rows * vectorByteLength("q8", cols));
    storeRows("q8", values, { rows, cols }, rowBytes);
    const tiles = new Uint8Array(matrixByteLength("q8", rows, cols));
    tileRows("q8", rowBytes, { rows, cols }, tiles);
    return this.#append({ dtype: "q8", layout: "tiled", shape: [rows, cols] }, tiles);
  }

  #vector(values: Float32Array): TensorRef {
    const { buffer, byteOffset, byteLength, length } = values;
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    return this.#append({ dtype: "f32", layout: "rows", shape: [length] }, bytes);
  }
}
