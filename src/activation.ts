import type { ModelConfig } from "../models/config.ts";
import { ACTIVATION } from "./kernels.ts";

/** What kernels do with the dot products of a neuron's rows. */
export interface ActivationKinds {
  /** Of the row that decides: the gate, or without one the up row. */
  first: number;
  threshold: number;
  /** Of the up row behind a gate; null without a gate. */
  second: number | null;
}

export function activationKinds({ ffn }: Pick<ModelConfig, "ffn">): ActivationKinds {
  const { activation, threshold, isGated } = ffn;
  const isDouble = activation === "drelu";
  return {
    first: ACTIVATION[isDouble ? "relu" : activation],
    threshold,
    second: !isGated ? null : isDouble ? ACTIVATION.timesRelu : ACTIVATION.times,
  };
}

/** Whether most activations are exactly zero: else there is nothing to predict, and `exact` reads everything. */
export function isSparse({ ffn }: Pick<ModelConfig, "ffn">): boolean {
  return ["relu", "relu2", "fatrelu", "drelu"].includes(ffn.activation);
}
