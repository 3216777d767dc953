import { basename } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { ModelConfig } from "../../models/config.ts";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { openModelSource } from "../checkpoint/model_source.ts";
import type { ModelSource } from "../checkpoint/model_source.ts";
import { HubChecksumError, UnsupportedModelError } from "../errors.ts";
import type { HubClientOptions } from "../hub/hub_client.ts";
import { HubFile } from "../hub/hub_file.ts";
import { isHubAddress } from "../hub/hub_repo.ts";
import { PackJournal, PackLock } from "../hub/pack_journal.ts";
import { coreCount } from "../runtime.ts";
import { VERSION } from "../version.ts";
import { type ByteSource, FileSource } from "./byte_source.ts";
import { type FlashContent, type FlashPart, FlashWriter } from "./flash_writer.ts";
import type { FlashHeader } from "./header.ts";
import { isPrunable, problemWithNeurons } from "./layout.ts";
import type { Quantization } from "./layout.ts";
import { PackCrew } from "./pack_crew.ts";
import { PartPacker } from "./part_packer.ts";
import { chooseCapacities } from "./sparse_vectors.ts";

export interface PackOptions {
  /**
   * A Hugging Face folder: config.json, safetensors or PyTorch's files, and the tokenizer's files where there are any. Or a
   * GGUF file. Or either on a hub: `hf:OWNER/NAME`, `hf:OWNER/NAME@REVISION/FILE.gguf`; then a process that was stopped leaves
   * `TARGET.partial`, where the next one with the same options goes on.
   */
  source: string;
  /** A `config.json` in place of the source's own. */
  configPath?: string;
  /** The `.flash` file to write; it is replaced when all is written. */
  target: string;
  /** How resident matrices are stored, and bundles if not told otherwise. */
  quant: Quantization;
  /** How the FFN's bundles are stored. */
  ffnQuant?: Quantization;
  /**
   * Keep the zeros of a pruned model's FFN. Else bundles of f16 and q8 are stored without them, if they are smaller by a tenth or
   * more so; no result changes. Models of a hub keep theirs, as they would have to be fetched twice.
   */
  keepZeros?: boolean;
  onProgress?: (progress: PackProgress) => void;
  /** Aborting removes what was written; `pack` then rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Stands in the file as the time of its making. Equal sources and times give equal bytes. Default: now. */
  createdAt?: string;
  /** Marks a model of random weights, so that no measurement on it passes for one on a trained model. */
  synthetic?: boolean;
  /** Most memory for a strip of the FFN's down matrix while it is transposed. Default: 32 MiB. */
  stripBytesMax?: number;
  /** Threads that convert. Default: one a core and one that waits for the disk, up to 6; one for a small model, and for one of a hub. The bytes do not depend on it. */
  threads?: number;
  /** Where `hf:` models come from. */
  hub?: HubClientOptions;
  /** How files are opened; tests count requests here. */
  openSource?: (path: string) => ByteSource;
}

export interface PackProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
  /**
   * `embedTokens`, `layers.3.bundles`: what is written, or got from a hub for that; `layers.3.zeros` while a pruned model's zeros are
   * counted, which has a total of its own.
   */
  readonly part: string;
  /** Of a hub's files: bytes that went by. A large tensor takes its time before any of its part is written. */
  readonly fetched: { readonly doneBytes: number; readonly totalBytes: number } | null;
}

export interface PackResult {
  readonly path: string;
  readonly byteLength: number;
  readonly header: FlashHeader;
  /** Tensors of the source that found no place. */
  readonly ignoredTensors: readonly string[];
}

const STRIP_BYTES_MAX = 32 * 2 ** 20;
const SMALL_BYTES = 128 * 2 ** 20;
/** Each takes some 100 MiB. */
const THREADS_MAX = 6;

/**
 * Packs a model into one `.flash` file, in memory that does not grow with the model.
 *
 * Throws `UnsupportedModelError` for a model that we do not run, `ModelFileError` for damaged files, missing tensors
 * and numbers that `quant` cannot hold, `FlashReadError` when reading fails, `HubError` when a hub does; errors of writing are the system's.
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
  const { quant, ffnQuant = quant, signal } = options;
  const model = await openModelSource(options.source, {
    configPath: options.configPath,
    openSource: options.openSource ?? ((path) => new FileSource(path)),
    hub: { ...options.hub, signal },
  });
  const { family, config, names, tokenizer, weights, commit } = model;
  try {
    const problem = problemWithNeurons(ffnQuant, config);
    if (problem !== null) throw new UnsupportedModelError(`${options.source}: ${problem}`);
    const packer = new PartPacker({
      weights,
      names,
      config,
      quantization: quant,
      ffnQuantization: ffnQuant,
      stripBytesMax: options.stripBytesMax ?? STRIP_BYTES_MAX,
    });
    const mayLeaveOut = isPrunable(ffnQuant) && !options.keepZeros && commit === null;
    const capacities = mayLeaveOut ? await findCapacities(packer, config, options) : null;
    if (capacities) packer.storeWithoutZeros(capacities);
    const content: FlashContent = {
      architecture: family.modelType,
      quantization: quant,
      ffnQuantization: ffnQuant,
      ...(capacities ? { ffnCapacities: capacities } : {}),
      config,
      tokenizer,
      provenance: provenanceOf(options, model),
    };
    using _lock = commit === null ? null : new PackLock(options.target);
    const journal = commit === null ? null : new PackJournal(options.target, content, commit);
    using writer = new FlashWriter(options.target, content, { resume: journal?.parts });
    const threads = threadsFor(options, writer.totalBytes);
    if (threads > 1) await writeByThreads(writer, packer, content, threads, options);
    else {
      await writeParts(writer, packer, weights, journal, options).catch((error) => {
        // Nobody can tell which part it spoiled.
        if (error instanceof HubChecksumError) journal?.discard();
        throw error;
      });
    }
    const { header, byteLength } = writer.finish();
    journal?.remove();
    return { path: options.target, byteLength, header, ignoredTensors: packer.ignoredTensors };
  } finally {
    weights.close();
  }
}

/** Models of a hub come through one door; small ones are done before threads have started; `openSource` cannot go to a thread. */
function threadsFor({ source, threads, openSource }: PackOptions, byteLength: number): number {
  if (isHubAddress(source) || openSource !== undefined) return 1;
  return threads ?? (byteLength < SMALL_BYTES ? 1 : Math.min(THREADS_MAX, coreCount() + 1));
}

