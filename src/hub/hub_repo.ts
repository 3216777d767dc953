import { createHash } from "node:crypto";
import { z } from "zod";
import { HubChecksumError, HubError, printable } from "../errors.ts";
import { parseJson } from "../format/strict_json.ts";
import { HubClient } from "./hub_client.ts";
import type { HubClientOptions } from "./hub_client.ts";

/** A file of a model on a hub. */
export interface HubEntry {
  readonly name: string;
  readonly byteLength: number;
  /** Of large files: SHA-256 of their bytes. */
  readonly sha256: string | null;
  /** Of others: git's name of their bytes. */
  readonly blobId: string;
}

/** What `hf:OWNER/NAME@REVISION/FILE` names. */
export interface HubAddress {
  readonly repo: string;
  /** Default: `main`. */
  readonly revision: string;
  /** A file, such as one of several GGUF files; null: the model that the repository is. */
  readonly file: string | null;
}

const PREFIX = "hf:";
const PART = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/;

/** Whether a path names a model on a hub. */
export function isHubAddress(path: string): boolean {
  return path.startsWith(PREFIX);
}

/**
 * Reads `hf:OWNER/NAME`, with `@REVISION` and `/FILE` if wanted.
 *
 * @throws {RangeError} it is nothing of the kind
 */
export function parseHubAddress(path: string): HubAddress {
  const [owner, named = "", ...rest] = path.slice(PREFIX.length).split("/");
  const [name, revision = "main"] = named.split("@");
  const parts = [owner, name, revision, ...rest];
  if (!isHubAddress(path) || !parts.every((part) => PART.test(part))) {
    throw new RangeError(
      `Cannot take ${
        JSON.stringify(path)
      } for a model on a hub: hf:OWNER/NAME, hf:OWNER/NAME@REVISION`,
    );
  }
  return { repo: `${owner}/${name}`, revision, file: rest.length > 0 ? rest.join("/") : null };
}

const listSchema = z.object({
  sha: z.string().regex(/^[0-9a-f]{40}$/),
  siblings: z.array(z.object({
    rfilename: z.string(),
    size: z.int().nonnegative().optional(),
    blobId: z.string().optional(),
    lfs: z.object({ sha256: z.string().regex(/^[0-9a-f]{64}$/), size: z.int().nonnegative() })
      .nullish(),
  })),
});

const LIST_BYTES_MAX = 16 * 2 ** 20;

/** A model on a hub at one commit, whatever happens there meanwhile. */
export class HubRepo {
  readonly repo: string;
  /** The commit. */
  readonly sha: string;
  readonly entries: ReadonlyMap<string, HubEntry>;
  readonly client: HubClient;

  private constructor(client: HubClient, repo: string, list: z.infer<typeof listSchema>) {
    this.client = client;
    this.repo = repo;
    this.sha = list.sha;
    this.entries = new Map(list.siblings.map(({ rfilename: name, size, blobId, lfs }) => [name, {
      name,
      byteLength: lfs?.size ?? size ?? 0,
      sha256: lfs?.sha256 ?? null,
      blobId: blobId ?? "",
    }]));
  }

  /** Lists a model's files. Throws `HubError`. */
  static async open({ repo, revision }: HubAddress, options: HubClientOptions): Promise<HubRepo> {
    const client = new HubClient(options);
    const path = `/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
    const url = `${options.endpoint ?? ""}${path}`;
    const text = new TextDecoder().decode(await client.bytes(path, LIST_BYTES_MAX));
    const parsed = listSchema.safeParse(parseJson(text, { path: url, byteOffset: 0 }));
    if (parsed.success) return new HubRepo(client, repo, parsed.data);
    const [issue] = parsed.error.issues;
    throw new HubError(`its list of files is odd: ${issue.path.join(".")}: ${issue.message}`, {
      url,
    });
  }

  /** The route of a file. */
  pathOf(name: string): string {
    return `/${this.repo}/resolve/${this.sha}/${name.split("/").map(encodeURIComponent).join("/")}`;
  }

  /** A small file, whole, whose bytes are what the hub says they are. */
  async bytes(name: string, byteLengthMax: number): Promise<Uint8Array<ArrayBuffer>> {
    const entry = this.entries.get(name), url = this.pathOf(name);
    if (entry === undefined) throw new HubError(`${this.repo} has no ${printable(name)}`, { url });
    const bytes = await this.client.bytes(url, byteLengthMax);
    const [found, wanted] = entry.sha256 !== null
      ? [createHash("sha256").update(bytes).digest("hex"), entry.sha256]
      : [gitBlobId(bytes), entry.blobId];
    if (wanted !== "" && found !== wanted) {
      throw new HubChecksumError(`its checksum is ${found}, not ${wanted}`, { url });
    }
    return bytes;
  }
}

/** How git names a file's bytes. */
function gitBlobId(bytes: Uint8Array): string {
  return createHash("sha1").update(`blob ${bytes.byteLength}\0`).update(bytes).digest("hex");
}
