import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { ModelFileError } from "../errors.ts";
import { type ByteSource, FileSource, loadRange } from "../format/byte_source.ts";
import { decodeText, parseJson } from "../format/strict_json.ts";

export const CONFIG_BYTES_MAX = 2 ** 20;

/** The files that a model was given out as, wherever they lie. */
export interface ModelFiles {
  /** Of the model, without folders. */
  readonly name: string;
  has(file: string): boolean;
  /** What messages call a file. */
  pathOf(file: string): string;
  open(file: string): ByteSource;
  /** A small file, whole. */
  bytes(file: string, byteLengthMax: number): Promise<Uint8Array>;
}

/** A folder of this machine. */
export class LocalFiles implements ModelFiles {
  readonly name: string;
  readonly #folder: string;
  readonly #openSource: (path: string) => ByteSource;

  constructor(
    folder: string,
    openSource: (path: string) => ByteSource = (path) => new FileSource(path),
  ) {
    this.name = basename(resolve(folder));
    this.#folder = folder;
    this.#openSource = openSource;
  }

  has(file: string): boolean {
    return existsSync(this.pathOf(file));
  }

  pathOf(file: string): string {
    return join(this.#folder, file);
  }

  open(file: string): ByteSource {
    return this.#openSource(this.pathOf(file));
  }

  async bytes(file: string, byteLengthMax: number): Promise<Uint8Array> {
    const source = this.open(file);
    try {
      if (source.byteLength > byteLengthMax) {
        const place = { path: source.path, field: "length", byteOffset: byteLengthMax };
        throw new ModelFileError(`${source.byteLength} bytes are too many`, place);
      }
      return await loadRange(source, { byteOffset: 0, byteLength: source.byteLength });
    } finally {
      source.close();
    }
  }
}

/** The text of a small file. Throws `ModelFileError` if it is too long, or not UTF-8. */
export async function readText(
  files: ModelFiles,
  file: string,
  byteLengthMax: number,
): Promise<string> {
  const bytes = await files.bytes(file, byteLengthMax);
  return decodeText(bytes, { path: files.pathOf(file), byteOffset: 0 });
}

/** What a small file of JSON holds, and its text. */
export async function readJsonFile(
  files: ModelFiles,
  file: string,
  byteLengthMax = CONFIG_BYTES_MAX,
): Promise<{ text: string; json: unknown }> {
  const text = await readText(files, file, byteLengthMax);
  return { text, json: parseJson(text, { path: files.pathOf(file), byteOffset: 0 }) };
}
