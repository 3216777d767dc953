import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { ModelFileError } from "../errors.ts";
import { type ByteSource, FileSource, readRange } from "./byte_source.ts";
import {
  DTYPE_BYTES,
  HEADER_BYTES_MAX,
  readSafetensorsHeader,
  type SafeTensor,
} from "./safetensors_header.ts";
import { decodeText, parseJson } from "./strict_json.ts";

const INDEX_FILE = "model.safetensors.index.json";
const SINGLE_FILE = "model.safetensors";

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/** The weights of a Hugging Face folder, by tensor name. */
export class Safetensors {
  readonly tensors: ReadonlyMap<string, SafeTensor>;
  /** The files behind it, in the order of their names. */
  readonly sources: readonly ByteSource[];
  #scratch = new Uint8Array(0);

  constructor(sources: readonly ByteSource[], tensors: ReadonlyMap<string, SafeTensor>) {
    this.sources = sources;
    this.tensors = tensors;
  }

  /** Reads the bytes of `length` numbers from number `from` on into `target`, as they are stored. */
  readBytes(tensor: SafeTensor, { from, length }: Range, target: Uint8Array): void {
    checkRange(tensor, { from, length });
    const size = DTYPE_BYTES[tensor.dtype];
    tensor.source.read(target.subarray(0, length * size), tensor.byteOffset + from * size);
  }

  /** Reads `length` numbers from number `from` on as f32. Types: F32, F16, BF16. */
  readFloats(tensor: SafeTensor, { from, length }: Range, target: Float32Array): void {
    const byteLength = length * floatByteLength(tensor);
    if (this.#scratch.byteLength < byteLength) this.#scratch = new Uint8Array(byteLength);
    this.readBytes(tensor, { from, length }, this.#scratch);
    toFloats(tensor.dtype, this.#scratch, length, target);
  }

  close(): void {
    for (const source of this.sources) source.close();
  }
}

interface Range {
  /** The first number. */
  readonly from: number;
  /** How many numbers. */
  readonly length: number;
}

/** Opens `model.safetensors` in `folder`, or the shards that `model.safetensors.index.json` names. */
export function openSafetensors(
  folder: string,
  openSource: (path: string) => ByteSource = (path) => new FileSource(path),
): Safetensors {
  const single = join(folder, SINGLE_FILE);
  if (existsSync(single)) return openFiles([single], openSource);
  const index = join(folder, INDEX_FILE);
  if (existsSync(index)) return openShards(folder, index, openSource);
  const hint = existsSync(join(folder, "pytorch_model.bin"))
    ? "; pytorch_model.bin is there: convert it to safetensors first"
    : "";
  throw new ModelFileError(`there is neither ${SINGLE_FILE} nor ${INDEX_FILE}${hint}`, {
    path: folder,
    field: SINGLE_FILE,
    byteOffset: 0,
  });
}

/** Bytes of one number of a tensor of floats; throws for other types. */
export function floatByteLength({ dtype, name, source, byteOffset }: SafeTensor): 2 | 4 {
  if (dtype === "F32") return 4;
  if (dtype === "F16" || dtype === "BF16") return 2;
  throw new ModelFileError(`tensor ${name} has type ${dtype}; supported: F32, F16, BF16`, {
    path: source.path,
    field: `${name}.dtype`,
    byteOffset,
  });
}

/** Converts `length` numbers of type F32, F16 or BF16. `bytes` begins at a multiple of 4 in its buffer. */
export function toFloats(
  dtype: string,
  bytes: Uint8Array,
  length: number,
  target: Float32Array,
): void {
  const { buffer, byteOffset } = bytes;
  if (dtype === "F32") target.set(new Float32Array(buffer, byteOffset, length));
  else if (dtype === "F16") target.set(new Float16Array(buffer, byteOffset, length));
  else { // BF16 is the upper half of an f32.
    const halves = new Uint16Array(buffer, byteOffset, length);
    const words = new Uint32Array(target.buffer, target.byteOffset, length);
    for (let index = 0; index < length; index++) words[index] = halves[index] << 16;
  }
}

function openShards(
  folder: string,
  indexPath: string,
  openSource: (path: string) => ByteSource,
): Safetensors {
  const weightMap = readWeightMap(indexPath, openSource);
  const names = [...new Set(Object.values(weightMap))].sort();
  for (const name of names) checkShardName(name, indexPath);
  const opened = openFiles(names.map((name) => join(folder, name)), openSource);
  for (const [tensor, shard] of Object.entries(weightMap)) {
    if (opened.tensors.get(tensor)?.source.path === join(folder, shard)) continue;
    opened.close();
    throw indexError(indexPath, `weight_map.${tensor}`, `tensor ${tensor} is not in ${shard}`);
  }
  return opened;
}

function readWeightMap(
  indexPath: string,
  openSource: (path: string) => ByteSource,
): Record<string, string> {
  const source = openSource(indexPath);
  try {
    if (source.byteLength > HEADER_BYTES_MAX) {
      throw indexError(indexPath, "length", `an index of ${source.byteLength} bytes is too long`);
    }
    const bytes = readRange(source, { byteOffset: 0, byteLength: source.byteLength });
    const json = parseJson(decodeText(bytes, { path: indexPath, byteOffset: 0 }), {
      path: indexPath,
      byteOffset: 0,
    });
    const parsed = indexSchema.safeParse(json);
    if (parsed.success) return parsed.data.weight_map;
    const [issue] = parsed.error.issues;
    throw indexError(indexPath, issue.path.join("."), issue.message);
  } finally {
    source.close();
  }
}

/** A shard is a file of the same folder: no name may lead out of it. */
function checkShardName(name: string, indexPath: string): void {
  if (/^[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors$/.test(name)) return;
  throw indexError(indexPath, "weight_map", `${JSON.stringify(name)} is not a shard's file name`);
}

function openFiles(
  paths: readonly string[],
  openSource: (path: string) => ByteSource,
): Safetensors {
  const sources: ByteSource[] = [];
  const tensors = new Map<string, SafeTensor>();
  try {
    for (const path of paths) {
      const source = openSource(path);
      sources.push(source);
      for (const tensor of readSafetensorsHeader(source)) {
        const twin = tensors.get(tensor.name);
        if (twin !== undefined) {
          const problem = `tensor ${tensor.name} is in ${twin.source.path} too`;
          throw new ModelFileError(problem, { path, field: tensor.name, byteOffset: 8 });
        }
        tensors.set(tensor.name, tensor);
      }
    }
  } catch (error) {
    for (const source of sources) source.close();
    throw error;
  }
  return new Safetensors(sources, tensors);
}

function checkRange({ name, length: all }: SafeTensor, { from, length }: Range): void {
  if (from >= 0 && length >= 0 && from + length <= all) return;
  throw new RangeError(
    `Cannot read numbers ${from} to ${from + length} of tensor ${name}: it has ${all}`,
  );
}

function indexError(path: string, field: string, problem: string): ModelFileError {
  return new ModelFileError(problem, { path, field, byteOffset: 0 });
}
