import { Blueprint } from "./blueprint.ts";
import type { BlueprintOptions } from "./blueprint.ts";
import { PredictorMaker } from "./predictor_maker.ts";
import type { MadePredictor } from "./predictor_maker.ts";
import { WeightMaker } from "./weight_maker.ts";
import type { RowsWanted } from "./weight_maker.ts";
import type { Quantization } from "../format/layout.ts";

/** A piece of a file to be made; each gives bytes, or a predictor. */
export type SynthTask =
  | ({ readonly kind: "resident" } & RowsWanted)
  | {
    readonly kind: "bundles";
    readonly layer: number;
    readonly from: number;
    readonly rows: number;
    readonly quantization: Quantization;
  }
  | { readonly kind: "predictor"; readonly layer: number };

export type SynthResult = Uint8Array<ArrayBuffer> | MadePredictor;

/** Makes the pieces of a synthetic model; what a piece holds depends on nothing but blueprint and task. */
export class SynthTasks {
  readonly #weights: WeightMaker;
  readonly #blueprint: Blueprint;
  #predictors: PredictorMaker | undefined;

  constructor(options: BlueprintOptions) {
    this.#blueprint = new Blueprint(options);
    this.#weights = new WeightMaker(this.#blueprint);
  }

  run(task: SynthTask): SynthResult {
    if (task.kind === "resident") return this.#weights.resident(task);
    if (task.kind === "bundles") {
      return this.#weights.bundles(task.layer, task, task.quantization);
    }
    this.#predictors ??= new PredictorMaker(this.#blueprint, this.#weights);
    return this.#predictors.make(task.layer);
  }
}
