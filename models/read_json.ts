import { z } from "zod";
import { ModelFileError, printable, UnsupportedModelError } from "../src/errors.ts";
import { modelConfigSchema, problemWithConfig } from "./config.ts";
import type { ModelConfig } from "./config.ts";

/** A token that may be missing; null where it is. Some files say so with -1. */
export const tokenIdJson = z.int().nullable().transform((id) => id === null || id < 0 ? null : id);

/** One token, several, or none that end a text. */
export const tokenIdsJson = z.union([z.int(), z.array(z.int())])
  .nullable()
  .transform((ids) => ids === null ? [] : [ids].flat().filter((id) => id >= 0));

/**
 * Reads what a file of a model says by a schema, such as `config.json` by its family's. Throws `ModelFileError` naming the first field
 * that is wrong.
 */
export function readJson<T>(schema: z.ZodType<T>, json: unknown, path: string): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new ModelFileError(issue.message, { path, field: issue.path.join("."), byteOffset: 0 });
}

/** A config whose numbers have been checked, each and against each other. */
export function soundConfig(config: ModelConfig, path: string): ModelConfig {
  const sound = readJson(modelConfigSchema, config, path);
  const problem = problemWithConfig(sound);
  if (problem !== null) throw new UnsupportedModelError(`${path}: ${problem}`);
  return sound;
}

/** Throws `UnsupportedModelError`: a sound setting that we do not run, and what we would run. */
export function refuse(path: string, field: string, wanted: string, found: unknown): never {
  const value = printable(JSON.stringify(found) ?? String(found));
  throw new UnsupportedModelError(`${path}: ${field} must be ${wanted}: found ${value}`);
}
