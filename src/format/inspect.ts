import type { ModelConfig } from "../../models/config.ts";
import { formatBytes } from "../byte_size.ts";
import { FlashFile, type VerifyOptions, type VerifyResult } from "./flash_file.ts";
import {
  extentsOf,
  type FlashHeader,
  type Magnitudes,
  type PredictorLayer,
  type Predictors,
  PRELUDE_BYTES,
  type Provenance,
} from "./header.ts";
import { printable } from "../errors.ts";
import { problemWithMagnitudes } from "../magnitude_cuts.ts";
import { bundleByteLength } from "./layout.ts";
import type { Quantization } from "./layout.ts";

/** Bytes of a `.flash` file by what they are for. `unused`: padding, and what updates left behind. */
export interface FlashSizes {
  readonly embeddings: number;
  readonly attention: number;
  readonly norms: number;
  readonly biases: number;
  readonly predictors: number;
  readonly bundles: number;
  readonly header: number;
  readonly unused: number;
}

/** What `inspect` finds, as plain data. */
export interface Inspection {
  readonly path: string;
  readonly byteLength: number;
  readonly architecture: string;
  /** Of resident matrices. */
  readonly quantization: Quantization;
  /** Of bundles. */
  readonly ffnQuantization: Quantization;
  readonly config: ModelConfig;
  readonly bundleByteLength: number;
  /** What it would be with zeros, where they are not stored; else the same. */
  readonly bundleByteLengthWithZeros: number;
  readonly sizes: FlashSizes;
  /** Bytes of weights that must be in memory: everything but the bundles. */
  readonly residentByteLength: number;
  readonly hasTokenizer: boolean;
  readonly predictors:
    | Omit<Predictors, "layers" | "missCurves"> & { readonly layers: readonly PredictorSummary[] }
    | null;
  /** How large activations are, where hardly any is zero; null where it was not measured. */
  readonly magnitudes:
    | Omit<Magnitudes, "sparsities" | "layers"> & { readonly sparsities: readonly [number, number] }
    | null;
  readonly provenance: Provenance;
  /** How often the header was written. */
  readonly generation: number;
  /** What is wrong with the other header slot, or null. */
  readonly damagedHeader: string | null;
  /** `null`: not asked for. */
  readonly checksums: VerifyResult | null;
}

/** Low-rank layers have a rank, bit planes have bits. */
export type PredictorSummary =
  & Pick<PredictorLayer, "recall" | "predictedShare" | "activeShare">
  & { readonly rank?: number; readonly bits?: number };

/**
 * Tells what is in a `.flash` file. With `verify`, every byte is read and compared with its checksum.
 * Throws what `FlashFile.open` throws.
 */
export async function inspect(
  path: string,
  options: { verify?: boolean } & VerifyOptions = {},
): Promise<Inspection> {
  using file = FlashFile.open(path);
  const { header, byteLength } = file;
  const sizes = sizesOf(file);
  return {
    path,
    byteLength,
    architecture: header.architecture,
    quantization: header.quantization,
    ffnQuantization: header.ffnQuantization,
    config: header.config,
    bundleByteLength: header.layers[0].bundles.bundleByteLength,
    bundleByteLengthWithZeros: bundleByteLength(
      header.ffnQuantization,
      header.config.hiddenSize,
      header.config.ffn.isGated,
    ),
    sizes,
    residentByteLength: sizes.embeddings + sizes.attention + sizes.norms + sizes.biases +
      sizes.predictors,
    hasTokenizer: header.tokenizer !== null,
    predictors: summarize(header.predictors),
    magnitudes: summarizeMagnitudes(header.magnitudes),
    provenance: header.provenance,
    generation: file.slot.generation,
    damagedHeader: file.damaged,
    checksums: options.verify ? await file.verify(options) : null,
  };
}

/** Renders an inspection for people. `smallestMemoryBytes` is the plan's, who knows caches and scratch. */
export function renderInspection(
  inspection: Inspection,
  { smallestMemoryBytes }: { smallestMemoryBytes?: number } = {},
): string {
  const { config, sizes, provenance, architecture } = inspection;
  const { numLayers, hiddenSize, intermediateSize, numAttentionHeads, vocabSize } = config;
  const synthetic: [string, string][] = provenance.synthetic
    ? [["synthetic", "random weights: for measuring, not for text"]]
    : [];
  const lines: [string, string][] = [
    ["file", `${inspection.path}, ${formatBytes(inspection.byteLength)}`],
    ...synthetic,
    [
      "model",
      `${architecture}, ${renderQuantization(inspection)}, from ${printable(provenance.source)}`,
    ],
    [
      "shape",
      `${numLayers} layers, hidden ${hiddenSize}, FFN ${intermediateSize}, ` +
      `${numAttentionHeads} heads, vocabulary ${vocabSize}, context ${config.maxPositionEmbeddings}`,
    ],
    ...Object.entries(sizes).map(([name, bytes]): [string, string] => [
      `  ${name}`,
      `${formatBytes(bytes).padStart(10)} ${percent(bytes / inspection.byteLength).padStart(7)}`,
    ]),
    ["bundle", renderBundle(inspection)],
    ["resident", `${formatBytes(inspection.residentByteLength)} of weights stay in memory`],
  ];
  if (smallestMemoryBytes !== undefined) {
    lines.push(["memory", `${formatBytes(smallestMemoryBytes)} is the smallest that works`]);
  }
  lines.push(
    ["tokenizer", inspection.hasTokenizer ? "included" : "none"],
    ["made", printable(`${provenance.createdAt} by flashpipe ${provenance.flashpipeVersion}`)],
    ["predictors", renderPredictors(inspection)],
    ...renderMagnitudes(inspection),
    ["checksums", renderChecksums(inspection.checksums)],
  );
  if (inspection.damagedHeader !== null) {
    lines.push(["DAMAGED", `header ${inspection.damagedHeader}: the one before it is used`]);
  }
  return lines.map(([name, value]) => `${name.padEnd(13)} ${value}\n`).join("");
}

