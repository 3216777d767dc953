import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import { createSHA256 } from "hash-wasm";
import type { IHasher } from "hash-wasm";
import { HubChecksumError, HubError } from "../errors.ts";
import type { ByteRange, ByteSource } from "../format/byte_source.ts";
import type { HubEntry, HubRepo } from "./hub_repo.ts";

/** How far a file is, so that another process can go on. */
export interface HubFileState {
  /** Where the range begins that was going by: what is before went through the hash. */
  readonly position: number;
  /** The hash's own state, base64; null where the hub tells no checksum. */
  readonly hash: string | null;
  /** CRC-32 of the wanted ranges that went by, by their place (`placeOf`): one that is asked for again must be the same. */
  readonly checksums: [string, number][];
}

interface Held extends ByteRange {
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/**
 * A file on a hub as a `ByteSource`. Bytes must be loaded before they can be read, and are held until they are released.
 *
 * Before `keep` says what of it will be wanted, each load asks for just its range: headers. After that the file goes by once, from
 * front to back, through a hash, and of what goes by only what is wanted is held; so that a whole model is checked and packed in one
 * pass, without a copy of it anywhere. What went by before somebody wanted it is asked for by itself.
 */
export class HubFile implements ByteSource {
  readonly path: string;
  readonly byteLength: number;
  readonly #repo: HubRepo;
  readonly #entry: HubEntry;
  readonly #held: Held[] = [];
  /** In the order of the file; null before `keep`. */
  #wanted: readonly ByteRange[] | null = null;
  #stream: AsyncGenerator<Uint8Array, void, void> | null = null;
  #position = 0;
  #hash: IHasher | null = null;
  /** At the beginning of the last range that came. */
  #boundary: { position: number; hash: string | null } = { position: 0, hash: null };
  readonly #checksums = new Map<string, number>();
  #onAdvance: () => void = () => {};

  constructor(repo: HubRepo, entry: HubEntry) {
    this.path = `hf:${repo.repo}@${repo.sha.slice(0, 8)}/${entry.name}`;
    this.byteLength = entry.byteLength;
    this.#repo = repo;
    this.#entry = entry;
  }

  /** Bytes that went by. */
  get position(): number {
    return this.#position;
  }

  /** From here on the file goes by once; `state`: from where it was. `onAdvance`: whenever some of it went by. */
  async keep(
    wanted: readonly ByteRange[],
    { state, onAdvance }: { state?: HubFileState; onAdvance?: () => void } = {},
  ): Promise<void> {
    if (onAdvance) this.#onAdvance = onAdvance;
    this.#wanted = [...wanted].sort((a, b) => a.byteOffset - b.byteOffset);
    this.#position = state?.position ?? 0;
    for (const [place, checksum] of state?.checksums ?? []) this.#checksums.set(place, checksum);
    if (this.#entry.sha256 !== null) {
      this.#hash = await createSHA256();
      if (state?.hash) this.#hash.load(Buffer.from(state.hash, "base64"));
      else this.#hash.init();
    }
    this.#setBoundary();
  }

  get state(): HubFileState {
    return { ...this.#boundary, checksums: [...this.#checksums] };
  }

  #setBoundary(): void {
    const saved = this.#hash?.save();
    const hash = saved ? Buffer.from(saved).toString("base64") : null;
    this.#boundary = { position: this.#position, hash };
  }

