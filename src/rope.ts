import type { ModelConfig } from "../models/config.ts";

type Rotary = Extract<ModelConfig["positions"], { kind: "rotary" }>;
type Scaling = NonNullable<Rotary["scaling"]>;

/**
 * Angles of rotary positions (Su et al. 2021, "RoFormer"): number i of a head turns by position * theta^(-2 i / dims), or by what a
 * scaling makes of that. Numbers are rounded to f32 where `transformers` rounds.
 */
export class Rope {
  /** Numbers of a position's angles. */
  readonly dims: number;
  /** Tables of angles: another one for layers with a window, where theirs differ. */
  readonly tables: 1 | 2;
  readonly #config: Rotary;
  readonly #frequencies: Float32Array;
  readonly #windowFrequencies: Float32Array | null;
  /** Of cosines and sines. */
  readonly #factor: number;

  constructor(config: Rotary) {
    const { dims, theta, scaling, windowTheta } = config;
    this.dims = dims;
    this.tables = windowTheta === null ? 1 : 2;
    this.#config = config;
    this.#frequencies = frequenciesOf(dims, theta, scaling);
    this.#windowFrequencies = windowTheta === null ? null : frequenciesOf(dims, windowTheta, null);
    this.#factor = scaling?.kind === "yarn" ? scaling.attentionFactor : 1;
  }

  /** Writes cosines and then sines of a position, f32[dims]; `inWindow`: for a layer with a window. */
  write(position: number, inWindow: boolean, target: Float32Array): void {
    const isOwn = inWindow && this.#windowFrequencies !== null;
    const frequencies = isOwn ? this.#windowFrequencies! : this.#frequenciesAt(position);
    const half = frequencies.length, factor = isOwn ? 1 : this.#factor;
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * frequencies[i]);
      target[i] = factor * Math.cos(angle);
      target[half + i] = factor * Math.sin(angle);
    }
  }

  /**
   * `dynamic` stretches with the text, so that its angles depend on how long it is: here a position's on the text up to it, whatever
   * else a step or a prompt has.
   */
  #frequenciesAt(position: number): Float32Array {
    const { dims, theta, scaling } = this.#config;
    if (scaling?.kind !== "dynamic" || position < scaling.originalPositions) {
      return this.#frequencies;
    }
    const { factor, originalPositions } = scaling;
    const stretch = factor * (position + 1) / originalPositions - (factor - 1);
    return frequenciesOf(dims, theta * stretch ** (dims / (dims - 2)), null);
  }
}

/** f32[dims / 2] */
function frequenciesOf(dims: number, theta: number, scaling: Scaling | null): Float32Array {
  const plain = Float32Array.from({ length: dims / 2 }, (_, i) => 1 / theta ** (2 * i / dims));
  switch (scaling?.kind) {
    case "linear":
      return plain.map((frequency) => frequency / scaling.factor);
    case "factors":
      return plain.map((frequency, i) => frequency / scaling.factors[i]);
    case "llama3":
      return plain.map((frequency) => llama3(frequency, scaling));
    case "yarn": {
      const ramp = yarnRamp(dims, theta, scaling);
      return plain.map((frequency, i) =>
        frequency / scaling.factor * ramp[i] + frequency * (1 - ramp[i])
      );
    }
  }
  return plain; // `dynamic`, too, while the text is short.
}

/** Long waves are stretched, short ones left alone, those between blended: as Llama 3.1 has it. */
function llama3(
  frequency: number,
  { factor, lowFrequencyFactor, highFrequencyFactor, originalPositions }: Extract<
    Scaling,
    { kind: "llama3" }
  >,
): number {
  const wavelength = 2 * Math.PI / frequency;
  if (wavelength > originalPositions / lowFrequencyFactor) return frequency / factor;
  if (wavelength < originalPositions / highFrequencyFactor) return frequency;
  const smooth = (originalPositions / wavelength - lowFrequencyFactor) /
    (highFrequencyFactor - lowFrequencyFactor);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

/** How far each dimension is stretched, 0 to 1 (Peng et al. 2023, "YaRN"). */
function yarnRamp(
  dims: number,
  theta: number,
  { betaFast, betaSlow, originalPositions, isTruncated }: Extract<Scaling, { kind: "yarn" }>,
): number[] {
  /** The dimension that turns `rotations` times over the original positions. */
  const dimensionOf = (rotations: number) =>
    dims * Math.log(originalPositions / (rotations * 2 * Math.PI)) / (2 * Math.log(theta));
  let low = dimensionOf(betaFast), high = dimensionOf(betaSlow);
  if (isTruncated) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, dims - 1);
  if (low === high) high += 0.001; // Or the ramp would have no width.
  return Array.from(
    { length: dims / 2 },
    (_, i) => Math.min(1, Math.max(0, (i - low) / (high - low))),
  );
}
