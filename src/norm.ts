import type { ModelConfig } from "../models/config.ts";
import type { Kernels } from "./kernels.ts";

/** Norms f32[n] as the model does; `bias` is of no use to `rms`. y may be x. */
export function applyNorm(
  kernels: Kernels,
  { kind, epsilon }: ModelConfig["norm"],
  x: number,
  { weight, bias }: { weight: number; bias: number },
  y: number,
  n: number,
): void {
  if (kind === "rms") kernels.rmsNorm(x, weight, y, n, epsilon);
  else kernels.layerNorm(x, weight, bias, y, n, epsilon);
}