  async load(range: ByteRange): Promise<void> {
    if (range.byteLength === 0) return;
    const end = range.byteOffset + range.byteLength;
    if (this.#wanted !== null && end > this.#position) {
      // What is held may have come in part so far.
      const isComing = range.byteOffset >= this.#position || this.#find(range) !== undefined;
      if (isComing) await this.#advance(end);
    }
    // Not wanted when it went by, or that was in another process.
    if (this.#find(range)) return;
    const bytes = await this.#fetch(range), known = this.#checksums.get(placeOf(range));
    if (known !== undefined && crc32(bytes) !== known) {
      throw new HubChecksumError("it is not what it was before", { url: this.path });
    }
    this.#held.push({ ...range, bytes });
  }

  release({ byteOffset, byteLength }: ByteRange): void {
    const isInside = (held: Held) =>
      held.byteOffset >= byteOffset &&
      held.byteOffset + held.byteLength <= byteOffset + byteLength;
    for (let index = this.#held.length - 1; index >= 0; index--) {
      if (isInside(this.#held[index])) this.#held.splice(index, 1);
    }
  }

  read(target: Uint8Array, byteOffset: number): void {
    if (target.byteLength === 0) return;
    const held = this.#find({ byteOffset, byteLength: target.byteLength });
    if (!held) {
      throw new Error(`Bytes ${byteOffset} of ${this.path} are read before they are loaded`);
    }
    const from = byteOffset - held.byteOffset;
    target.set(held.bytes.subarray(from, from + target.byteLength));
  }

  /** Lets the rest go by. Throws `HubError` if the file is not what the hub says that it is. */
  async finish(): Promise<void> {
    if (!this.#hash) return;
    await this.#advance(this.byteLength);
    const found = this.#hash.digest();
    if (found === this.#entry.sha256) return;
    const problem = `its checksum is ${found}, not ${this.#entry.sha256}`;
    throw new HubChecksumError(problem, { url: this.path });
  }

  close(): void {
    this.#held.length = 0;
    this.#stream?.return().catch(() => {});
    this.#stream = null;
  }

  async #advance(to: number): Promise<void> {
    this.#stream ??= this.#repo.client.range(this.#repo.pathOf(this.#entry.name), {
      from: this.#position,
      to: this.byteLength,
      byteLength: this.byteLength,
    });
    while (this.#position < to) {
      const { done, value } = await this.#stream.next();
      if (done) throw new HubError("it ended early", { url: this.path });
      this.#take(value);
      this.#onAdvance();
    }
  }

  /** Takes what came next, in parts that end where a wanted range begins. */
  #take(piece: Uint8Array): void {
    for (let done = 0; done < piece.byteLength;) {
      const from = this.#position, most = piece.byteLength - done;
      const next = this.#wanted!.find(({ byteOffset }) => byteOffset > from)?.byteOffset;
      const length = Math.min(most, (next ?? Infinity) - from);
      this.#takePart(piece.subarray(done, done + length));
      if (this.#position === next) this.#setBoundary();
      done += length;
    }
  }

  #takePart(part: Uint8Array): void {
    const from = this.#position, to = from + part.byteLength;
    this.#hash?.update(part);
    for (const range of this.#wanted!) {
      if (range.byteOffset >= to) break;
      const last = range.byteOffset + range.byteLength;
      const begin = Math.max(from, range.byteOffset), end = Math.min(to, last);
      if (begin >= end) continue;
      const held = this.#find(range) ?? this.#hold(range, begin);
      held?.bytes.set(part.subarray(begin - from, end - from), begin - held.byteOffset);
      if (held && end === last) {
        const at = range.byteOffset - held.byteOffset;
        const bytes = held.bytes.subarray(at, at + range.byteLength);
        this.#checksums.set(placeOf(range), crc32(bytes));
      }
    }
    this.#position = to;
  }

  /** Begins to hold a range; not one whose beginning went by in another process. */
  #hold(range: ByteRange, begin: number): Held | null {
    if (begin !== range.byteOffset) return null;
    const held = { ...range, bytes: new Uint8Array(range.byteLength) };
    this.#held.push(held);
    return held;
  }

  async #fetch({ byteOffset, byteLength }: ByteRange): Promise<Uint8Array<ArrayBuffer>> {
    const { client } = this.#repo, bytes = new Uint8Array(byteLength);
    const range = { from: byteOffset, to: byteOffset + byteLength, byteLength: this.byteLength };
    let at = 0;
    for await (const piece of client.range(this.#repo.pathOf(this.#entry.name), range)) {
      bytes.set(piece, at);
      at += piece.byteLength;
    }
    return bytes;
  }

  #find({ byteOffset, byteLength }: ByteRange): Held | undefined {
    return this.#held.find((held) =>
      held.byteOffset <= byteOffset &&
      byteOffset + byteLength <= held.byteOffset + held.byteLength
    );
  }
}

function placeOf({ byteOffset, byteLength }: ByteRange): string {
  return `${byteOffset}+${byteLength}`;
}
