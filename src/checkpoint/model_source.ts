import { basename, dirname } from "node:path";
import { z } from "zod";
import type { ModelConfig } from "../../models/config.ts";
import type { ModelFamily, TensorNames } from "../../models/family.ts";
import { readGgufModel } from "../../models/gguf.ts";
import { readJson, tokenIdsJson } from "../../models/read_json.ts";
import { familyOf } from "../../models/registry.ts";
import { ModelFileError } from "../errors.ts";
import type { ByteSource } from "../format/byte_source.ts";
import type { Tokenizer } from "../format/header.ts";
import { HubFiles } from "../hub/hub_files.ts";
import type { HubClientOptions } from "../hub/hub_client.ts";
import { isHubAddress, parseHubAddress } from "../hub/hub_repo.ts";
import { Checkpoint } from "./checkpoint.ts";
import { readGgufHeader } from "./gguf.ts";
import { ggufTokenizer } from "./gguf_tokenizer.ts";
import { LocalFiles, readJsonFile } from "./model_files.ts";
import type { ModelFiles } from "./model_files.ts";
import { openWeights } from "./open_weights.ts";
import { readTokenizer } from "./tokenizer_files.ts";

/** A model as its makers gave it out: what it is, how it speaks, and its weights. */
export interface ModelSource {
  /** Without folders. */
  readonly name: string;
  readonly family: ModelFamily;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  /** What its tensors are called. */
  readonly names: TensorNames;
  readonly weights: Checkpoint;
  /** Of models on a hub: the commit that all of it is of. */
  readonly commit: string | null;
}

export interface ModelSourceOptions {
  /** A `config.json` to read in place of the model's own: of GGUF files, which do not tell what ReLU made sparse. */
  configPath?: string;
  /** How files of this machine are opened. */
  openSource(path: string): ByteSource;
  hub?: HubClientOptions;
}

/**
 * Opens a Hugging Face folder or a GGUF file, of this machine or (`hf:OWNER/NAME`, `hf:OWNER/NAME/FILE.gguf`) of a hub.
 *
 * @throws {UnsupportedModelError} for a model that we do not run
 * @throws {ModelFileError} for damaged files
 * @throws {HubError} the hub does not give it
 */
export async function openModelSource(
  path: string,
  options: ModelSourceOptions,
): Promise<ModelSource> {
  const { openSource } = options;
  if (isHubAddress(path)) {
    const address = parseHubAddress(path);
    const files = await HubFiles.open(address, options.hub ?? {});
    const source = address.file === null
      ? await openFolder(files, options)
      : await openGguf(files, address.file, options);
    return { ...source, commit: files.commit };
  }
  return isGguf(path)
    ? await openGguf(new LocalFiles(dirname(path), openSource), basename(path), options)
    : await openFolder(new LocalFiles(path, openSource), options);
}

/** Whether a path names a GGUF file. */
export function isGguf(path: string): boolean {
  return path.toLowerCase().endsWith(".gguf");
}

async function openFolder(files: ModelFiles, options: ModelSourceOptions): Promise<ModelSource> {
  const { family, config: told } = await configOf(options) ??
    await readConfig(files, "config.json");
  const config = await withEnds(told, files);
  const tokenizer = await readTokenizer(files, family.modelType);
  const weights = await openWeights(files);
  return { name: files.name, family, config, tokenizer, names: family, weights, commit: null };
}

async function openGguf(
  files: ModelFiles,
  file: string,
  options: ModelSourceOptions,
): Promise<ModelSource> {
  const path = files.pathOf(file), source = files.open(file);
  try {
    const { metadata, tensors } = await readGgufHeader(source);
    const weights = new Checkpoint([source], new Map(tensors.map((each) => [each.name, each])));
    const { family, json, names } = await readGgufModel(metadata, weights, path);
    const told = await configOf(options) ?? { family, config: family.readConfig(json, path) };
    const tokenizer = ggufTokenizer(metadata, path);
    return { name: file, ...told, tokenizer, names, weights, commit: null };
  } catch (error) {
    source.close();
    throw error;
  }
}

interface FamilyConfig {
  readonly family: ModelFamily;
  readonly config: ModelConfig;
}

/** The config that was given beside the model, if there was one. */
async function configOf(
  { configPath, openSource }: ModelSourceOptions,
): Promise<FamilyConfig | null> {
  if (configPath === undefined) return null;
  return await readConfig(new LocalFiles(dirname(configPath), openSource), basename(configPath));
}

async function readConfig(files: ModelFiles, file: string): Promise<FamilyConfig> {
  const { json } = await readJsonFile(files, file), path = files.pathOf(file);
  if (json === null || typeof json !== "object") {
    const place = { path, field: "config", byteOffset: 0 };
    throw new ModelFileError("the config is not an object", place);
  }
  const family = familyOf((json as { model_type?: unknown }).model_type, path);
  return { family, config: family.readConfig(json, path) };
}

const endsSchema = z.object({ eos_token_id: tokenIdsJson.default([]) });

/** Chat models end a turn with tokens that only generation_config.json names. */
async function withEnds(config: ModelConfig, files: ModelFiles): Promise<ModelConfig> {
  const file = "generation_config.json";
  if (!files.has(file)) return config;
  const { json } = await readJsonFile(files, file);
  const { eos_token_id: more } = readJson(endsSchema, json, files.pathOf(file));
  const known = more.filter((id) => id < config.vocabSize);
  return { ...config, eosTokenIds: [...new Set([...config.eosTokenIds, ...known])] };
}