function renderBundle({ bundleByteLength, bundleByteLengthWithZeros }: Inspection): string {
  const size = `${bundleByteLength} bytes a neuron`;
  if (bundleByteLength === bundleByteLengthWithZeros) return size;
  const share = percent(bundleByteLength / bundleByteLengthWithZeros);
  return `${size}, without zeros: ${share} of ${bundleByteLengthWithZeros}`;
}

function renderQuantization({ quantization, ffnQuantization }: Inspection): string {
  if (quantization === ffnQuantization) return `weights as ${quantization}`;
  return `resident weights as ${quantization}, bundles as ${ffnQuantization}`;
}

function sizesOf({ header, byteLength, slot }: FlashFile): FlashSizes {
  const sizes = { embeddings: 0, attention: 0, norms: 0, biases: 0, predictors: 0, bundles: 0 };
  for (const extent of extentsOf(header)) sizes[partOf(extent.field)] += extent.byteLength;
  const used = Object.values(sizes).reduce((sum, bytes) => sum + bytes, 0);
  const headerBytes = PRELUDE_BYTES + slot.byteLength;
  return { ...sizes, header: headerBytes, unused: byteLength - used - headerBytes };
}

function partOf(field: string): Exclude<keyof FlashSizes, "header" | "unused"> {
  if (field.startsWith("predictors.")) return "predictors";
  if (field.endsWith(".bundles")) return "bundles";
  if (/Norm\./.test(field)) return "norms";
  if (field.endsWith(".bias")) return "biases";
  return field.includes(".attention.") ? "attention" : "embeddings";
}

function summarize(predictors: FlashHeader["predictors"]): Inspection["predictors"] {
  if (predictors === null) return null;
  const { kind, createdBy, recallWanted, calibration } = predictors;
  const layers = predictors.layers.map((layer) => {
    const { recall, predictedShare, activeShare } = layer;
    const size = "rank" in layer ? { rank: layer.rank } : { bits: layer.bits };
    return { ...size, recall, predictedShare, activeShare };
  });
  return { kind, createdBy, recallWanted, calibration, layers };
}

function renderPredictors({ predictors, config }: Inspection): string {
  if (predictors === null && problemWithMagnitudes(config) === null) {
    return `none: ${config.ffn.activation} leaves hardly anything at zero`;
  }
  if (predictors === null) return "none: run calibrate, or use the modes exact or dense";
  const { kind, recallWanted, calibration, layers } = predictors;
  const head = `${kind}, for recall ${percent(recallWanted)}, ` +
    `from ${calibration.tokens} tokens of ${printable(calibration.textName)}`;
  const rows = layers.map(({ rank, bits, recall, predictedShare, activeShare }, index) =>
    `\n  layer ${String(index).padEnd(4)} ${sizeOf({ rank, bits })}, recall ${
      percent(recall)
    }, predicted ${percent(predictedShare)}, active ${percent(activeShare)}`
  );
  return head + rows.join("");
}

function summarizeMagnitudes(magnitudes: Magnitudes | undefined): Inspection["magnitudes"] {
  if (!magnitudes) return null;
  const { sparsities, layers: _, ...rest } = magnitudes;
  return { ...rest, sparsities: [sparsities[0], sparsities[sparsities.length - 1]] };
}

/** A line for models that may have magnitudes. */
function renderMagnitudes({ magnitudes, config }: Inspection): [string, string][] {
  if (problemWithMagnitudes(config) !== null) return [];
  if (magnitudes === null) return [["magnitudes", "none: run calibrate for the mode magnitude"]];
  const { sparsities: [least, most], calibration: { tokens, textName } } = magnitudes;
  const range = `for sparsities of ${percent(least)} to ${percent(most)}`;
  return [["magnitudes", `${range}, from ${tokens} tokens of ${printable(textName)}`]];
}

function sizeOf({ rank, bits }: Pick<PredictorSummary, "rank" | "bits">): string {
  return rank === undefined ? `bits ${bits}` : `rank ${String(rank).padStart(4)}`;
}

function renderChecksums(checksums: VerifyResult | null): string {
  if (checksums === null) return "not checked (--verify checks them)";
  if (checksums.ok) return `all right, ${formatBytes(checksums.checkedBytes)} read`;
  const rows = checksums.failures.map(({ field, byteOffset, byteLength }) =>
    `\n  ${field}: bytes ${byteOffset} to ${byteOffset + byteLength}`
  );
  return `${checksums.failures.length} WRONG${rows.join("")}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