/** All parts by threads, each of which reads, converts and writes for itself. */
async function writeByThreads(
  writer: FlashWriter,
  packer: PartPacker,
  { quantization, ffnQuantization, ffnCapacities }: FlashContent,
  threads: number,
  options: PackOptions,
): Promise<void> {
  const { source, configPath, target, signal, onProgress } = options;
  const { totalBytes, parts } = writer;
  const stripBytesMax = options.stripBytesMax ?? STRIP_BYTES_MAX;
  const form = { quantization, ffnQuantization, ffnCapacities, stripBytesMax };
  await using crew = new PackCrew(
    { source, configPath, path: writer.path, target, ...form },
    threads,
  );
  const indices = packer.inSourceOrder(parts).map((part) => parts.indexOf(part));
  let doneBytes = 0;
  const wrote = (index: number, bytes: number) => {
    doneBytes += bytes;
    onProgress?.({ doneBytes, totalBytes, part: nameOf(parts[index]), fetched: null });
  };
  await crew.run(indices, { wrote, whole: (part) => writer.adopt(part) }, signal);
}

/** Room for the numbers of a pruned model's bundles; null if they are stored with their zeros. */
async function findCapacities(
  packer: PartPacker,
  { numLayers, hiddenSize, ffn: { isGated } }: ModelConfig,
  { quant, ffnQuant: quantization = quant, signal, onProgress }: PackOptions,
): Promise<number[] | null> {
  if (!packer.looksPruned) return null;
  const counting = packer.countStored();
  for (;;) {
    const { done, value } = counting.next();
    if (done) {
      return chooseCapacities({ quantization, hiddenSize, isGated, capacities: null }, value);
    }
    onProgress?.({
      doneBytes: value,
      totalBytes: numLayers,
      part: `layers.${value}.zeros`,
      fetched: null,
    });
    await setImmediate();
    signal?.throwIfAborted();
  }
}

async function writeParts(
  writer: FlashWriter,
  packer: PartPacker,
  weights: Checkpoint,
  journal: PackJournal | null,
  { signal, onProgress }: PackOptions,
): Promise<void> {
  const { totalBytes } = writer;
  const parts = packer.inSourceOrder(writer.parts).filter((part) => !writer.isWhole(part));
  const files = weights.sources.filter((source) => source instanceof HubFile);
  const fetchTotal = files.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const uses = usesOf(parts.flatMap((part) => packer.sourcesOf(part)));
  let doneBytes = totalBytes - parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
  let part = parts.at(0);
  const report = () => {
    const fetchedBytes = files.reduce((sum, { position }) => sum + position, 0);
    const fetched = files.length > 0 ? { doneBytes: fetchedBytes, totalBytes: fetchTotal } : null;
    onProgress?.({ doneBytes, totalBytes, part: part ? nameOf(part) : "", fetched });
  };
  for (const [index, file] of files.entries()) {
    const wanted = parts.flatMap((part) => packer.sourcesOf(part))
      .filter(({ source }) => source === file);
    await file.keep(wanted, { state: journal?.stateOf(index), onAdvance: report });
  }
  for (part of parts) {
    const tensors = packer.sourcesOf(part);
    for (const tensor of tensors) await tensor.source.load?.(tensor);
    writer.select(part);
    for (const bytes of packer.bytesOf(part)) {
      writer.write(bytes);
      doneBytes += bytes.byteLength;
      report();
      await setImmediate(); // The work is synchronous: only here can a signal arrive.
      signal?.throwIfAborted();
    }
    for (const tensor of tensors) {
      const left = uses.get(tensor)! - 1;
      uses.set(tensor, left);
      if (left === 0) tensor.source.release?.(tensor);
    }
    journal?.save(writer, files);
  }
  for (const file of files) await file.finish();
}

/** How often each is there: queries, keys and values may come from one tensor. */
function usesOf<T>(all: readonly T[]): Map<T, number> {
  const uses = new Map<T, number>();
  for (const each of all) uses.set(each, (uses.get(each) ?? 0) + 1);
  return uses;
}

function nameOf(part: FlashPart): string {
  return part.kind === "tensor" ? part.tensor.name : `layers.${part.layerIndex}.bundles`;
}

/** Names without folders: a file must not tell how its maker's disk looks. */
function provenanceOf(
  options: PackOptions,
  { name, weights }: ModelSource,
): FlashContent["provenance"] {
  return {
    source: name,
    sourceFiles: weights.sources.map(({ path, byteLength }) => ({
      name: basename(path),
      byteLength,
    })),
    flashpipeVersion: VERSION,
    createdAt: options.createdAt ?? new Date().toISOString(),
    synthetic: options.synthetic ?? false,
  };
}
