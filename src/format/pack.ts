import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { ModelConfig } from "../../models/config.ts";
import type { ModelFamily } from "../../models/family.ts";
import { familyOf } from "../../models/registry.ts";
import { ModelFileError, UnsupportedModelError } from "../errors.ts";
import { VERSION } from "../version.ts";
import { type ByteSource, FileSource, readRange } from "./byte_source.ts";
import { type FlashContent, type FlashPart, FlashWriter } from "./flash_writer.ts";
import type { FlashHeader, Tokenizer } from "./header.ts";
import { problemWithNeurons } from "./layout.ts";
import type { Quantization } from "./layout.ts";
import { PartPacker } from "./part_packer.ts";
import { openSafetensors, type Safetensors } from "./safetensors.ts";
import { decodeText, parseJson } from "./strict_json.ts";

export interface PackOptions {
  /** A Hugging Face folder: config.json, safetensors, and the tokenizer's files where there are any. */
  source: string;
  /** The `.flash` file to write; it is replaced when all is written. */
  target: string;
  /** How resident matrices are stored, and bundles if not told otherwise. */
  quant: Quantization;
  /** How the FFN's bundles are stored. */
  ffnQuant?: Quantization;
  onProgress?: (progress: PackProgress) => void;
  /** Aborting removes what was written; `pack` then rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Stands in the file as the time of its making. Equal sources and times give equal bytes. Default: now. */
  createdAt?: string;
  /** Marks a model of random weights, so that no measurement on it passes for one on a trained model. */
  synthetic?: boolean;
  /** Most memory for a strip of the FFN's down matrix while it is transposed. Default: 32 MiB. */
  stripBytesMax?: number;
  /** How files are opened; tests count requests here. */
  openSource?: (path: string) => ByteSource;
}

export interface PackProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** `embedTokens`, `layers.3.bundles`. */
  readonly part: string;
}

export interface PackResult {
  readonly path: string;
  readonly byteLength: number;
  readonly header: FlashHeader;
  /** Tensors of the source that found no place. */
  readonly ignoredTensors: readonly string[];
}

const CONFIG_BYTES_MAX = 2 ** 20;
const TOKENIZER_BYTES_MAX = 48 * 2 ** 20;
const STRIP_BYTES_MAX = 32 * 2 ** 20;

/**
 * Packs a Hugging Face folder into one `.flash` file, in memory that does not grow with the model.
 *
 * Throws `UnsupportedModelError` for a model that we do not run, `ModelFileError` for damaged files, missing tensors
 * and numbers that `quant` cannot hold, `FlashReadError` when reading fails; errors of writing are the system's.
 *
 * ```ts
 * import { pack } from "./pack.ts";
 * async function packOpt(folder: string): Promise<number> {
 *   const { byteLength } = await pack({ source: folder, target: "opt.flash", quant: "q8" });
 *   return byteLength;
 * }
 * ```
 */
export async function pack(options: PackOptions): Promise<PackResult> {
  options.signal?.throwIfAborted();
  const { quant, ffnQuant = quant } = options;
  const openSource = options.openSource ?? ((path: string) => new FileSource(path));
  const { family, config } = readConfig(options.source, openSource);
  const problem = problemWithNeurons(ffnQuant, config.intermediateSize);
  if (problem !== null) throw new UnsupportedModelError(`${options.source}: ${problem}`);
  const tokenizer = readTokenizer(options.source, openSource);
  const weights = openSafetensors(options.source, openSource);
  try {
    const content: FlashContent = {
      architecture: family.modelType,
      quantization: quant,
      ffnQuantization: ffnQuant,
      config,
      tokenizer,
      provenance: provenanceOf(options, weights),
    };
    const packer = new PartPacker({
      weights,
      family,
      config,
      quantization: quant,
      ffnQuantization: ffnQuant,
      stripBytesMax: options.stripBytesMax ?? STRIP_BYTES_MAX,
    });
    using writer = new FlashWriter(options.target, content);
    await writeParts(writer, packer, options);
    const { header, byteLength } = writer.finish();
    return { path: options.target, byteLength, header, ignoredTensors: packer.ignoredTensors };
  } finally {
    weights.close();
  }
}

async function writeParts(
  writer: FlashWriter,
  packer: PartPacker,
  { signal, onProgress }: PackOptions,
): Promise<void> {
  const { totalBytes } = writer;
  let doneBytes = 0;
  for (const part of writer.parts) {
    for (const bytes of packer.bytesOf(part)) {
      writer.write(bytes);
      doneBytes += bytes.byteLength;
      onProgress?.({ doneBytes, totalBytes, part: nameOf(part) });
      await setImmediate(); // The work is synchronous: only here can a signal arrive.
      signal?.throwIfAborted();
    }
  }
}

function nameOf(part: FlashPart): string {
  return part.kind === "tensor" ? part.tensor.name : `layers.${part.layerIndex}.bundles`;
}

function readConfig(
  folder: string,
  openSource: (path: string) => ByteSource,
): { family: ModelFamily; config: ModelConfig } {
  const path = join(folder, "config.json");
  const text = readText(path, CONFIG_BYTES_MAX, openSource);
  const json = parseJson(text, { path, byteOffset: 0 });
  if (json === null || typeof json !== "object") {
    const place = { path, field: "config", byteOffset: 0 };
    throw new ModelFileError("the config is not an object", place);
  }
  const family = familyOf((json as { model_type?: unknown }).model_type, path);
  return { family, config: family.readConfig(json, path) };
}

/** Takes the tokenizer's files as they are; who generates text parses them. */
function readTokenizer(folder: string, openSource: (path: string) => ByteSource): Tokenizer {
  const path = join(folder, "tokenizer.json");
  if (!existsSync(path)) return null;
  const json = readText(path, TOKENIZER_BYTES_MAX, openSource);
  parseJson(json, { path, byteOffset: 0 });
  const configPath = join(folder, "tokenizer_config.json");
  if (!existsSync(configPath)) return { json, config: null };
  const config = readText(configPath, CONFIG_BYTES_MAX, openSource);
  parseJson(config, { path: configPath, byteOffset: 0 });
  return { json, config };
}

function readText(
  path: string,
  byteLengthMax: number,
  openSource: (path: string) => ByteSource,
): string {
  const source = openSource(path);
  try {
    if (source.byteLength > byteLengthMax) {
      const place = { path, field: "length", byteOffset: byteLengthMax };
      throw new ModelFileError(`${source.byteLength} bytes are too many`, place);
    }
    const bytes = readRange(source, { byteOffset: 0, byteLength: source.byteLength });
    return decodeText(bytes, { path, byteOffset: 0 });
  } finally {
    source.close();
  }
}

/** Names without folders: a file must not tell how its maker's disk looks. */
function provenanceOf(options: PackOptions, weights: Safetensors): FlashContent["provenance"] {
  return {
    source: basename(resolve(options.source)),
    sourceFiles: weights.sources.map(({ path, byteLength }) => ({
      name: basename(path),
      byteLength,
    })),
    flashpipeVersion: VERSION,
    createdAt: options.createdAt ?? new Date().toISOString(),
    synthetic: options.synthetic ?? false,
  };
}
