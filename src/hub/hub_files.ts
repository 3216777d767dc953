import type { ByteSource } from "../format/byte_source.ts";
import { HubError, printable } from "../errors.ts";
import type { ModelFiles } from "../checkpoint/model_files.ts";
import type { HubClientOptions } from "./hub_client.ts";
import { HubFile } from "./hub_file.ts";
import { HubRepo } from "./hub_repo.ts";
import type { HubAddress } from "./hub_repo.ts";

/** A model's files on a hub, all of one commit. */
export class HubFiles implements ModelFiles {
  readonly name: string;
  readonly commit: string;
  readonly #repo: HubRepo;

  private constructor(repo: HubRepo) {
    this.#repo = repo;
    this.name = repo.repo;
    this.commit = repo.sha;
  }

  /** Asks the hub what there is. Throws `HubError`. */
  static async open(address: HubAddress, options: HubClientOptions): Promise<HubFiles> {
    return new HubFiles(await HubRepo.open(address, options));
  }

  has(file: string): boolean {
    return this.#repo.entries.has(file);
  }

  pathOf(file: string): string {
    return `hf:${this.name}/${file}`;
  }

  open(file: string): ByteSource {
    const entry = this.#repo.entries.get(file);
    if (entry) return new HubFile(this.#repo, entry);
    throw new HubError(`there is no ${printable(file)}`, { url: `hf:${this.name}` });
  }

  async bytes(file: string, byteLengthMax: number): Promise<Uint8Array> {
    return await this.#repo.bytes(file, byteLengthMax);
  }
}
