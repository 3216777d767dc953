import { printable, UnsupportedModelError } from "../src/errors.ts";
import type { ModelFamily } from "./family.ts";
import { opt } from "./opt_tensors.ts";

/** The model families that can be packed, by `model_type` in config.json. */
export const families: Readonly<Record<string, ModelFamily>> = { opt };

/** The names of the supported architectures. */
export const supportedArchitectures: readonly string[] = Object.keys(families);

/** Finds a family by `model_type`; throws `UnsupportedModelError` naming those that there are. */
export function familyOf(modelType: unknown, path: string): ModelFamily {
  if (typeof modelType === "string" && Object.hasOwn(families, modelType)) {
    return families[modelType];
  }
  throw new UnsupportedModelError(
    `${path}: model_type ${
      printable(String(JSON.stringify(modelType)))
    } is not supported; supported: ` +
      supportedArchitectures.join(", "),
  );
}
