import { z } from "zod";
import { readJson } from "../../models/read_json.ts";
import { ModelFileError } from "../errors.ts";
import type { ByteSource } from "../format/byte_source.ts";
import { Checkpoint } from "./checkpoint.ts";
import { readJsonFile } from "./model_files.ts";
import type { ModelFiles } from "./model_files.ts";
import { HEADER_BYTES_MAX, readSafetensorsHeader } from "./safetensors.ts";
import type { SourceTensor } from "./source_tensor.ts";
import { readTorchHeader } from "./torch_zip.ts";

/** The files that a Hugging Face folder may keep its weights in; the first kind that is there is taken. */
const KINDS: readonly WeightFiles[] = [
  {
    single: "model.safetensors",
    index: "model.safetensors.index.json",
    shard: /^[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors$/,
    readHeader: readSafetensorsHeader,
  },
  {
    single: "pytorch_model.bin",
    index: "pytorch_model.bin.index.json",
    shard: /^[A-Za-z0-9_][A-Za-z0-9._-]*\.(bin|pt)$/,
    readHeader: readTorchHeader,
  },
];

interface WeightFiles {
  readonly single: string;
  readonly index: string;
  /** A shard is a file of the same folder: no name may lead out of it. */
  readonly shard: RegExp;
  readHeader(source: ByteSource): Promise<SourceTensor[]>;
}

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/**
 * Opens the weights of a Hugging Face folder: `model.safetensors` or `pytorch_model.bin`, or the shards that an index names.
 *
 * @throws {ModelFileError} if there are none, or they are damaged
 */
export async function openWeights(files: ModelFiles): Promise<Checkpoint> {
  for (const kind of KINDS) {
    if (files.has(kind.single)) return await openFiles(files, [kind.single], kind);
    if (files.has(kind.index)) return await openShards(files, kind);
  }
  const names = KINDS.flatMap(({ single, index }) => [single, index]);
  throw new ModelFileError(`there is none of ${names.join(", ")}`, {
    path: files.pathOf("."),
    field: names[0],
    byteOffset: 0,
  });
}

async function openShards(files: ModelFiles, kind: WeightFiles): Promise<Checkpoint> {
  const indexPath = files.pathOf(kind.index);
  const fail = (field: string, problem: string): never => {
    throw new ModelFileError(problem, { path: indexPath, field, byteOffset: 0 });
  };
  const { json } = await readJsonFile(files, kind.index, HEADER_BYTES_MAX);
  const { weight_map: weightMap } = readJson(indexSchema, json, indexPath);
  const names = [...new Set(Object.values(weightMap))].sort();
  for (const name of names) {
    if (!kind.shard.test(name)) {
      fail("weight_map", `${JSON.stringify(name)} is not a shard's file name`);
    }
  }
  const opened = await openFiles(files, names, kind);
  for (const [tensor, shard] of Object.entries(weightMap)) {
    if (opened.tensors.get(tensor)?.source === opened.sources[names.indexOf(shard)]) continue;
    opened.close();
    fail(`weight_map.${tensor}`, `tensor ${tensor} is not in ${shard}`);
  }
  return opened;
}

async function openFiles(
  files: ModelFiles,
  names: readonly string[],
  { readHeader }: WeightFiles,
): Promise<Checkpoint> {
  const sources: ByteSource[] = [];
  const tensors = new Map<string, SourceTensor>();
  try {
    for (const name of names) {
      const source = files.open(name);
      sources.push(source);
      for (const tensor of await readHeader(source)) {
        const twin = tensors.get(tensor.name);
        if (twin !== undefined) {
          const problem = `tensor ${tensor.name} is in ${twin.source.path} too`;
          const place = { path: source.path, field: tensor.name, byteOffset: 8 };
          throw new ModelFileError(problem, place);
        }
        tensors.set(tensor.name, tensor);
      }
    }
  } catch (error) {
    for (const source of sources) source.close();
    throw error;
  }
  return new Checkpoint(sources, tensors);
}
