import type { ModelConfig } from "../models/config.ts";
import { isSparse } from "./activation.ts";
import { parseShare } from "./byte_size.ts";
import type { FlashHeader, Magnitudes } from "./format/header.ts";

/**
 * Of each layer the magnitude, an f32, below which an activation is taken as zero, so that about the share `sparsity` of the neurons is
 * left out.
 *
 * @throws {RangeError} the model has zeros of its own, or experts; the file was not calibrated for this, or not so far
 */
export function magnitudeCuts(
  { config, magnitudes }: Pick<FlashHeader, "config" | "magnitudes">,
  sparsity: string | number | undefined,
  path: string,
): { sparsity: number; cuts: number[] } {
  const problem = problemWithMagnitudes(config);
  if (problem !== null) throw new RangeError(`Cannot leave out small activations: ${problem}`);
  if (!magnitudes) {
    throw new RangeError(
      `Cannot leave out small activations as ${path} does not say how large they are: run ` +
        `\`flashpipe calibrate ${path} --text FILE\``,
    );
  }
  if (sparsity === undefined) {
    throw new RangeError(
      "Cannot leave out small activations as their share was not told: set a sparsity, such as 50%",
    );
  }
  const wanted = parseShare(sparsity), { sparsities, layers } = magnitudes;
  const least = sparsities[0], most = sparsities[sparsities.length - 1];
  if (!(wanted >= least && wanted <= most)) {
    throw new RangeError(
      `Cannot set a sparsity of ${shown(wanted)}: ${path} has ${shown(least)} to ${shown(most)}`,
    );
  }
  const cuts = layers.map((layer) => Math.fround(cutAt(sparsities, layer, wanted)));
  return { sparsity: wanted, cuts };
}

/** Why small activations of a model cannot be left out, or null. */
export function problemWithMagnitudes(
  { ffn, experts }: Pick<ModelConfig, "ffn" | "experts">,
): string | null {
  if (experts) return "the model's router says which experts are computed, and they are whole";
  if (!isSparse({ ffn })) return null;
  return `${ffn.activation} leaves most at zero, which exact and predicted make use of already`;
}

/** On the straight line between two points. */
function cutAt(
  sparsities: Magnitudes["sparsities"],
  { cuts }: Magnitudes["layers"][number],
  sparsity: number,
): number {
  const right = sparsities.findIndex((point) => point >= sparsity);
  if (right === 0) return cuts[0];
  const [from, to] = [sparsities[right - 1], sparsities[right]];
  return cuts[right - 1] + (sparsity - from) / (to - from) * (cuts[right] - cuts[right - 1]);
}

/** As percent, without the last bits of a division. */
function shown(share: number): string {
  return `${Number((100 * share).toFixed(4))} %`;
}
